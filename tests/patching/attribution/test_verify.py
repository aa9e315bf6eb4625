"""Approximate scores checked against exact ones: which sites, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from attribution_cases import SPAN
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import specimen
from random_tasks import random_task
from torch import Tensor

import interp
from interp import verify_scores
from interp.errors import InterpError, MetricError, PatchError
from interp.patching import agreement
from interp.patching.agreement import measure_agreement
from interp.results import MethodAgreement, PatchScores, Provenance
from interp.types import Site

SITES = ("z", "resid_pre", "mlp_post.n5,7@S")
MODEL = "llama"


def make_task(seed: int = 4) -> Any:
    return random_task((6, 6, 6), "right", (0, 2, 1), seed=seed)


def patch(method: Any = "attribution", sites: Sequence[Any] = SITES, **options: Any) -> PatchScores:
    return interp.patch(specimen(MODEL).model, make_task(), sites, method=method, progress=False, **options)


def effects_by_name(scores: PatchScores) -> dict[str, float]:
    """Every site's effect by its name."""
    return {row.name: row.effect for row in scores.top(1000)}


@pytest.mark.parametrize("method", ["attribution", "attribution*", "ig", "relevance"])
def test_the_top_sites_and_some_others(method: str) -> None:
    scores = patch(method)
    everything = effects_by_name(scores)
    found = scores.verify(top=5, sample=7, seed=3, progress=False)
    assert found.names[:5] == tuple(row.name for row in scores.top(5))
    assert found.chosen_as == ("top",) * 5 + ("random",) * 7
    assert len(set(found.names)) == 12 and set(found.names) < set(everything)
    assert (found.k, found.n_sites) == (5, len(everything))
    assert found.provenance.method == method
    for name, effect in zip(found.names, found.approximate.tolist(), strict=True):
        assert effect == pytest.approx(everything[name], abs=1e-6)
    again, other = (scores.verify(top=5, sample=7, seed=seed, progress=False) for seed in (3, 4))
    assert again.names == found.names and torch.equal(again.exact, found.exact)
    assert again.pearson == found.pearson
    assert other.names[:5] == found.names[:5] and set(other.names[5:]) != set(found.names[5:])


def test_random_ones_are_drawn_evenly() -> None:
    scores = patch()
    top = {row.name for row in scores.top(3)}
    drawn = [name for seed in range(40) for name in scores.verify(3, 2, seed=seed, progress=False).names[3:]]
    assert not top & set(drawn)
    # 19 others, 80 draws: each 4.2 times
    counts = [drawn.count(name) for name in effects_by_name(scores) if name not in top]
    assert len(counts) == 19 and min(counts) >= 1 and max(counts) <= 11


def test_few_all_or_only_some() -> None:
    scores = patch()
    n = len(effects_by_name(scores))
    everything = scores.verify(top=None, progress=False)
    assert everything.chosen_as == () and everything.k == round(n / 10)
    assert everything.names[:2] == ("L0H0", "L0H1") and len(everything.names) == everything.n_sites == n
    assert len(scores.verify(top=5, sample=1000, progress=False).names) == n
    more = scores.verify(top=1000, sample=5, progress=False)
    assert more.chosen_as == ("top",) * n and more.k == n and more.top_overlap is not None
    assert more.top_overlap.value == 1.0
    assert scores.verify(top=3, sample=0, progress=False).chosen_as == ("top",) * 3
    assert scores.verify(top=0, sample=3, progress=False).chosen_as == ("random",) * 3


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ablation": "resample", "seed": 3, "metric": "prob_diff"},
        {"ablation": "mean", "reference": make_task(9), "metric": "kl"},
    ],
    ids=["source", "resample", "mean"],
)
def test_the_exact_effects_are_those_of_a_whole_sweep(direction: Any, options: dict[str, Any]) -> None:
    options = options | {"direction": direction}
    scores, exact = patch("attribution*", **options), effects_by_name(patch("exact", **options))
    for found in (
        scores.verify(top=4, sample=6, progress=False),
        scores.verify(top=4, sample=6, backend="hooked", memory_budget=1, progress=False),
    ):
        assert found.exact.tolist() == pytest.approx([exact[name] for name in found.names], abs=2e-5)
    named = {name: value for name, value in options.items() if name in ("metric", "reference")}
    apart = verify_scores(
        specimen(MODEL).model,
        make_task(),
        scores,
        top=4,
        sample=6,
        patch_seed=options.get("seed", 0),
        progress=False,
        **named,
    )
    assert apart.names == found.names
    torch.testing.assert_close(apart.exact, found.exact, atol=2e-5, rtol=0)


def test_every_kind_of_site_keeps_its_name() -> None:
    """A name stands for the number beside it, over all kinds of axes and parts that are held fixed."""
    sites = [
        "z@pos",
        "q[1]",
        "k@S",
        "pattern@pos",
        "resid_mid",
        "mlp_pre.n*",
        "embed",
        "mlp_out[0]@-1",
        "result@all",
    ]
    scores, exact = patch("attribution", sites), effects_by_name(patch("exact", sites))
    found = scores.verify(top=20, sample=60, progress=False)
    assert set(found.names) <= set(exact) == set(effects_by_name(scores))
    assert found.exact.tolist() == pytest.approx([exact[name] for name in found.names], abs=2e-5)


def test_sites_in_a_subspace() -> None:
    site = Site("resid_pre").within(SPAN[:, :36])
    scores, exact = (patch(method, [site]) for method in ("attribution", "exact"))
    found = scores.verify(top=None, progress=False)
    torch.testing.assert_close(found.exact, exact.effects("resid_pre").flatten(), atol=2e-5, rtol=0)
    whole = patch("exact", ["resid_pre"]).effects("resid_pre").flatten()
    assert float((found.exact - whole).abs().max()) > 0.05
    # the subspace is not part of the record
    with pytest.raises(PatchError, match="restricted to a subspace: resid_pre"):
        verify_scores(specimen(MODEL).model, make_task(), scores, progress=False)


def test_from_a_file(tmp_path: Path) -> None:
    scores = patch("attribution*", metric="prob_diff")
    loaded = PatchScores.load(scores.save(tmp_path / "scores.safetensors"))
    with pytest.raises(PatchError, match=r"read from a file.*verify_scores"):
        loaded.verify()
    ours = scores.verify(top=4, sample=5, seed=2, progress=False)
    theirs = verify_scores(
        specimen(MODEL).model, make_task(), loaded, top=4, sample=5, seed=2, progress=False
    )
    assert theirs.names == ours.names and theirs.chosen_as == ours.chosen_as
    assert torch.equal(theirs.exact, ours.exact) and torch.equal(theirs.approximate, ours.approximate)
    assert (theirs.pearson, theirs.spearman, theirs.top_overlap) == (
        ours.pearson,
        ours.spearman,
        ours.top_overlap,
    )
    again = MethodAgreement.load(ours.save(tmp_path / "agreement.safetensors"))
    assert again.summary() == ours.summary() and torch.equal(again.exact, ours.exact)


def last_logits(logits: Tensor) -> Tensor:
    return logits[:, -1, 3] - logits[:, -1, 5]


def test_a_metric_of_ones_own() -> None:
    scores = patch(metric=last_logits)
    exact = effects_by_name(patch("exact", metric=last_logits))
    found = scores.verify(top=3, sample=3, progress=False)
    assert found.exact.tolist() == pytest.approx([exact[name] for name in found.names], abs=2e-5)
    model, task = specimen(MODEL).model, make_task()
    apart = verify_scores(model, task, scores, top=3, sample=3, metric=last_logits, progress=False)
    assert apart.exact.tolist() == pytest.approx(found.exact.tolist(), abs=2e-5)
    # only its name is in the record
    with pytest.raises(MetricError, match="last_logits"):
        verify_scores(model, task, scores, progress=False)


def test_what_cannot_be_verified() -> None:
    model, task, scores = specimen(MODEL).model, make_task(), patch()
    exact = patch("exact")
    with pytest.raises(PatchError, match="exact; there is nothing to verify"):
        exact.verify()
    with pytest.raises(PatchError, match="exact; there is nothing to verify"):
        verify_scores(model, task, exact)
    for top, sample in ((0, 0), (-1, 5), (5, -1), (None, -1)):
        with pytest.raises(PatchError, match="at least one site"):
            scores.verify(top=top, sample=sample)
    with pytest.raises(PatchError, match="between 0 and 1"):
        scores.verify(top=2, sample=2, confidence=1.0, progress=False)
    with pytest.raises(PatchError, match=r"these scores were made where .*same model, prompts and metric"):
        verify_scores(model, make_task(5), scores, progress=False)
    with pytest.raises(PatchError, match="these scores were made where"):
        verify_scores(model, task, scores, metric="prob_diff", progress=False)
    with pytest.raises(PatchError, match=r"have shape .* but this model and task give"):
        verify_scores(model, random_task((5, 5), "right", (0, 0)), scores, progress=False)
    with pytest.raises(InterpError):
        verify_scores(specimen("gpt2").model, task, scores, progress=False)
    with pytest.raises(PatchError, match="backend"):
        scores.verify(backend="hocked", progress=False)
    renamed = replace(scores, sites={"z@pos": scores["z"]})
    with pytest.raises(PatchError, match="the record was changed"):
        verify_scores(model, task, renamed, progress=False)


def test_equal_baselines_give_no_correlation() -> None:
    task = replace(make_task(), corrupted=make_task().clean)
    scores = interp.patch(
        specimen(MODEL).model, task, "z", method="attribution", ablation="zero", progress=False
    )
    found = scores.verify(top=None, progress=False)
    assert np.isnan(found.pearson.value) and np.isnan(found.spearman.value)


PROVENANCE = Provenance(model="none", method="attribution")


def agree(exact: Any, approximate: Any, **options: Any) -> MethodAgreement:
    x, y = (torch.as_tensor(np.asarray(values, dtype=float)) for values in (exact, approximate))
    return measure_agreement([f"s{i}" for i in range(len(x))], x, y, PROVENANCE, **options)


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(0, 10_000), st.booleans())
def test_correlations_are_those_of_scipy(n: int, seed: int, tied: bool) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=n)
    y = 0.5 * x + draw.normal(size=n)
    if tied:
        x, y = np.round(x), np.round(y)
    found = agree(x, y)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found.pearson.value == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
        assert found.spearman.value == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-12)
    else:
        assert np.isnan(found.pearson.value)
    assert found.sign_agreement.value == pytest.approx(np.mean(np.sign(x) == np.sign(y)))


def test_by_hand() -> None:
    exact, approximate = [4.0, 3.0, 2.0, -1.0, 0.5], [8.0, 6.0, 4.0, -2.0, 1.0]
    same = agree(exact, approximate, k=2)
    for estimate in (same.pearson, same.spearman, same.sign_agreement, same.top_overlap):
        assert estimate is not None and estimate.value == pytest.approx(1.0)
        assert (estimate.low, estimate.high) == (pytest.approx(1.0), pytest.approx(1.0))
    opposite = agree(exact, [-value for value in approximate])
    assert opposite.pearson.value == pytest.approx(-1.0) and opposite.sign_agreement.value == 0.0
    # sizes rank, signs do not matter: {0, 1} against {0, 4}
    half = agree(exact, [-9.0, 1.0, 0.5, 0.1, 2.0], k=2)
    assert half.top_overlap is not None and half.top_overlap.value == 0.5
    # ranked by something else than its effects
    other = agree(exact, approximate, k=2, ranking=torch.tensor([0.0, 0.0, 0.0, 5.0, 4.0]))
    assert other.top_overlap is not None and other.top_overlap.value == 0.0
    assert agree(exact, approximate).k == 1 and agree([1.0] * 3 + [2.0] * 27, range(30)).k == 3
    assert agree(exact, approximate, k=99).k == 5
    # zero agrees with zero only
    assert agree([0.0, 0.0, 1.0], [0.0, 1.0, 1.0]).sign_agreement.value == pytest.approx(2 / 3)


def test_what_has_no_correlation() -> None:
    for x, y in (([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [5.0, 5.0]), ([1.0], [2.0])):
        found = agree(x, y)
        for estimate in (found.pearson, found.spearman):
            assert all(np.isnan(value) for value in (estimate.value, estimate.low, estimate.high))
        assert found.sign_agreement.value == 1.0
    # resamples without two different sites are left out of the interval
    few = agree([1.0, 2.0, 4.0], [1.0, 2.5, 3.0])
    assert -1 <= few.pearson.low <= few.pearson.value <= few.pearson.high <= 1 + 1e-12


def test_intervals_cover_what_they_say() -> None:
    """90 % intervals of 120 samples from a normal with known correlation."""
    draw, covered, widths = np.random.default_rng(0), 0, {0.5: 0.0, 0.9: 0.0, 0.99: 0.0}
    rho, n = 0.6, 60
    for number in range(120):
        x = draw.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * draw.normal(size=n)
        found = agree(x, y, confidence=0.9, seed=number).pearson
        covered += found.low <= rho <= found.high
    # binomial(120, .88) or so: bootstrap intervals of a correlation are a little short
    assert 0.8 <= covered / 120 <= 0.97
    for confidence in widths:
        estimate = agree(x, y, confidence=confidence).pearson
        assert estimate.low < estimate.value < estimate.high
        widths[confidence] = estimate.high - estimate.low
    assert widths[0.5] < widths[0.9] < widths[0.99]
    assert agree(x, y, seed=1).pearson == agree(x, y, seed=1).pearson != agree(x, y, seed=2).pearson


def test_many_sites_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=100)
    y = x + draw.normal(size=100)
    whole = agree(x, y)
    for largest in (700, 1):
        monkeypatch.setattr(agreement, "_LARGEST", largest)
        parts = agree(x, y)
        for a, b in ((whole.pearson, parts.pearson), (whole.spearman, parts.spearman)):
            assert a.value == b.value
            assert (b.low, b.high) == (pytest.approx(a.low, abs=0.03), pytest.approx(a.high, abs=0.03))
