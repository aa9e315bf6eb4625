"""Integrated gradients beside a loop over the points of the path, and what they say of themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from attribution_cases import SPAN, Case, assert_near, assert_scores, cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import specimen
from naive_attribution import NaiveAttribution
from random_tasks import random_task
from torch import Tensor

import interp
from interp import IntegratedGradients
from interp.models.bundled.planted.wiring import Wiring
from interp.patching.attribution.integrated import quadrature
from interp.results import PatchScores
from interp.tasks.base import PromptPairs
from interp.types import Site, parse_site


def points_of(method: IntegratedGradients) -> list[tuple[float, float]]:
    """Where the gradients are taken, and how much each counts, by another library."""
    if method.quadrature == "midpoint":
        return [((2 * i + 1) / (2 * method.steps), 1 / method.steps) for i in range(method.steps)]
    x, weight = scipy.special.roots_legendre(method.steps)
    return [((a + 1) / 2, w / 2) for a, w in zip(x.tolist(), weight.tolist(), strict=True)]


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33])
@pytest.mark.parametrize("rule", ["midpoint", "gauss-legendre"])
def test_points_and_weights(rule: Any, steps: int) -> None:
    method = IntegratedGradients(steps=steps, quadrature=rule)
    points, weights = map(np.array, quadrature(method))
    np.testing.assert_allclose(list(zip(points, weights, strict=True)), points_of(method), atol=1e-14)
    assert bool(((points > 0) & (points < 1)).all()) and weights.sum() == pytest.approx(1, abs=1e-14)
    # n Gauss points integrate every polynomial of degree 2n - 1, midpoints those of degree 1
    for degree in range(2 * steps if rule == "gauss-legendre" else 2):
        assert (weights * points**degree).sum() == pytest.approx(1 / (degree + 1), abs=1e-12)


METHODS = st.builds(
    IntegratedGradients,
    st.sampled_from(("inputs", "activation")),
    st.integers(1, 3),
    st.sampled_from(("midpoint", "gauss-legendre")),
)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(cases(), METHODS)
def test_any_sweep(case: Case, method: IntegratedGradients) -> None:
    found, naive = case.patch(method), case.naive
    for scores, cells in case.entries(found):
        if method.over == "inputs":
            expected = naive.along_inputs(cells, points_of(method))
        else:
            # a subspace of each neuron is the neuron itself, on a path of all of them
            expected = naive.along_activation(cells, points_of(method))
        assert_scores(case, scores, expected)


def test_one_subspace_of_different_neurons_is_several() -> None:
    """Their paths differ, although the directions are the same tensor."""
    on, task = specimen("gpt2"), random_task((5, 6), "left", [0, 1], seed=4)
    first = Site("mlp_post", 0, neurons=(3, 5, 8)).within(SPAN[:1, :3])
    second, method = replace(first, neurons=(7, 9, 20)), IntegratedGradients("activation", 3)
    assert second.subspace is first.subspace
    found, naive = patch("gpt2", task, [first, second], method), NaiveAttribution(on, task)
    for site in (first, second):
        expected = naive.base_score + naive.along_activation([site], points_of(method))
        assert_near(found[str(site)].per_prompt, expected[0], site, 0.5)


NOTE = re.compile(
    r"completeness: scores over (?P<cut>.+) add up to (?P<sum>\S+) and the metric moves by (?P<true>\S+), "
    r"a gap of (?P<gap>[^,\s]+)(?:, the widest of (?P<of>\d+))? \((?P<steps>\d+) (?P<rule>\S+) steps?\)"
)


def gap_of(scores: PatchScores) -> dict[str, Any]:
    """What the last note says of completeness."""
    match = NOTE.fullmatch(scores.provenance.notes[-1])
    assert match is not None, scores.provenance.notes
    found: dict[str, Any] = match.groupdict()
    return found | {name: float(found[name]) for name in ("sum", "true", "gap")}


def patch(name: str, task: PromptPairs, sites: Any, method: Any, **options: Any) -> PatchScores:
    return interp.patch(specimen(name).model, task, sites, method=method, progress=False, **options)


@pytest.mark.parametrize("ablation", ["source", "zero", "mean-per-position"])
@pytest.mark.parametrize("lengths", [(6, 6, 6), (4, 6, 5)])
def test_the_completeness_of_the_inputs(ablation: Any, lengths: tuple[int, ...]) -> None:
    task = random_task(lengths, "left", [0, 1, 2], seed=4)
    for name, metric in (("gpt2", "logit_diff"), ("gemma2", "kl"), ("hooked", "prob_diff")):
        options = {"ablation": ablation, "metric": metric, "direction": "noise"}
        naive = NaiveAttribution(specimen(name), task, **options)
        method = IntegratedGradients(steps=2)
        scores = patch(name, task, ["z", "embed@all"], method, **options)
        said = gap_of(scores)
        summed = naive.along_inputs([Site("embed")], points_of(method))[0].mean()
        moved = (naive.patched(Site("embed")) - naive.base_score).mean()
        assert said["cut"] == "the embeddings" and said["of"] is None
        assert (said["steps"], said["rule"]) == ("2", "gauss-legendre")
        assert said["sum"] == pytest.approx(float(summed), rel=1e-3, abs=1e-5)
        assert said["true"] == pytest.approx(float(moved), rel=1e-3, abs=1e-5)
        assert said["gap"] == pytest.approx(float(summed - moved), rel=0.06, abs=1e-5)
        assert scores.gaps == {"the embeddings": pytest.approx(float(summed - moved), rel=1e-3, abs=1e-5)}


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "hooked"])
@pytest.mark.parametrize("ablation", ["source", "zero"])
@pytest.mark.parametrize("lengths", [(6, 6), (4, 6)])
def test_the_completeness_of_each_activation(name: str, ablation: Any, lengths: tuple[int, ...]) -> None:
    on, task = specimen(name), random_task(lengths, "left", [0, 1], seed=4)
    naive = NaiveAttribution(on, task, ablation=ablation)
    method = IntegratedGradients("activation", 2, "midpoint")
    basis = SPAN[:, : on.model.traits.d_head]
    parts = [parse_site("z"), parse_site("z").within(basis), parse_site("mlp_post")]
    # scores of zero attend to padding, of which a HookedTransformer makes something else
    if name != "hooked" or ablation == "source" or lengths == (6, 6):
        parts.append(parse_site("attn_scores"))
    for site in parts:
        scores = patch(name, task, site, method, ablation=ablation)
        said, gaps = gap_of(scores), {}
        for layer in range(2):
            whole = Site(site.component, layer, subspace=site.subspace)
            summed = naive.along_activation([whole], points_of(method))[0].mean()
            gaps[f"{site.component}[{layer}]"] = (summed, (naive.patched(whole) - naive.base_score).mean())
        expected = {cut: pytest.approx(float(a - b), rel=1e-3, abs=1e-5) for cut, (a, b) in gaps.items()}
        assert scores.gaps == expected
        widest = max(gaps, key=lambda cut: abs(gaps[cut][0] - gaps[cut][1]))
        summed, moved = map(float, gaps[widest])
        assert (said["cut"], said["of"]) == (widest, "2")
        assert said["sum"] == pytest.approx(summed, rel=1e-3, abs=1e-5)
        assert said["true"] == pytest.approx(moved, rel=1e-3, abs=1e-5)
        assert said["gap"] == pytest.approx(summed - moved, rel=0.06, abs=1e-5)
    one = gap_of(patch(name, task, "z[0]", method, ablation=ablation))
    assert (one["cut"], one["of"]) == ("z[0]", None)
    two = patch(name, task, ["mlp_post[0]", Site("mlp_post", 0).within(SPAN[:, :52]).at("S")], method)
    assert list(two.gaps) == ["mlp_post[0]", "mlp_post[0] (2)"]
    assert patch(name, task, "z", "attribution").gaps == {}


@pytest.mark.parametrize("name", ["gpt2", "llama", "plain"])
@pytest.mark.parametrize("rule", ["midpoint", "gauss-legendre"])
def test_more_steps_close_the_gap(name: str, rule: Any) -> None:
    task = random_task((6, 6, 6), "right", [0, 1, 2], seed=4)
    for over, sites in (("inputs", ["embed@all"]), ("activation", ["resid_post[0]@all", "mlp_pre[1]"])):
        gaps = [
            abs(gap_of(patch(name, task, sites, IntegratedGradients(over, steps, rule)))["gap"])
            for steps in (2, 12, 80)
        ]
        # Gauss-Legendre is at the rounding of fp32 with 12 steps already
        assert gaps[0] > 20 * gaps[2] and (gaps[1] > gaps[2] or max(gaps[1:]) < 1e-6), (over, gaps)


def test_heads_add_up_to_their_layer() -> None:
    """Along an activation, the scores over a layer are the exact effect of patching it, shared out."""
    on, task = specimen("qwen3"), random_task((5, 6), "left", [0, 1], seed=4)
    method = IntegratedGradients("activation", 40)
    found = patch("qwen3", task, ["z", "mlp_post.n*"], method)
    exact = interp.patch(on.model, task, ["attn_out@all", "mlp_post@all"], progress=False)
    for ours, theirs in (("z", "attn_out@all"), ("mlp_post.n*", "mlp_post@all")):
        summed = found.effects(ours).sum(-1)
        torch.testing.assert_close(summed, exact.effects(theirs), atol=2e-4, rtol=2e-4)


def saturating_toy() -> tuple[Any, PromptPairs]:
    """One token whose number is a logit: its probability rises steeply from the base on, and then no more."""
    wiring = Wiring({"number": 1}, vocab_size=2, n_ctx=2, n_layers=1, n_heads=1, d_head=1)
    wiring.embed(1, number=1.0)
    wiring.unembed(1, number=12.0)
    answers, wrong = torch.tensor([1]), torch.tensor([0])
    return interp.load_model(wiring.model), PromptPairs(
        torch.tensor([[1]]), torch.tensor([[0]]), answers, wrong
    )


def test_a_left_sum_is_far_off_where_ours_is_not() -> None:
    model, task = saturating_toy()

    def effect(method: Any) -> float:
        scores = interp.patch(model, task, "embed@all", method=method, metric="probability", progress=False)
        return float(scores["embed"].raw) - scores["embed"].corrupted

    def left_sum(steps: int) -> float:
        """Gradients at 0, 1 / steps, 2 / steps ..."""
        numbers = (torch.arange(steps) / steps).requires_grad_()
        return float(torch.autograd.grad((12 * numbers).sigmoid().sum(), numbers)[0].mean())

    true = effect("exact")
    assert true == pytest.approx(0.5, abs=1e-4)
    assert effect("attribution") == pytest.approx(left_sum(1), abs=1e-5) == 3.0
    for steps, theirs in ((5, 0.62), (30, 0.10)):
        assert abs(left_sum(steps) / true - 1) == pytest.approx(theirs, abs=0.02)
        for rule, ours in (("midpoint", 0.02), ("gauss-legendre", 0.01)):
            found = effect(IntegratedGradients(steps=steps, quadrature=rule))
            assert abs(found / true - 1) < ours * 5 / steps, (rule, steps, found)


def test_points_share_forwards_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many points go into one forward, the numbers are the same."""
    on, task = specimen("gpt2"), random_task((4, 6, 5), "left", [0, 1, 2], seed=4)
    rows: list[int] = []
    call = type(on.model).__call__

    def counted(self: Any, tokens: Tensor, *args: Any, **options: Any) -> Tensor:
        rows.append(len(tokens))
        return call(self, tokens, *args, **options)

    monkeypatch.setattr(type(on.model), "__call__", counted)
    for over in ("inputs", "activation"):
        method = IntegratedGradients(over, 5, "midpoint")
        seen, found = [], []
        for budget in (1 << 30, 400_000, 1):
            rows.clear()
            found.append(patch("gpt2", task, ["z", "resid_pre"], method, memory_budget=budget))
            seen.append(max(rows))
        assert seen[0] >= 15 > seen[1] >= seen[2] == 1, seen
        for scores in found[1:]:
            for site in scores:
                assert_near(scores[site].per_prompt, found[0][site].per_prompt.double(), site)
        notes = [gap_of(scores) for scores in found]
        assert notes[1]["gap"] == pytest.approx(notes[0]["gap"], rel=0.06, abs=1e-5)
        assert notes[2]["cut"] == notes[0]["cut"]
