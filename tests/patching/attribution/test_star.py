"""AtP*: queries, keys and scores through the exact softmax, and gradients dropped layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attribution_cases import Case, assert_near, assert_scores, cases, fixed_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import HOOKED, NAMES, specimen
from naive_attribution import THROUGH_SOFTMAX, NaiveAttribution, cells_of
from random_tasks import random_task
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp import AttributionStar
from interp.errors import PatchError
from interp.patching.attribution.softmax import SoftmaxFix
from interp.types import parse_site

WITH_BLOCKS = tuple(name for name in NAMES if name not in HOOKED)
BESIDE_SOFTMAX = (
    *("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out"),
    *("v", "z", "result", "pattern", "mlp_pre", "mlp_pre_linear", "mlp_post"),
)
SPOTS = ("@all", "@-1", "@1:3", "@S", "@S,END", "")


def check_star(case: Case, method: Any = "attribution*") -> None:
    found, naive = case.patch(method), case.naive
    for scores, cells in case.entries(found):
        effects, magnitudes = naive.star(cells)
        assert_scores(case, scores, effects)
        assert scores.magnitude is not None
        sizes = scores.magnitude.flatten() * abs(scores.clean - scores.corrupted)
        # no score at all where both baselines are equal
        if scores.clean != scores.corrupted:
            assert_near(sizes, magnitudes.mean(-1), (case, scores.site, "magnitude"))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_softmax_of_every_family(name: str, padded: bool) -> None:
    layout = 1 + WITH_BLOCKS.index(name) % 2 if padded else 0
    check_star(fixed_case(name, layout, only=THROUGH_SOFTMAX))


@settings(max_examples=45, suppress_health_check=list(HealthCheck))
@given(cases(WITH_BLOCKS, only=THROUGH_SOFTMAX, places=SPOTS))
def test_any_query_key_or_score(case: Case) -> None:
    check_star(case)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(cases(only=BESIDE_SOFTMAX, places=SPOTS))
def test_any_other_component(case: Case) -> None:
    check_star(case)


def with_scores(scores: Tensor) -> SoftmaxFix:
    """A layer of which nothing is known but its attention scores."""
    fix = object.__new__(SoftmaxFix)
    fix._scores, fix._pattern = scores, scores.softmax(-1)
    return fix


@settings(max_examples=60)
@given(st.integers(0, 1000), st.sampled_from((0.1, 1.0, 30.0, 300.0, 1e4)), st.integers(1, 6))
def test_one_key_in_closed_form(seed: int, sharpness: float, n: int) -> None:
    """However sharp: what is left of a row is not lost beside a key that has nearly all of it."""
    draw = torch.Generator().manual_seed(seed)
    scores, change, gradient = (torch.randn(2, 2, n, n, generator=draw).double() for _ in range(3))
    visible = torch.ones(n, n).tril().bool()
    scores = (sharpness * scores).masked_fill(~visible, torch.finfo(torch.float64).min)
    change = (2 * sharpness * change).masked_fill(~visible, 0.0)
    expected = torch.zeros_like(scores)
    for key in range(n):
        moved = scores.clone()
        moved[..., key] += change[..., key]
        expected[..., key] = ((moved.softmax(-1) - scores.softmax(-1)) * gradient).sum(-1)
    found = with_scores(scores)._one_key_each(change, gradient)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_without_the_fix_it_is_attribution() -> None:
    model, task = specimen("qwen3").model, random_task([4, 6], "right", [0, 1], seed=3)
    sites = ["q@pos", "k", "attn_scores", "z", "mlp_post.n*"]
    plain = interp.patch(model, task, sites, method="attribution", progress=False)
    unfixed, bare = (
        interp.patch(model, task, sites, method=AttributionStar(qk_fix=False, grad_drop=drop), progress=False)
        for drop in (True, False)
    )
    for site in plain:
        assert torch.equal(plain[site].per_prompt, bare[site].per_prompt)
        torch.testing.assert_close(unfixed[site].per_prompt, plain[site].per_prompt, atol=2e-6, rtol=1e-6)
        assert bare[site].magnitude is None and unfixed[site].magnitude is not None
    assert "no QK fix; no GradDrop" in bare.provenance.notes[-1]
    cells = cells_of(parse_site("q@pos"), unfixed["q"])
    _, magnitudes = NaiveAttribution(specimen("qwen3"), task).star(cells, qk_fix=False)
    gap = abs(unfixed["q"].clean - unfixed["q"].corrupted)
    assert_near(unfixed["q"].magnitude.flatten() * gap, magnitudes.mean(-1), "unfixed")


def test_ranking_goes_by_magnitude() -> None:
    model, task = specimen("gpt2").model, random_task([6, 6], "right", [0, 1], seed=3)
    scores = interp.patch(model, task, ["z", "resid_pre"], method="attribution*", progress=False)
    rows = scores.top(100)
    assert [row.magnitude for row in rows] == sorted((row.magnitude for row in rows), reverse=True)
    assert [row.magnitude for row in rows] != sorted((abs(row.effect) for row in rows), reverse=True)
    raised = 0
    for row in rows:
        dropped = float(scores[row.site].magnitude[row.index])
        # GradDrop may raise a site and never lowers it
        assert row.magnitude == max(dropped, abs(row.effect))
        raised += dropped > abs(row.effect)
        assert row.effect == pytest.approx(float(scores.effects(row.site)[row.index]))
    assert 0 < raised < len(rows)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_single_layer_has_no_other_to_drop(family: str) -> None:
    model = interp.load_model(make_hf_model(family, seed=3, n_layers=1))
    task = random_task([5, 6, 6], "right", [0, 1, 2], seed=4)
    scores = interp.patch(
        model, task, ["z", "q", "resid_pre", "embed"], method="attribution*", progress=False
    )
    for entries in scores.values():
        base, gap = entries.corrupted, abs(entries.clean - entries.corrupted)
        assert entries.per_prompt is not None and entries.magnitude is not None
        base_each = _base_of(model, task)
        assert float(base_each.mean()) == pytest.approx(base, abs=1e-6)
        torch.testing.assert_close(
            entries.magnitude * gap, (entries.per_prompt - base_each).abs().mean(-1), atol=2e-6, rtol=1e-5
        )


def _base_of(model: Any, task: Any) -> Tensor:
    rows = torch.arange(len(task))
    with torch.no_grad():
        last = model(task.corrupted, task.attention_mask)[rows, task.end]
    return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]


def test_equal_baselines_have_no_magnitude() -> None:
    model = specimen("gpt2").model
    task = random_task([5, 5], "right", [5, 5], seed=4)
    scores = interp.patch(model, task, "z", method="attribution*", ablation="zero", progress=False)
    assert bool(scores["z"].magnitude.isnan().all()) and bool(scores["z"].values.isnan().all())


@pytest.mark.parametrize("name", HOOKED)
def test_a_hooked_transformer_has_no_blocks_to_recompute(name: str) -> None:
    model, task = specimen(name).model, random_task([5, 6], "left", [0, 1], seed=4)
    for site in THROUGH_SOFTMAX:
        with pytest.raises(
            PatchError, match=r"recomputes the softmax .*Leave these sites out, or .*qk_fix=False"
        ):
            interp.patch(model, task, ["z", site], method="attribution*", progress=False)
        assert model.active_edits == []
        found = interp.patch(model, task, ["z", site], method=AttributionStar(qk_fix=False), progress=False)
        plain = interp.patch(model, task, ["z", site], method="attribution", progress=False)
        for key in plain:
            torch.testing.assert_close(found[key].per_prompt, plain[key].per_prompt, atol=2e-6, rtol=1e-6)
