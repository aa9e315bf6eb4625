"""Evaluation of coders in a model, beside the same numbers written out one prompt at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_zoo import specimen
from random_coders import D_SAE, random_coder
from torch import Tensor

import interp
from interp.coders.evaluate import _recovered, evaluate_coder
from interp.coders.substitute import substitute
from interp.errors import CoderError, RecordError
from interp.plots.coder_evaluation import plot_coder_evaluation
from interp.results.coder_evaluation import CoderEvaluation, density_histogram


def prompts(n: int = 7, longest: int = 9) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, longest + 1, (n,), generator=draw).tolist()
    return [torch.randint(1, 53, (length,), generator=draw) for length in lengths]


def coders(model: Any, which: str) -> Any:
    layers = range(2)
    pairs = [tuple(f"{name}[{i}]" for i in layers) for name in ("mlp_in", "mlp_out")]
    heads = model.traits.n_heads * model.traits.d_head
    return {
        "topk": lambda: random_coder("topk", 36, sites=("resid_post[0]",)),
        "heads": lambda: random_coder("topk", heads, sites=("z[1]",)),
        "skip": lambda: random_coder("skip-transcoder", 36, sites=("mlp_in[1]",), targets=("mlp_out[1]",)),
        "cross-layer": lambda: random_coder("cross-layer-transcoder", 36, sites=pairs[0], targets=pairs[1]),
        "two": lambda: [random_coder("topk", 36, sites=(f"mlp_out[{i}]",), seed=i) for i in layers],
    }[which]()


def losses(model: Any, row: Tensor, first: int, clean: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, and summed cross-entropy and KL of a prompt."""
    logs = model(row[None]).double().log_softmax(-1)[0, first:-1]
    ce = -logs[torch.arange(len(logs)), row[first + 1 :]].sum()
    clean = logs if clean is None else clean
    return logs, ce, (clean.exp() * (clean - logs)).sum()


@pytest.mark.parametrize("ablation", ["mean", "zero"])
@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("which", ["topk", "heads", "skip", "cross-layer", "two"])
def test_every_figure_one_prompt_at_a_time(which: str, skip_first: bool, ablation: str) -> None:
    model, rows, first = specimen("llama").model, prompts(), int(skip_first)
    given = coders(model, which)
    found = evaluate_coder(
        model, given, rows, ablation=ablation, skip_first=skip_first, batch_size=3, progress=False
    )
    every = given if isinstance(given, list) else [given]
    sites = [site for coder in every for site in coder.target_sites]
    reads = [site for coder in every for site in coder.sites]
    kept: dict[str, list[Tensor]] = {site: [] for site in {*sites, *reads}}
    with torch.no_grad():
        for row in rows:
            cache = interp.capture(model, row[None], list(kept))
            for site in kept:
                kept[site].append(cache[site][0, first:].flatten(1))
        x = {site: torch.cat(parts) for site, parts in kept.items()}
        outs, latents = [], []
        for coder in every:
            inputs = torch.stack([x[site] for site in coder.sites], -2)
            several = which == "cross-layer"
            outs += list(coder(inputs).unbind(-2)) if several else [coder(inputs[..., 0, :])]
            latents += list(coder.encode(inputs).unbind(-2)) if several else [coder.encode(inputs[..., 0, :])]
        for fit, site, out, z in zip(found.fits, sites, outs, latents, strict=True):
            check_fit(fit, site, x[site].double(), out.double(), z)
        place = [f"{site}@{first}:" for site in sites]
        mean = {p: x[s].mean(0) for p, s in zip(place, sites, strict=True)}
        z_shape = (model.traits.n_heads, model.traits.d_head)
        ablate = [
            interp.zero(p)
            if ablation == "zero"
            else interp.replace(p, m.view(*z_shape) if p[0] == "z" else m)
            for p, m in mean.items()
        ]
        for number, row in enumerate(rows):
            clean, ce_clean, _ = losses(model, row, first)
            with substitute(model, given, keep_error=False, positions=f"{first}:"):
                _, ce_sub, kl_sub = losses(model, row, first, clean)
            with interp.intervene(model, ablate):
                _, ce_abl, kl_abl = losses(model, row, first, clean)
            n = len(clean)
            assert int(found.n_predicted[number]) == n
            expected = torch.stack([ce_clean, ce_sub, ce_abl, kl_sub, kl_abl]).float() / n
            names = ("ce_clean", "ce_substituted", "ce_ablated", "kl_substituted", "kl_ablated")
            measured = torch.stack([getattr(found, name)[number] for name in names])
            torch.testing.assert_close(measured, expected, atol=1e-5, rtol=1e-4)
    ce = [found.mean(f"ce_{run}") for run in ("clean", "substituted", "ablated")]
    assert found.ce_recovered.value == pytest.approx((ce[2] - ce[1]) / (ce[2] - ce[0]), rel=1e-3)
    kl = 1 - found.mean("kl_substituted") / found.mean("kl_ablated")
    assert found.kl_recovered.value == pytest.approx(kl, rel=1e-3, abs=1e-4)


def test_intervals_are_those_of_a_ratio_of_means() -> None:
    """Beside the delta method, on many prompts."""
    draw = np.random.default_rng(0)
    n = 800
    clean = draw.normal(3.0, 0.5, n)
    sums = np.stack([clean, clean + draw.normal(0.2, 0.3, n), clean + draw.normal(1.5, 0.4, n)], 1)
    sums = np.concatenate([sums, draw.normal([[0.2, 1.4]], 0.1, (n, 2))], 1)
    narrow, wide = (_recovered(sums, confidence, seed=1) for confidence in (0.5, 0.95))
    parts = [(sums[:, 2] - sums[:, 1], sums[:, 2] - sums[:, 0]), (sums[:, 4] - sums[:, 3], sums[:, 4])]
    for (top, bottom), small, large in zip(parts, narrow, wide, strict=True):
        share = top.mean() / bottom.mean()
        error = np.std(top - share * bottom) / bottom.mean() / np.sqrt(n)
        assert small.value == large.value == pytest.approx(share)
        assert large.high - share == pytest.approx(1.96 * error, rel=0.12)
        assert share - large.low == pytest.approx(1.96 * error, rel=0.12)
        assert small.high - small.low == pytest.approx(2 * 0.674 * error, rel=0.12)
    equal = np.tile([[1.0, 2.0, 1.0, 0.5, 0.0]], (4, 1))
    assert all(np.isnan(estimate.value) for estimate in _recovered(equal, 0.9, 0))


def check_fit(fit: Any, site: str, x: Tensor, out: Tensor, latents: Tensor) -> None:
    error = x - out
    spread = (x - x.mean(0)).square().sum()
    assert fit.site == site and fit.n_tokens == len(x) and fit.d_sae == D_SAE
    assert fit.fvu == pytest.approx(float(error.square().sum() / spread), rel=1e-5)
    constant = error - error.mean(0)
    assert fit.explained_variance == pytest.approx(float(1 - constant.square().sum() / spread), rel=1e-5)
    assert fit.cosine == pytest.approx(float(torch.cosine_similarity(x, out, dim=1).mean()), rel=1e-5)
    assert fit.l0 == pytest.approx(float((latents != 0).sum(1).double().mean()))
    torch.testing.assert_close(fit.density, (latents != 0).float().mean(0))
    assert fit.dead_frac == pytest.approx(float((latents == 0).all(0).double().mean()))


class Perfect(torch.nn.Module):
    """A dictionary of both directions of every axis, which rebuilds all it reads."""

    def __init__(self, d: int, sites: tuple[str, ...]) -> None:
        super().__init__()
        self.d_in = self.d_out = d
        self.d_sae, self.sites = 2 * d, sites
        self.register_buffer("W_dec", torch.cat([torch.eye(d), -torch.eye(d)]))

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_dec.T).relu()

    def decode(self, latents: Tensor, x: Tensor | None = None) -> Tensor:
        return latents @ self.W_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def test_a_perfect_coder_recovers_everything_and_a_mean_nothing() -> None:
    model = specimen("gpt2").model
    found = evaluate_coder(model, Perfect(36, ("mlp_out[0]",)), prompts(), progress=False)
    assert found.ce_recovered.value == pytest.approx(1.0, abs=1e-5)
    assert found.kl_recovered.value == pytest.approx(1.0, abs=1e-5)
    assert found["mlp_out[0]"].fvu == pytest.approx(0.0, abs=1e-10)
    empty = random_coder("topk", 36, sites=("mlp_out[0]",))
    with torch.no_grad():
        x = interp.capture(model, torch.stack([row[:3] for row in prompts()]), "mlp_out[0]")["mlp_out[0]"]
        empty.W_dec.zero_()
        empty.b_dec.copy_(x[:, 1:].flatten(0, 1).mean(0))
    rows = torch.stack([row[:3] for row in prompts()])
    found = evaluate_coder(model, empty, rows, progress=False)
    assert found.ce_recovered.value == pytest.approx(0.0, abs=1e-4)
    assert found.kl_recovered.value == pytest.approx(0.0, abs=1e-4)
    assert found.fits[0].fvu == pytest.approx(1.0, abs=1e-5)
    assert found.fits[0].explained_variance == pytest.approx(0.0, abs=1e-5)


def test_batches_prompts_and_contexts() -> None:
    """The number of prompts at a time changes nothing; a split prompt is one prompt."""
    model, given = specimen("plain").model, coders(specimen("plain").model, "topk")
    rows = prompts()
    runs = [evaluate_coder(model, given, rows, batch_size=n, progress=False) for n in (1, 4)]
    torch.testing.assert_close(runs[0].ce_substituted, runs[1].ce_substituted, atol=1e-5, rtol=1e-5)
    assert runs[0].fits[0].fvu == pytest.approx(runs[1].fits[0].fvu, rel=1e-5)
    few = evaluate_coder(model, given, rows, n_prompts=3, batch_size=2, progress=False)
    assert torch.equal(few.n_predicted, runs[0].n_predicted[:3])
    long = [torch.cat(rows[:4]), rows[5]]
    split = evaluate_coder(model, given, long, context=8, progress=False)
    assert len(split.n_predicted) == 2
    wide = evaluate_coder(model, given, lambda: iter(rows), progress=False)
    torch.testing.assert_close(wide.ce_clean, runs[0].ce_clean, atol=1e-5, rtol=1e-5)


def test_the_record(tmp_path: Any) -> None:
    model = specimen("plain").model
    found = evaluate_coder(model, coders(model, "two"), prompts(), confidence=0.8, progress=False)
    again = CoderEvaluation.load(found.save(tmp_path / "evaluation.safetensors"))
    assert again.summary() == found.summary() and again.ce_recovered == found.ce_recovered
    assert torch.equal(again["mlp_out[1]"].density, found["mlp_out[1]"].density)
    frame = found.to_frame()
    assert list(frame.site) == ["mlp_out[0]", "mlp_out[1]"]
    assert frame.l0[0] == found.fits[0].l0 and frame.ce_recovered_low[1] == found.ce_recovered.low
    for part in ("mlp_out[0]: L0", "cross-entropy", "recovered", "of 29 latents dead"):
        assert part in found.summary()
    figure = plot_coder_evaluation(found)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert list(bars[0].y) == pytest.approx(
        [found.mean(f"ce_{n}") for n in ("clean", "substituted", "ablated")]
    )
    alive = sum(int((fit.density > 0).sum()) for fit in found.fits)
    assert sum(sum(bar.y) for bar in bars[2:]) == alive
    with pytest.raises(RecordError, match="no coder was evaluated at 'z"):
        found["z[0]"]


def test_the_histogram_has_every_latent_that_fires() -> None:
    density = torch.tensor([0.0, 1.0, 0.1, 0.0099, 0.5, 1e-5, 0.0])
    edges, counts = density_histogram(density, per_decade=1)
    assert edges.tolist() == [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0]
    assert counts.tolist() == [1, 0, 1, 0, 3]
    assert int(density_histogram(torch.zeros(4))[1].sum()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "means"}, "did you mean 'mean'"),
        ({"confidence": 1.0}, "confidence must lie between"),
        ({"n_prompts": 0}, "n_prompts must be at least 1"),
        ({"data": [torch.tensor([4]), torch.tensor([7])]}, "no token to evaluate"),
        ({"data": [torch.tensor([4, 5])]}, "no token to evaluate"),
        ({"data": iter(prompts())}, "gives its items once"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    model = specimen("plain").model
    with pytest.raises(CoderError, match=message):
        evaluate_coder(model, coders(model, "topk"), **({"data": prompts(), "progress": False} | options))
    assert not model.active_edits and not model.attached
