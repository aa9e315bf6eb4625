"""All rules at once, against a transformer without hooks and against the published method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, Specimen, _make_hooked
from naive_interventions import Prompts, random_prompts
from naive_relevance import EXACT, HELD, NaiveRelevance, Place, wide
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp.models.cache import ActivationCache
from interp.models.model import Model
from interp.models.relevance import RULES
from interp.types import Site


def _param(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def metric_of(prompts: Prompts, d_vocab: int = 53) -> Callable[[Tensor], Tensor]:
    """A nonlinear metric of all real tokens, one number a row."""
    weights = random(*prompts.tokens.shape, d_vocab, seed=3) * prompts.real[..., None]

    def metric(logits: Tensor) -> Tensor:
        return (logits.log_softmax(-1) * weights.to(logits)).flatten(1).sum(1)

    return metric


def worst_error(
    model: Model, cache: ActivationCache, expected: dict[Place, Tensor], real: Tensor
) -> tuple[float, str]:
    """Largest difference of gradients at any site, relative to the largest gradient there, and where."""
    assert cache.grads is not None
    assert set(model.components) <= {component for component, _ in expected}
    errors = []
    for (component, layer), value in expected.items():
        if component not in model.components:
            continue
        found = cache.grads[Site(component, None if component == "embed" else layer)].double()
        if component == "pattern":
            # what the pattern of a padded token or to one is worth depends on what padding holds
            seen = (real[:, None, :, None] & real[:, None, None]).expand_as(value)
            found, value = found[seen], value[seen]
        size = float(value.abs().max())
        errors.append((float((found - value).abs().max()) / (size or 1.0), f"{component}[{layer}]"))
    return max(errors)


HOOKED_OPTIONS: tuple[dict[str, Any], ...] = (
    {"normalization_type": "RMS", "use_normalization_before_and_after": True, "attn_scores_soft_cap": 4.0},
    {"normalization_type": "LN", "use_qk_norm": True, "output_logits_soft_cap": 6.0},
    {"normalization_type": "LNPre", "parallel_attn_mlp": True, "output_logits_soft_cap": 6.0},
    {"normalization_type": None, "use_qk_norm": True, "gated_mlp": True},
)


@pytest.mark.parametrize("rules", list(HELD))
def test_every_coefficient_is_that_of_a_transformer_written_out(kind: Specimen, rules: str):
    assert set(HELD) == set(RULES)
    naive = NaiveRelevance(kind.model, HELD[rules])
    for padding in ("left", "right"):
        prompts = random_prompts(5, 3, 9, padding)
        metric = metric_of(prompts)
        with interp.relevance_rules(kind.model, rules):
            cache = interp.capture(
                kind.model,
                prompts.tokens,
                kind.model.components,
                attention_mask=prompts.mask,
                gradients_of=metric,
            )
        _, expected = naive.coefficients(metric, prompts.tokens, prompts.mask)
        assert worst_error(kind.model, cache, expected, prompts.real) < (1e-5, "")


@pytest.mark.parametrize("rules", list(HELD))
@pytest.mark.parametrize("name", list(map(_param, EXACT)))
def test_in_float64_they_are_the_same_to_rounding(name: str, rules: str, tokens: Tensor):
    model = wide(name)[0]
    metric = metric_of(Prompts(tokens))
    with interp.relevance_rules(model, rules):
        cache = interp.capture(model, tokens, model.components, gradients_of=metric)
    _, expected = NaiveRelevance(model, HELD[rules]).coefficients(metric, tokens)
    assert worst_error(model, cache, expected, torch.ones_like(tokens).bool()) < (1e-12, "")


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("rules", list(HELD))
@pytest.mark.parametrize("options", HOOKED_OPTIONS, ids=list(map(",".join, HOOKED_OPTIONS)))
def test_a_hooked_transformer_with_everything(options: dict[str, Any], rules: str, tokens: Tensor):
    """Norms that show only their divisor, at every place they can have; caps, and blocks in parallel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _make_hooked({"act_fn": "gelu", **options})
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model = interp.load_model(module)
    metric = metric_of(Prompts(tokens))
    with interp.relevance_rules(model, rules):
        cache = interp.capture(model, tokens, model.components, gradients_of=metric)
    _, expected = NaiveRelevance(model, HELD[rules]).coefficients(metric, tokens)
    assert worst_error(model, cache, expected, torch.ones_like(tokens).bool()) < (1e-5, "")


def published_run(module: Any, tokens: Tensor) -> tuple[Tensor, dict[Place, Tensor]]:
    """GPT-2 as RelP's own implementation changes it, on Hugging Face weights.

    LayerNorm divides by a detached scale, GELU is x times a detached act(x) / x; the rest is as ever.
    """
    w = {name: p.detach() for name, p in module.named_parameters()}
    config, nodes = module.config, {}

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return x / scale.detach() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def node(component: str, layer: int, value: Tensor) -> Tensor:
        nodes[component, layer] = value
        return value

    x = (
        w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]]
    ).requires_grad_()
    for layer in range(config.n_layer):
        at = f"transformer.h.{layer}"
        x = node("resid_pre", layer, x)
        qkv = norm(x, f"{at}.ln_1") @ w[f"{at}.attn.c_attn.weight"] + w[f"{at}.attn.c_attn.bias"]
        q, k, v = (part.unflatten(-1, (config.n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        future = torch.ones(tokens.shape[1], tokens.shape[1]).bool().triu(1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
        z = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + node("attn_out", layer, z @ w[f"{at}.attn.c_proj.weight"] + w[f"{at}.attn.c_proj.bias"])
        pre = norm(x, f"{at}.ln_2") @ w[f"{at}.mlp.c_fc.weight"] + w[f"{at}.mlp.c_fc.bias"]
        act = 0.5 * pre * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (pre + 0.044715 * pre**3)))
        post = pre * (act / pre).detach()
        x = x + node("mlp_out", layer, post @ w[f"{at}.mlp.c_proj.weight"] + w[f"{at}.mlp.c_proj.bias"])
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T, nodes


def test_relevance_patching_is_the_published_one():
    """``sum (a_clean - a_corrupted) * coefficient`` on a GPT-2, each prompt, layer and position."""
    bare = make_hf_model("gpt2", seed=4).double()
    model = interp.load_model(make_hf_model("gpt2", seed=4).double())
    clean, corrupted = (random_prompts(seed, 4, 8, "none").tokens for seed in (20, 21))
    answers, wrong = torch.tensor([3, 9, 30, 41]), torch.tensor([8, 2, 31, 11])
    task = interp.tasks.from_tokens(clean, corrupted, answers, wrong)
    sites = ["resid_pre", "attn_out", "mlp_out"]
    scores = interp.patch(model, task, sites, method="relevance", progress=False)
    _, source = published_run(bare, clean)
    logits, base = published_run(bare, corrupted)
    torch.testing.assert_close(logits, bare(corrupted).logits, rtol=1e-9, atol=1e-9)
    rows = torch.arange(4)
    metric = logits[rows, -1, answers] - logits[rows, -1, wrong]
    places = [(site, layer) for site in sites for layer in range(2)]
    grads = torch.autograd.grad(metric.sum(), [base[place] for place in places])
    for (site, layer), coefficient in zip(places, grads, strict=True):
        change = source[site, layer] - base[site, layer]
        expected = (change * coefficient).sum(-1).detach().T
        per_prompt = scores[site].per_prompt
        assert per_prompt is not None
        assert scores[site].axes == ("layer", "pos")
        torch.testing.assert_close(per_prompt[layer] - metric.detach(), expected, rtol=1e-9, atol=1e-9)
        mean = scores[site].raw[layer] - metric.detach().mean()
        torch.testing.assert_close(mean, expected.mean(-1), rtol=1e-9, atol=1e-9)
    # and it is another number than attribution patching gives
    first_order = interp.patch(model, task, sites, method="attribution", progress=False)
    for site in sites:
        difference = (first_order[site].raw - scores[site].raw).abs().max()
        assert difference > 0.05 * scores[site].raw.abs().max(), site
