"""Each rule against its formula written out by hand, on the part of a model that it stands at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, specimen
from naive_relevance import wide
from tiny_models import make_hf_model
from torch import Tensor
from torch.nn import functional as F

import interp
from interp.kernels.relevance.secants import SECANTS
from interp.models.model import Model


def _param(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])


def part_at(model: Model, place: str) -> Any:
    """The module that has the hook points of a place."""
    names = (f"{place}.{own}" for own in ("hook_in", "hook_out", "hook_post", "hook_scale"))
    points = [model.hook_points[name] for name in names if name in model.hook_points]
    # a point on a module's input is no part of it
    return next(
        part
        for point in points
        for part in model.module.modules()
        if any(own is point for own in part.children())
    )


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# name, place, the untouched module, whether it centres, what is added to its weight
NORMS = [
    ("gpt2", "blocks.0.ln1", "transformer.h.0.ln_1", True, 0),
    ("gpt2", "ln_final", "transformer.ln_f", True, 0),
    ("gpt_neox", "blocks.1.ln2", "gpt_neox.layers.1.post_attention_layernorm", True, 0),
    ("llama", "blocks.0.ln2", "model.layers.0.post_attention_layernorm", False, 0),
    ("gemma2", "blocks.1.ln1", "model.layers.1.input_layernorm", False, 1),
    ("gemma2", "blocks.1.ln1_post", "model.layers.1.post_attention_layernorm", False, 1),
    ("gemma2", "blocks.1.ln2", "model.layers.1.pre_feedforward_layernorm", False, 1),
    ("gemma2", "blocks.1.ln2_post", "model.layers.1.post_feedforward_layernorm", False, 1),
    ("gemma2", "ln_final", "model.norm", False, 1),
    ("qwen3", "blocks.0.ln1", "model.layers.0.input_layernorm", False, 0),
    ("qwen3", "blocks.0.attn.q_norm", "model.layers.0.self_attn.q_norm", False, 0),
    ("qwen3", "blocks.1.attn.k_norm", "model.layers.1.self_attn.k_norm", False, 0),
    ("plain", "blocks.1.ln2", "blocks.1.ln2", True, 0),
    ("gated", "blocks.0.ln1", "blocks.0.ln1", False, 0),
    ("hooked", "blocks.0.ln1", "blocks.0.ln1", True, 0),
    ("hooked_grouped", "blocks.1.ln2", "blocks.1.ln2", False, 0),
]


@pytest.mark.parametrize(
    ("name", "place", "bare", "centres", "plus"),
    [pytest.param(*row, marks=_param(row[0]).marks) for row in NORMS],
)
def test_a_norm_s_scale_is_a_constant(name: str, place: str, bare: str, centres: bool, plus: int):
    """Its vector-Jacobian product is the gain over the scale, and the centring; epsilon is in the scale."""
    model, untouched = wide(name)
    own = untouched.get_submodule(bare)
    gain = (own.w if hasattr(own, "w") else own.weight).detach() + plus
    eps = own.variance_epsilon if hasattr(own, "variance_epsilon") else own.eps
    # from far below the root of epsilon to far above
    sizes = torch.logspace(-5, 2, 8, dtype=torch.float64)[:, None]
    x = ((random(8, 5, len(gain)) + 0.5) * sizes[..., None]).requires_grad_()
    g = random(*x.shape, seed=1)
    with interp.relevance_rules(model):
        y = part_at(model, place)(x)
    (found,) = torch.autograd.grad(y, x, g)
    n = len(gain)
    centring = torch.eye(n, dtype=torch.float64) - (1 / n if centres else 0)
    centred = x.detach() @ centring
    scale = (torch.linalg.vector_norm(centred, dim=-1, keepdim=True) ** 2 / n + eps) ** 0.5
    expected = (g * gain / scale) @ centring
    error = (found - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))
    # RMSNorms of TransformerLens and Hugging Face have their scale in fp32; the rule is exact but for theirs
    assert error.max() < (1e-6 if name in HOOKED and not centres else 1e-12)
    # the ordinary gradient has another term, which the rule leaves out
    (ordinary,) = torch.autograd.grad(own(x), x, g)
    assert (ordinary - expected)[4:].abs().max() > 1e-3 * expected[4:].abs().max()
    with interp.relevance_rules(model, "gradient"):
        again = torch.autograd.grad(part_at(model, place)(x), x, g)[0]
    torch.testing.assert_close(again, ordinary, rtol=1e-6, atol=1e-6 * float(ordinary.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "plain", _param("hooked")])
def test_gain_and_bias_of_a_norm_have_their_gradient(name: str):
    """What is multiplied by a constant scale is as it was, so parameters see what they always see."""
    model, _ = wide(name)
    part = part_at(model, "ln_final")
    parameters = [p for _, p in part.named_parameters()]
    x, g = random(2, 4, 36), random(2, 4, 36, seed=1)
    with interp.relevance_rules(model):
        found = torch.autograd.grad(part(x), parameters, g)
    for mine, ordinary in zip(found, torch.autograd.grad(part(x), parameters, g), strict=True):
        torch.testing.assert_close(mine, ordinary, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "centres", "plus"), [("gpt2", True, 0), ("gemma2", False, 1)])
def test_a_norm_in_half_precision(name: str, centres: bool, plus: int, dtype: torch.dtype):
    model = interp.load_model(make_hf_model(name, dtype=dtype))
    part = part_at(model, "blocks.0.ln1")
    x, g = random(4, 5, 36, dtype=dtype).requires_grad_(), random(4, 5, 36, seed=1, dtype=dtype)
    with interp.relevance_rules(model):
        (found,) = torch.autograd.grad(part(x), x, g)
    assert found.dtype == dtype
    gain = next(part.parameters()).detach().double() + plus
    centred = x.detach().double()
    centred = centred - centred.mean(-1, keepdim=True) if centres else centred
    expected = g.double() * gain / centred.pow(2).mean(-1, keepdim=True).sqrt()
    expected = expected - expected.mean(-1, keepdim=True) if centres else expected
    assert (found.double() - expected).abs().max() < 0.01 * expected.abs().max()


SILU: Callable[[Tensor], Tensor] = F.silu


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


MLPS = {
    "gpt2": gelu_tanh,
    "gpt_neox": F.gelu,
    "plain": gelu_tanh,
    "no_norm": F.relu,
    "hooked": gelu_tanh,
    "llama": SILU,
    "gemma2": gelu_tanh,
    "qwen3": SILU,
    "gated": SILU,
    "hooked_grouped": SILU,
}
MAPS = {
    "gpt2": ("transformer.h.0.mlp", "", "c_fc.weight", "c_proj.weight"),
    "gpt_neox": ("gpt_neox.layers.0.mlp", "", "dense_h_to_4h.weight", "dense_4h_to_h.weight"),
    "llama": ("model.layers.0.mlp", "gate_proj.weight", "up_proj.weight", "down_proj.weight"),
}
"""Where the maps of an MLP are, which read and which write; those of Linear modules lie transposed."""


def maps_of(name: str) -> tuple[list[tuple[Tensor, Tensor | float]], Tensor]:
    """(weight, bias) of the maps into the MLP of layer 0, the gate first; and the map out of it."""
    _, untouched = wide(name)
    key = name if name in MAPS else "llama" if name in ("gemma2", "qwen3") else None
    if key is None:
        mlp = untouched.get_submodule("blocks.0.mlp")
        kinds = ("gate", "in") if hasattr(mlp, "W_gate") else ("in",)
        # a gated HookedTransformer adds b_in to the product, and has none to the gate
        late = name == "hooked_grouped"
        into = [(getattr(mlp, f"W_{kind}"), 0.0 if late else getattr(mlp, f"b_{kind}")) for kind in kinds]
        return [(w.detach(), b if isinstance(b, float) else b.detach()) for w, b in into], mlp.W_out.detach()
    place, *names = MAPS[key]
    parts = {own: p.detach() for own, p in untouched.get_submodule(place).named_parameters()}
    turned = {own: p if name == "gpt2" or p.ndim == 1 else p.T for own, p in parts.items()}
    into = [(turned[own], parts.get(own.replace("weight", "bias"), 0.0)) for own in names[:-1] if own]
    return into, turned[names[-1]]


@pytest.mark.parametrize("activation", ["identity", "gradient"])
@pytest.mark.parametrize("gate", ["half", "gradient"])
@pytest.mark.parametrize("name", list(map(_param, MLPS)))
def test_an_mlp_by_hand(name: str, gate: str, activation: str):
    """Identity-rule, Half-rule and both: an own product rule from the maps of the untouched model."""
    model, act = wide(name)[0], MLPS[name]
    into, out = maps_of(name)
    x = random(3, 5, 36).requires_grad_()
    g = random(3, 5, 36, seed=1)
    rules = interp.RelevanceRules(gate=gate, activation=activation)  # type: ignore[arg-type]
    with interp.relevance_rules(model, rules):
        (found,) = torch.autograd.grad(part_at(model, "blocks.0.mlp")(x), x, g)
    at_post, h = g @ out.T, 1e-6
    first, *rest = [(x @ weight + bias).detach() for weight, bias in into]
    slope = act(first) / first if activation == "identity" else (act(first + h) - act(first - h)) / (2 * h)
    if not rest:
        expected = (at_post * slope) @ into[0][0].T
    else:
        share = 0.5 if gate == "half" else 1.0
        expected = (share * at_post * rest[0] * slope) @ into[0][0].T + (share * at_post * act(first)) @ into[
            1
        ][0].T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("act_fn", sorted(set(SECANTS) - {"identity"}))
def test_every_activation_passes_its_relevance_on(family: str, act_fn: str, tokens: Tensor):
    """What enters is as relevant as what leaves; a gate halves it. Both as each model computes them."""
    option = "activation_function" if family == "gpt2" else "hidden_act"
    model = interp.load_model(make_hf_model(family, n_layers=1, **{option: act_fn}).double())
    sites = [f"{site}[0]" for site in ("mlp_pre", "mlp_pre_linear", "mlp_post") if site in model.components]
    weights = random(3, 9, 53)
    with interp.relevance_rules(model):
        cache = interp.capture(model, tokens, sites, gradients_of=lambda logits: (logits * weights).sum())
    assert cache.grads is not None
    *entering, leaving = [cache[site] * cache.grads[site] for site in sites]
    for relevance in entering:
        torch.testing.assert_close(relevance * len(entering), leaving, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "share"), [("gpt2", 0.5), ("llama", 0.25), ("no_norm", 0.5)])
def test_at_zero_the_coefficient_is_the_limit(name: str, share: float, tokens: Tensor):
    """Half of what arrives, halved again by a gate; an epsilon would make it 0."""
    model = wide(name)[0]
    sites = [
        site for site in ("mlp_pre[0]", "mlp_post[0]", "mlp_pre_linear[0]") if site[:-3] in model.components
    ]
    weights = random(3, 9, 53)
    with interp.relevance_rules(model), interp.intervene(model, interp.replace("mlp_pre[0]", 0.0)):
        cache = interp.capture(model, tokens, sites, gradients_of=lambda logits: (logits * weights).sum())
    assert cache.grads is not None
    up = cache["mlp_pre_linear[0]"] if name == "llama" else 1.0
    # an activation replaced everywhere still has a coefficient: the gradient with respect to what it became
    torch.testing.assert_close(cache.grads["mlp_pre[0]"], share * up * cache.grads["mlp_post[0]"])
    assert cache.grads["mlp_pre[0]"].abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["identity", "gradient"])
def test_the_cap_of_the_logits(rule: str, tokens: Tensor):
    model = specimen("gemma2").model
    cap = 6.0
    raw: list[Tensor] = []
    keep = model.hook_points["unembed.hook_out"].register_forward_hook(lambda m, i, out: raw.append(out))
    g = random(3, 9, 53, dtype=torch.float32)
    try:
        with interp.relevance_rules(model, interp.RelevanceRules(soft_cap=rule)):  # type: ignore[arg-type]
            logits = model(tokens)
    finally:
        keep.remove()
    (found,) = torch.autograd.grad(logits, raw[0], g)
    x = raw[0].detach().double()
    slope = cap * (x / cap).tanh() / x if rule == "identity" else 1 - (x / cap).tanh() ** 2
    torch.testing.assert_close(found.double(), g.double() * slope, rtol=1e-5, atol=1e-6)
    assert x.abs().max() > cap, "the cap is reached"
