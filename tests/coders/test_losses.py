"""The loss of every architecture, and its gradient in every weight, against dense autograd."""

from __future__ import annotations

from dataclasses import replace

import naive_coders as naive
import pytest
import torch
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.encoders import StepState
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.errors import CoderError

ROWS, D, D_OUT, D_SAE, K = 23, 10, 7, 64, 3
SINGLE = ["standard", "gated", "topk", "batch-topk", "jumprelu", "gradient", "discrete"]
RULES = ["standard", "gated", "topk", "batch-topk", "jumprelu"]


def config_of(architecture: str, activation: str | None = None, **more: object) -> CoderConfig:
    firing = activation or {"discrete": "standard"}.get(architecture, architecture)
    if architecture.endswith("coder") and activation is None:
        firing = "topk"
    k = K if firing in ("topk", "batch-topk", "matryoshka", "gradient") else None
    return CoderConfig(architecture=architecture, activation=activation, d_sae=D_SAE, k=k, **more)  # type: ignore[arg-type]


def random_coder(config: CoderConfig, shape: CoderShape, seed: int) -> Coder:
    """A coder with every weight drawn, none at its start."""
    coder = make_coder(config, shape, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return coder.train()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(coder: Coder) -> dict[str, Tensor]:
    named = {name.split(".")[-1]: parameter for name, parameter in coder.named_parameters()}
    return named


def check_gradients(coder: Coder, loss: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    names, parameters = zip(*coder.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    for name, a, b in zip(names, found, wanted, strict=True):
        a = torch.zeros_like(b) if a is None and b is not None else a
        b = torch.zeros_like(a) if b is None and a is not None else b
        assert a is not None and b is not None, name
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("revive", [False, True], ids=["alive", "auxk"])
@pytest.mark.parametrize("architecture", SINGLE)
def test_autoencoders(architecture: str, revive: bool) -> None:
    config = config_of(architecture, **({"preselect": 0} if architecture == "gradient" else {}))
    coder = random_coder(config, CoderShape(D, D), seed=1)
    x, grad = draw(ROWS, D, seed=2), draw(ROWS, D, seed=3)
    dead = torch.arange(D_SAE)[None] % 3 == 0 if revive else None
    state = StepState(
        k=2 if config.k else None, sparsity=0.7, dead=dead, revival="auxk" if revive else "none", aux_k=4
    )
    loss = coder.loss(CoderBatch(x, x, grad), state)

    w = weights_of(coder)
    rule = config.firing
    centred = x - w["b_dec"]
    latents = naive.fire(rule, w, centred, 2, config.bandwidth, grad)
    out = latents @ w["W_dec"] + w["b_dec"]
    expected = naive.squared(x - out)
    if rule in ("standard", "gated", "jumprelu"):
        norms = w["W_dec"].norm(dim=1)
        expected = expected + 0.7 * naive.penalty(rule, w, centred, latents, norms, config.bandwidth)
    if rule == "gated":
        gates = (centred @ w["W_enc"].T + w["b_enc"]).relu()
        expected = expected + naive.squared(x - gates @ w["W_dec"].detach() - w["b_dec"].detach())
    if dead is not None:
        expected = expected + naive.aux_loss(w, centred, (x - out).detach(), dead[0], 4, 1 / 32)
    check_gradients(coder, loss.loss, expected)
    torch.testing.assert_close(loss.error, (x - out).detach())
    torch.testing.assert_close(loss.fired[0].to_dense(), latents.detach())
    torch.testing.assert_close(torch.stack(list(loss.parts.values())).sum(), loss.loss.detach())


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("rule", RULES)
def test_transcoders(rule: str, skip: bool) -> None:
    config = config_of("skip-transcoder" if skip else "transcoder", rule)
    coder = random_coder(config, CoderShape(D, D_OUT), seed=4)
    x, target = draw(ROWS, D, seed=5), draw(ROWS, D_OUT, seed=6)
    loss = coder.loss(CoderBatch(x, target), StepState(sparsity=0.3))

    w = weights_of(coder)
    latents = naive.fire(rule, w, x, K, config.bandwidth, None)
    out = latents @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"] if skip else 0)
    expected = naive.squared(target - out)
    if rule in ("standard", "gated", "jumprelu"):
        norms = w["W_dec"].norm(dim=1)
        expected = expected + 0.3 * naive.penalty(rule, w, x, latents, norms, config.bandwidth)
    if rule == "gated":
        gates = (x @ w["W_enc"].T + w["b_enc"]).relu()
        expected = expected + naive.squared(target - gates @ w["W_dec"].detach() - w["b_dec"].detach())
    check_gradients(coder, loss.loss, expected)


def test_matryoshka() -> None:
    config = replace(config_of("matryoshka"), widths=(5, 20, D_SAE))
    coder = random_coder(config, CoderShape(D, D), seed=7)
    x = draw(ROWS, D, seed=8)
    loss = coder.loss(CoderBatch(x, x), StepState())
    w = weights_of(coder)
    latents = naive.fire("matryoshka", w, x - w["b_dec"], K, 0.0, None)
    nested = [latents[:, :n] @ w["W_dec"][:n] + w["b_dec"] for n in (5, 20, D_SAE)]
    expected = torch.stack([naive.squared(x - out) for out in nested]).mean()
    check_gradients(coder, loss.loss, expected)


def test_the_second_loss_of_top_k() -> None:
    config = config_of("topk", multi_k=True)
    coder = random_coder(config, CoderShape(D, D), seed=9)
    x = draw(ROWS, D, seed=10)
    loss = coder.loss(CoderBatch(x, x), StepState())
    w = weights_of(coder)
    outs = [naive.fire("topk", w, x - w["b_dec"], k, 0.0, None) @ w["W_dec"] + w["b_dec"] for k in (K, 4 * K)]
    check_gradients(coder, loss.loss, naive.squared(x - outs[0]) + naive.squared(x - outs[1]) / 8)
    assert loss.fired[0].active_counts().sum() <= K * ROWS


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("revive", [False, True], ids=["alive", "auxk"])
def test_cross_layer_transcoders(rule: str, revive: bool) -> None:
    n = 3
    config = config_of("cross-layer-transcoder", rule)
    coder = random_coder(config, CoderShape(D, D_OUT, n, n), seed=11)
    x, target = draw(ROWS, n, D, seed=12), draw(ROWS, n, D_OUT, seed=13)
    dead = torch.rand(n, D_SAE, generator=torch.Generator().manual_seed(0)) < 0.2 if revive else None
    state = StepState(sparsity=0.3, dead=dead, revival="auxk" if revive else "none", aux_k=4)
    loss = coder.loss(CoderBatch(x, target), state)

    named = dict(coder.named_parameters())
    b_dec = named["b_dec"].view(n, D_OUT)
    out, extra, per_layer = [b_dec[i].expand(ROWS, D_OUT) for i in range(n)], torch.zeros(()).double(), []
    for layer in range(n):
        w = {k.split(".")[-1]: v for k, v in named.items() if k.startswith(f"encoders.{layer}.")}
        w["W_dec"] = named[f"decoders.{layer}"]
        latents = naive.fire(rule, w, x[:, layer], K, config.bandwidth, None)
        written = (latents @ w["W_dec"]).unflatten(1, (n - layer, D_OUT))
        for later in range(layer, n):
            out[later] = out[later] + written[:, later - layer]
        norms = w["W_dec"].norm(dim=1)
        if rule in ("standard", "gated", "jumprelu"):
            extra = extra + 0.3 * naive.penalty(rule, w, x[:, layer], latents, norms, config.bandwidth)
        if rule == "gated":
            gates = (x[:, layer] @ w["W_enc"].T + w["b_enc"]).relu()
            centre = (target - b_dec.detach())[:, layer:].flatten(1)
            extra = extra + naive.squared(centre - gates @ w["W_dec"].detach())
        per_layer.append(w)
    predicted = torch.stack(out, dim=1)
    expected = (target - predicted).square().sum((1, 2)).mean() + extra
    if dead is not None:
        for layer, w in enumerate(per_layer):
            error = (target - predicted).detach()[:, layer:].flatten(1)
            expected = expected + naive.aux_loss(w, x[:, layer], error, dead[layer], 4, 1 / 32)
    check_gradients(coder, loss.loss, expected)
    if rule != "batch-topk":
        coder.eval()
        with torch.no_grad():
            encoded = coder.encode(x)
            torch.testing.assert_close(coder(x), predicted.detach())
            torch.testing.assert_close(coder.decode(encoded), predicted.detach())
            torch.testing.assert_close(coder.decode(coder.latents(x)), predicted.detach())
            for layer in range(n):  # type: ignore[attr-defined]
                assert torch.equal(coder.encode_layer(x[:, layer], layer), encoded[:, layer])


@pytest.mark.parametrize("rule", RULES)
def test_crosscoders(rule: str) -> None:
    n = 2
    config = config_of("crosscoder", rule)
    coder = random_coder(config, CoderShape(D, D, n, n), seed=14)
    x = draw(ROWS, n, D, seed=15)
    loss = coder.loss(CoderBatch(x, x), StepState(sparsity=0.3))
    w, flat = weights_of(coder), x.flatten(1)
    centred = flat - w["b_dec"]
    latents = naive.fire(rule, w, centred, K, config.bandwidth, None)
    out = latents @ w["W_dec"] + w["b_dec"]
    expected = naive.squared(flat - out)
    norms = w["W_dec"].unflatten(1, (n, D)).norm(dim=2).sum(1)
    if rule in ("standard", "gated", "jumprelu"):
        expected = expected + 0.3 * naive.penalty(rule, w, centred, latents, norms, config.bandwidth)
    if rule == "gated":
        gates = (centred @ w["W_enc"].T + w["b_enc"]).relu()
        expected = expected + naive.squared(flat - gates @ w["W_dec"].detach() - w["b_dec"].detach())
    check_gradients(coder, loss.loss, expected)
    assert coder(x).shape == x.shape


def test_auxk_reaches_the_encoder_of_dead_latents() -> None:
    """One public fused encoder gives them no gradient at all."""
    coder = random_coder(config_of("topk"), CoderShape(D, D), seed=16)
    with torch.no_grad():
        coder.b_enc[:8] = -100.0
    x = draw(ROWS, D, seed=17)
    dead = torch.arange(D_SAE)[None] < 8
    for revival in ("none", "auxk", "ghost"):
        coder.zero_grad()
        with torch.no_grad():
            coder.b_enc[:8] = -100.0 if revival == "none" else -0.1
        coder.loss(CoderBatch(x, x), StepState(k=1, dead=dead, revival=revival)).loss.backward()
        assert coder.W_enc.grad is not None
        moved = coder.W_enc.grad[:8].abs().sum()
        assert (moved == 0) if revival == "none" else (moved > 0), revival


def test_preselection_by_activation_is_what_it_says() -> None:
    config = config_of("gradient", preselect=2)
    coder = random_coder(config, CoderShape(D, D), seed=18)
    x, grad = draw(ROWS, D, seed=19), draw(ROWS, D, seed=20)
    found = coder.encode(x, grad)
    w = weights_of(coder)
    pre = (x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
    candidates = naive.keep_top(pre, 2 * K)
    effect = pre.relu() * (grad @ w["W_dec"].T).abs() * candidates
    torch.testing.assert_close(found, pre.relu() * naive.keep_top(effect, K))
    from interp.coders.encoders import measure_preselection

    full = naive.keep_top(pre.relu() * (grad @ w["W_dec"].T).abs(), K)
    recall = float((full * candidates).sum() / full.sum())
    assert measure_preselection(pre, grad, w["W_dec"], K, 2) == pytest.approx(recall)
    assert measure_preselection(pre, grad, w["W_dec"], K, D_SAE) == 1.0


@pytest.mark.parametrize("architecture", [*SINGLE, "matryoshka", "transcoder", "skip-transcoder"])
def test_units_are_taken_in(architecture: str) -> None:
    """A coder trained on scaled activations does the same on activations as they are."""
    other = architecture.endswith("transcoder")
    coder = random_coder(config_of(architecture), CoderShape(D, D_OUT if other else D), seed=21)
    coder.eval()
    for encoder in coder.encoder_list:
        if (
            hasattr(encoder, "threshold")
            and isinstance(encoder.threshold, Tensor)
            and encoder.name == "batch-topk"
        ):
            encoder.threshold.fill_(0.4)
    inputs, outputs = (3.0, 0.2) if other else (3.0, 3.0)
    x = draw(ROWS, D, seed=22)
    with torch.no_grad():
        before, latents = coder(x * inputs), coder.encode(x * inputs)
        coder.scale_units(inputs, outputs)
        torch.testing.assert_close(coder(x), before / outputs)
        torch.testing.assert_close(coder.encode(x), latents / outputs)
    assert torch.equal(latents != 0, coder.encode(x) != 0)


def test_a_transcoder_without_a_target_is_refused() -> None:
    coder = random_coder(config_of("transcoder", "topk"), CoderShape(D, D), seed=23)
    x = draw(ROWS, D, seed=24)
    with pytest.raises(CoderError, match="the batch's target is its input; give a target"):
        coder.loss(CoderBatch(x, x), StepState())
    coder.loss(CoderBatch(x, x.clone()), StepState())


@pytest.mark.parametrize("architecture", [*SINGLE, "matryoshka"])
def test_two_batches_before_one_backward(architecture: str) -> None:
    """What a step writes anew is used by no gradient."""
    coder = random_coder(config_of(architecture), CoderShape(D, D), seed=25)
    batches = [
        CoderBatch(x, x, draw(ROWS, D, seed=28)) for x in (draw(ROWS, D, seed=26), draw(ROWS, D, seed=27))
    ]
    parameters = list(coder.parameters())
    alone = [
        torch.autograd.grad(coder.loss(batch, StepState(sparsity=0.2)).loss, parameters) for batch in batches
    ]
    losses = [coder.loss(batch, StepState(sparsity=0.2)).loss for batch in batches]
    together = torch.autograd.grad(losses[0] + losses[1], parameters)
    for a, b, both in zip(*alone, together, strict=True):
        torch.testing.assert_close(a + b, both)
