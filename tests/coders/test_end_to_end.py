"""End-to-end fine-tuning: gradients of a dense fp64 reference, a KL that falls, and a model left as it was."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from model_zoo import specimen
from naive_coders import fire, penalty
from random_coders import random_coder
from torch import Tensor

import interp
from interp.coders.data_files import generate_tokens
from interp.coders.end_to_end import finetune_coder
from interp.coders.end_to_end_training import EndToEndTraining
from interp.coders.evaluate import evaluate_coder
from interp.coders.sources import stream_activations
from interp.coders.train import train_coder
from interp.coders.wiring import wire
from interp.errors import CoderError

D_MODEL, WIDTH = 36, 0.5
SPARSITY = 0.03


def _sae(rule: str, site: str = "mlp_out[1]", **options: Any) -> Any:
    options = {"k": None} | options if rule in ("standard", "jumprelu", "gated") else options
    return random_coder(rule, D_MODEL, sites=(site,), **options)


def _transcoder(name: str, layers: tuple[int, ...] = (1,), **options: Any) -> Any:
    sites, targets = (tuple(f"{part}[{i}]" for i in layers) for part in ("mlp_in", "mlp_out"))
    return random_coder(name, D_MODEL, sites=sites, targets=targets, **options)


CODERS: dict[str, Callable[[], Any]] = {
    "topk": lambda: _sae("topk"),
    "batch-topk": lambda: _sae("batch-topk"),
    "standard": lambda: _sae("standard"),
    "jumprelu": lambda: _sae("jumprelu", bandwidth=WIDTH),
    "heads": lambda: _sae("topk", "z[1]"),
    "residual": lambda: _sae("topk", "resid_post[0]"),
    "transcoder": lambda: _transcoder("transcoder"),
    "skip": lambda: _transcoder("skip-transcoder", activation="batch-topk"),
    "cross-layer": lambda: _transcoder("cross-layer-transcoder", (0, 1)),
}


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 53, (4, 9), generator=torch.Generator().manual_seed(5))


def hooks_of(model: Any) -> list[Any]:
    tables = ("_forward_hooks", "_forward_pre_hooks")
    parts = [*model.module.modules(), *model.hook_points.values()]
    found = [sorted(getattr(part, table)) for part in parts for table in tables]
    return [*found, list(model.active_edits), sorted(model.edit_handles), dict(model.attached)]


def started(model: Any, coder: Any, tokens: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
    """A fine-tuning before its first step, and what the clean model does."""
    (wiring,) = wire(model, coder)
    given = {"loss": "kl", "mse_weight": "balanced", "sparsity": 0.0, "rate": 1e-3, "planned": None}
    run = EndToEndTraining(model, wiring, **(given | {"skip_first": True} | options))
    clean = run.run_clean(tokens, mask)
    run.start(clean)
    return run, clean


def reference(
    run: Any, naive: Any, tokens: Tensor, loss: str, weight: float | str, sparsity: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradients, dense and in fp64, of the transformer written out."""
    coder, scales = run.coder, run.placed.scales
    weights = {name: value.detach().double().requires_grad_() for name, value in coder.named_parameters()}
    clean_record: dict[Any, Tensor] = {}
    clean = naive(tokens, record=clean_record).log_softmax(-1)
    record: dict[Any, Tensor] = {}
    places = [(site.component, site.layer) for site in run.wiring.reads]
    targets = [(site.component, site.layer) for site in run.wiring.writes]
    outputs, penalties = {}, {}

    def latents_of(slot: int, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x[:, 1:].flatten(2).flatten(0, 1) * scales.inputs
        w = {key.split(".")[-1]: value for key, value in weights.items() if f"encoders.{slot}." in key}
        w["W_dec"] = weights.get("W_dec", weights.get(f"decoders.{slot}"))
        centred = rows - weights["b_dec"] if coder.centres_input else rows
        rule = coder.config.firing
        found = fire(rule, w, centred, coder.config.k or 0, WIDTH, None)
        if sparsity:
            penalties[slot] = penalty(rule, w, centred, found, w["W_dec"].norm(dim=1), WIDTH)
        return found, rows

    def predict(slot: int) -> Callable[[Tensor], Tensor]:
        def edit(value: Tensor) -> Tensor:
            d = coder.d_out
            if "decoders.0" in weights:
                out = weights["b_dec"][slot * d : (slot + 1) * d]
                for source in range(slot + 1):
                    found, _ = latents_of(source, record[places[source]])
                    out = out + found @ weights[f"decoders.{source}"][:, (slot - source) * d :][:, :d]
            else:
                found, rows = latents_of(0, value if places == targets else record[places[0]])
                out = found @ weights["W_dec"] + weights["b_dec"]
                if "W_skip" in weights:
                    out = out + rows @ weights["W_skip"]
            outputs[slot] = out
            new = (out / scales.outputs).view(*value[:, 1:].shape)
            return torch.cat([value[:, :1], new], 1)

        return edit

    edits = {place: predict(slot) for slot, place in enumerate(targets)}
    logs = naive(tokens, edits=edits, record=record).log_softmax(-1)
    before, after = clean[:, 1:-1].flatten(0, 1), logs[:, 1:-1].flatten(0, 1)
    main = (before.exp() * (before - after)).sum(1).mean()
    if loss == "ce":
        main = -after.gather(1, tokens[:, 2:].flatten()[:, None]).mean()
    wanted = (
        torch.stack([clean_record[p][:, 1:].flatten(2).flatten(0, 1) for p in targets], 1) * scales.outputs
    )
    made = torch.stack([outputs[slot] for slot in range(len(targets))], 1)
    fvu = (wanted - made).square().sum() / (wanted - wanted.mean(0)).square().sum()
    share = (main / fvu).detach() if weight == "balanced" else weight
    total = main + share * fvu + sparsity * sum(penalties.values())
    grads = torch.autograd.grad(total, list(weights.values()))
    return total.detach(), dict(zip(weights, grads, strict=True))


@pytest.mark.parametrize("loss, weight", [("kl", "balanced"), ("ce", 0.7), ("kl", 0.0)])
@pytest.mark.parametrize("name", CODERS)
def test_gradients_are_those_of_the_dense_computation(
    name: str, loss: str, weight: float | str, tokens: Tensor
) -> None:
    found = specimen("gpt2")
    sparsity = SPARSITY if name in ("standard", "jumprelu") else 0.0
    options = {"loss": loss, "mse_weight": weight, "sparsity": sparsity}
    run, clean = started(found.model, CODERS[name](), tokens, **options)
    total, _ = run.losses(clean)
    grads = torch.autograd.grad(total, list(run.coder.parameters()))
    expected, by_name = reference(run, found.naive, tokens, loss, weight, sparsity)
    torch.testing.assert_close(total.detach().double(), expected, rtol=2e-5, atol=0)
    for (parameter, wanted), got in zip(by_name.items(), grads, strict=True):
        scale = float(wanted.abs().max())
        assert scale > 0, parameter
        assert float((got.double() - wanted).abs().max()) < 2e-4 * scale, parameter


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_gradients_on_other_families(family: str, tokens: Tensor) -> None:
    found = specimen(family)
    run, clean = started(found.model, CODERS["skip"](), tokens)
    grads = torch.autograd.grad(run.losses(clean)[0], list(run.coder.parameters()))
    _, expected = reference(run, found.naive, tokens, "kl", "balanced", 0.0)
    for (parameter, wanted), got in zip(expected.items(), grads, strict=True):
        assert float((got.double() - wanted).abs().max()) < 2e-4 * float(wanted.abs().max()), parameter


def test_padded_prompts_weigh_by_their_tokens(tokens: Tensor) -> None:
    """A padded batch is the mean over tokens of its prompts alone."""
    model, coder = specimen("gpt2").model, CODERS["topk"]()
    lengths = [9, 4, 7]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    run, clean = started(model, coder, tokens[:3], mask, mse_weight=0.0)
    together = torch.autograd.grad(run.losses(clean)[0], list(run.coder.parameters()))
    assert int(clean.counted.sum()) == sum(lengths) - 3
    summed = [torch.zeros_like(part) for part in together]
    for row, length in enumerate(lengths):
        alone = run.run_clean(tokens[row : row + 1, :length], None)
        total = run.losses(alone)[0] * (length - 2)
        grads = torch.autograd.grad(total, list(run.coder.parameters()))
        summed = [a + b for a, b in zip(summed, grads, strict=True)]
    for a, b in zip(together, summed, strict=True):
        n = sum(lengths) - 6
        torch.testing.assert_close(a, b / n, atol=2e-6 * float(b.abs().max()) + 1e-9, rtol=1e-3)


@pytest.mark.parametrize("name", ["topk", "batch-topk", "jumprelu", "skip", "cross-layer"])
def test_almost_no_learning_almost_changes_nothing(name: str, tokens: Tensor) -> None:
    """The units of training are taken out again."""
    coder = CODERS[name]()
    sparsity = SPARSITY if name == "jumprelu" else None
    # unit rows would be made of the random ones
    object.__setattr__(coder.config, "unit_decoder", False)
    if name == "batch-topk":
        coder.encoder.threshold.fill_(0.4)
    found = finetune_coder(
        specimen("gpt2").model, coder, tokens, learning_rate=1e-12, sparsity=sparsity, progress=False
    )
    for name_, value in coder.named_parameters():
        torch.testing.assert_close(dict(found.named_parameters())[name_], value, atol=1e-5, rtol=1e-5)


def test_batch_topk_keeps_its_l0_and_follows_its_threshold(tokens: Tensor) -> None:
    coder = CODERS["batch-topk"]()
    found = finetune_coder(specimen("gpt2").model, coder, tokens, tokens=200, progress=False)
    assert found.history.curves["l0"].max() <= coder.config.k
    assert float(found.encoder.threshold) > 0 > float(coder.encoder.threshold)
    assert not found.training


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    model = interp.load_model("mix-4l")
    data = generate_tokens(model, 160)
    config = interp.CoderConfig("topk", d_sae=96, k=6)
    rows = stream_activations(model, data, "mlp_out[2]")
    return model, train_coder(config, rows, batch_size=512, learning_rate=3e-3, progress=False)


def test_the_kl_falls_on_other_prompts_and_the_model_stays(trained: tuple[Any, Any]) -> None:
    model, coder = trained
    weights, before, hooks = (
        deepcopy(model.module.state_dict()),
        deepcopy(coder.state_dict()),
        hooks_of(model),
    )
    asks = [parameter.requires_grad for parameter in model.module.parameters()]
    data, others = (generate_tokens(model, 160, seed=seed) for seed in (3, 4))
    tuned = finetune_coder(model, coder, data, tokens=10_000, progress=False)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert asks == [parameter.requires_grad for parameter in model.module.parameters()]
    assert all(torch.equal(value, before[name]) for name, value in coder.state_dict().items())
    assert hooks_of(model) == hooks
    kl = [
        evaluate_coder(model, one, others[:48], progress=False).mean("kl_substituted")
        for one in (coder, tuned)
    ]
    assert kl[1] < 0.85 * kl[0]
    told = tuned.metadata["finetuning"]
    assert told["tokens"] >= 10_000 and told["model"] == "mix-4l"
    assert told["figures"]["kl"] == tuned.history.last()["kl"]
    assert tuned.metadata["tokens"] == coder.metadata["tokens"] and "finetuning" not in coder.metadata
    assert set(tuned.history.curves) == {"loss", "kl", "ce", "fvu", "l0", "learning_rate"}
    assert torch.allclose(tuned.W_dec.norm(dim=1), torch.ones(96), atol=1e-4)


def test_the_same_seed_gives_the_same_coder(tokens: Tensor) -> None:
    model, coder = specimen("gpt2").model, CODERS["topk"]()
    many = tokens.repeat(3, 1)
    found = [
        finetune_coder(model, coder, many, batch_size=2, seed=seed, progress=False).W_enc
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_hooks_are_gone_after_an_exception(tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model, coder = specimen("gpt2").model, CODERS["cross-layer"]()
    before = hooks_of(model)

    def interrupt(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(coder), "decode_layer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune_coder(model, coder, tokens, progress=False)
    assert hooks_of(model) == before


def test_a_loss_that_is_not_finite_stops_it(tokens: Tensor) -> None:
    coder = CODERS["topk"]()
    coder.b_dec.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 0"):
        finetune_coder(specimen("gpt2").model, coder, tokens, progress=False)


def test_works_while_gradients_are_off(tokens: Tensor) -> None:
    model, coder = specimen("gpt2").model, CODERS["topk"]()
    with torch.no_grad():
        found = finetune_coder(model, coder, tokens, progress=False)
    assert not torch.equal(found.W_enc, coder.W_enc)


def test_refusals(tokens: Tensor) -> None:
    model, coder = specimen("gpt2").model, CODERS["topk"]()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("did you mean 'kl'", {"loss": "kll"}),
        ("number from 0 on, or 'balanced'", {"mse_weight": "equal"}),
        ("mse_weight must be a finite number", {"mse_weight": -1.0}),
        ("learning_rate must be", {"learning_rate": 0.0}),
        ("tokens must be at least 1", {"tokens": 0}),
        ("batch_size must be at least 1", {"batch_size": 0}),
        ("no sparsity penalty", {"sparsity": 0.1}),
        ("given for mlp_out.0.", {"site": "mlp_out[0]"}),
    ]
    for message, options in cases:
        with pytest.raises(CoderError, match=message):
            finetune_coder(model, coder, tokens, progress=False, **options)
    with pytest.raises(CoderError, match="give sparsity"):
        finetune_coder(model, CODERS["standard"](), tokens, progress=False)
    with pytest.raises(CoderError, match="no token to learn from"):
        finetune_coder(model, coder, tokens[:, :2], tokens=100, progress=False)
    with pytest.raises(CoderError, match="cannot be attached"):
        crosscoder = random_coder("crosscoder", D_MODEL, sites=("mlp_out[0]", "mlp_out[1]"))
        finetune_coder(model, crosscoder, tokens, progress=False)
