"""Attribution patching beside the derivative of the metric as a patch is scaled up from nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attribution_cases import (
    ABLATIONS,
    DIRECTIONS,
    HEADS,
    LAYOUTS,
    METRICS,
    NEURONS,
    PLACES,
    SPAN,
    Case,
    assert_near,
    assert_scores,
    cases,
    fixed_case,
)
from hypothesis import HealthCheck, given, settings
from model_zoo import NAMES, make_bare, specimen
from naive_attribution import NaiveAttribution, cells_of
from random_tasks import random_task
from torch import Tensor

import interp
from interp.tasks.base import PromptPairs
from interp.types import PATTERN_COMPONENTS, Site, parse_site


def test_the_reference_is_a_slope() -> None:
    for name in ("gpt2", "gemma2", "qwen3"):
        naive = NaiveAttribution(specimen(name), random_task([5, 6], "left", [0, 1], seed=1), metric="kl")
        cells = [
            parse_site(text) for text in ("z[0.1]", "mlp_pre[1].n3@-1", "k[0.1]@1:3", "pattern[1.2]", "embed")
        ]
        cells.append(parse_site("resid_pre[1]@S").within(SPAN[:, :36]))
        for cell, slope in zip(cells, naive.derivatives(cells), strict=True):
            step = 1e-5
            rise = (naive.patched(cell, step) - naive.patched(cell, -step)) / (2 * step)
            torch.testing.assert_close(slope, rise, atol=1e-8, rtol=1e-6, msg=lambda m, c=cell: f"{c}: {m}")


def test_the_fixed_cases_are_of_every_kind() -> None:
    fixed = [fixed_case(name, layout) for name in NAMES for layout in range(len(LAYOUTS))]
    assert {(case.ablation, case.direction) for case in fixed} == {
        (a, d) for a in ABLATIONS for d in DIRECTIONS
    }
    assert {case.metric for case in fixed} == set(METRICS)
    for name in NAMES:
        components = {site.component for case in fixed if case.name == name for site in case.sites}
        assert components == set(specimen(name).model.components)
    drawn = {str(site) for case in fixed for site in case.sites}
    assert {f"resid_pre{place}" for place in PLACES} <= drawn
    assert all(any(text.endswith(place) for text in drawn if text.startswith("z")) for place in PLACES)
    assert all(any(part in text for text in drawn) for part in (*NEURONS, *HEADS))


def check_first_order(case: Case) -> None:
    found, naive = case.patch("attribution"), case.naive
    for scores, cells in case.entries(found):
        assert_scores(case, scores, naive.derivatives(cells))


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
@pytest.mark.parametrize("name", NAMES)
def test_every_component_of_every_family(name: str, layout: int) -> None:
    check_first_order(fixed_case(name, layout))


@settings(max_examples=75, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_sweep(case: Case) -> None:
    check_first_order(case)


def difference(task: PromptPairs, logits: Tensor) -> Tensor:
    rows = torch.arange(len(task))
    last = logits[rows, task.end]
    return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]


@pytest.mark.parametrize(
    ("name", "direction"),
    [("gpt2", "denoise"), ("gpt_neox", "noise"), ("gated", "denoise"), ("no_norm", "noise")],
)
def test_the_slope_of_an_intervention_in_double_precision(name: str, direction: Any) -> None:
    model = interp.load_model(make_bare(name).double())
    task = random_task([6, 6], "right", [0, 2], seed=4)
    base, other = (task.corrupted, task.clean) if direction == "denoise" else (task.clean, task.corrupted)
    sites = [
        parse_site(text)
        for text in ("z", "resid_pre@pos", "attn_out@all", "mlp_post.n3,5@-1", "k@S", "result")
    ]
    sites.append(Site("mlp_out", 0).within(SPAN[:, :36].double()))
    with torch.no_grad():
        run, source = (
            interp.capture(model, tokens, {site.component for site in sites}) for tokens in (base, other)
        )
    found = interp.patch(model, task, sites, direction=direction, method="attribution", progress=False)
    for site in sites:
        scores = found[str(site)]
        assert scores.per_prompt is not None and scores.per_prompt.dtype == torch.float64
        expected = []
        for cell in cells_of(site, scores):
            whole = Site(cell.component, cell.layer)
            move = source[whole] - run[whole]
            sides = []
            for step in (1e-4, -1e-4):
                change = interp.add(cell, move, scale=step)
                with torch.no_grad(), interp.intervene(model, change, labels=task.labels):
                    sides.append(difference(task, model(base)))
            expected.append((sides[0] - sides[1]) / 2e-4)
        with torch.no_grad():
            ours = scores.per_prompt.view(len(expected), -1) - difference(task, model(base))
        torch.testing.assert_close(
            ours, torch.stack(expected), atol=1e-6, rtol=1e-6, msg=lambda m, s=site: f"{s}: {m}"
        )


def last_mass(logits: Tensor) -> Tensor:
    """One number a prompt, of more than its last position."""
    return logits[:, -1].logsumexp(-1) + logits.softmax(-1)[:, :, 3].sum(1)


def spread(logits: Tensor) -> Tensor:
    """One number for the whole batch, in which prompts do not add up."""
    return logits[:, -1, :5].softmax(0).pow(2).sum() + logits[:, -1, 7].prod()


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gated", "hooked"])
@pytest.mark.parametrize("metric", [last_mass, spread])
def test_a_function_of_the_logits(name: str, metric: Callable[[Tensor], Tensor]) -> None:
    on, task = specimen(name), random_task([6, 6, 6], "right", [0, 1, 3], seed=6)
    sites = [parse_site(text) for text in ("z", "resid_post", "mlp_post.n*", "v@pos")]
    found = interp.patch(on.model, task, sites, metric=metric, method="attribution", progress=False)
    naive = NaiveAttribution(on, task, metric=metric)
    for site in sites:
        scores, cells = found[str(site)], cells_of(site, found[str(site)])
        assert scores.per_prompt is not None
        if metric is last_mass:
            expected = naive.base_score + naive.derivatives(cells)
            assert_near(scores.per_prompt.reshape(expected.shape), expected, site)
            continue
        # all prompts move together: only what the whole batch comes to has a meaning
        slopes = naive.derivatives(cells).sum(1) / len(task)
        assert_near(scores.raw.flatten(), naive.base_score.mean() + slopes, site)


def test_other_reference_prompts_and_other_partners() -> None:
    on, task = specimen("llama"), random_task([4, 6, 5], "left", [0, 1, 2], seed=7)
    others = random_task([7, 5], "right", [0, 0], seed=8)
    site = parse_site("resid_post")
    for ablation in ("mean", "mean-per-position"):
        found = interp.patch(
            on.model, task, site, ablation=ablation, reference=others, method="attribution", progress=False
        )[str(site)]
        naive = NaiveAttribution(on, task, ablation=ablation, reference=others)
        expected = naive.base_score + naive.derivatives(cells_of(site, found))
        assert_near(found.per_prompt.reshape(expected.shape), expected, ablation)
    task = random_task([5] * 4, "right", [0] * 4, seed=9)
    seen = []
    for seed in (0, 3):
        options = {"ablation": "resample", "seed": seed}
        found = interp.patch(on.model, task, site, method="attribution", progress=False, **options)[str(site)]
        naive = NaiveAttribution(on, task, **options)
        expected = naive.base_score + naive.derivatives(cells_of(site, found))
        assert_near(found.per_prompt.reshape(expected.shape), expected, seed)
        seen.append(found.raw)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("name", NAMES)
def test_relevance_without_rules_is_attribution(name: str) -> None:
    model, task = specimen(name).model, random_task([4, 6, 5], "left", [0, 1, 2], seed=5)
    sites = [c for c in model.components if c not in PATTERN_COMPONENTS]
    plain, ruled = (
        interp.patch(model, task, sites, method=method, ablation="mean", direction="noise", progress=False)
        for method in ("attribution", interp.Relevance("gradient"))
    )
    for site in plain:
        assert torch.equal(plain[site].per_prompt, ruled[site].per_prompt), site
    assert ruled.provenance.method == "relevance:gradient"


@pytest.mark.parametrize("rules", ["relp", "relp-ah", "attnlrp"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "qwen3", "gated", "hooked"])
def test_relevance_is_the_change_times_its_coefficient(name: str, rules: str) -> None:
    model, task = specimen(name).model, random_task([6, 6], "right", [0, 1], seed=5)
    sites = [parse_site(f"{c}@all") for c in model.components if c not in ("result", "attn_scores")]
    with interp.relevance_rules(model, rules):
        run = interp.capture(
            model, task.corrupted, [s.component for s in sites], gradients_of=lambda x: difference(task, x)
        )
    with torch.no_grad():
        source = interp.capture(model, task.clean, [s.component for s in sites])
        base = difference(task, model(task.corrupted))
    found = interp.patch(model, task, sites, method=interp.Relevance(rules), progress=False)
    assert run.grads is not None
    for site in sites:
        scores = found[str(site)]
        for cell, ours in zip(cells_of(site, scores), scores.per_prompt.reshape(-1, len(task)), strict=True):
            place = Site(cell.component, None if cell.component == "embed" else cell.layer)
            product = (source[place] - run[place]) * run.grads[place]
            if cell.head is not None:
                product = product.select(1 if cell.component in PATTERN_COMPONENTS else 2, cell.head)
            effect = product.flatten(1).sum(1)
            assert_near(ours, (base + effect).double(), (str(cell), rules), float(product.abs().sum()))


def test_what_a_user_has_set_stays_as_it_was() -> None:
    module = copy.deepcopy(make_bare("llama"))
    model = interp.load_model(module)
    frozen = [parameter for i, parameter in enumerate(model.module.parameters()) if i % 3]
    for parameter in frozen:
        parameter.requires_grad_(False)
    task = random_task([5, 5], "right", [0, 0], seed=1)
    before = [p.requires_grad for p in model.module.parameters()]
    with torch.no_grad():
        inside = interp.patch(model, task, ["z", "resid_pre"], method="attribution", progress=False)
    outside = interp.patch(model, task, ["z", "resid_pre"], method="attribution", progress=False)
    assert torch.equal(inside["z"].raw, outside["z"].raw)
    assert [p.requires_grad for p in model.module.parameters()] == before and len(set(before)) == 2
    assert all(parameter.grad is None for parameter in model.module.parameters())
