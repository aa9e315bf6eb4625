"""The engine beside patching through hooks, on whatever hypothesis thinks of."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import specimen
from random_tasks import random_task
from torch import Tensor

import interp
from interp.models.model import Model
from interp.patching.cells import Cell, plan_sweep
from interp.patching.prepared import prepare
from interp.tasks.base import PromptPairs
from interp.types import NEURON_COMPONENTS, PATTERN_COMPONENTS, Site, SiteLike, parse_site

FAMILIES = (
    "gpt2 gpt_neox llama gemma2 qwen3 plain attention_only neox_sequential qwen3_biased no_norm gated".split()
)
ABLATIONS = ("source", "zero", "mean", "mean-per-position", "resample")
COMPONENTS = (
    "embed resid_pre resid_mid resid_post attn_out mlp_in mlp_out q k v z result pattern attn_scores "
    "mlp_pre mlp_pre_linear mlp_post"
).split()
PLACES = ("", "@pos", "@all", "@S", "@END", "@-2", "@1:3", "@S,END")
METRICS = ("logit_diff", "kl", "prob_diff", "logit_diff@S", "loss")
TOLERANCE = 1e-4
"""Of the metric's range, and of a fifth of a unit where that is smaller: logits of size 5 round at 5e-7."""


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A family, the shape of a task and the options of a call, all that have a meaning together."""
    ablation = draw(st.sampled_from(ABLATIONS))
    n = draw(st.integers(2 if ablation == "resample" else 1, 4))
    lengths = [draw(st.integers(2, 9)) for _ in range(n)]
    if ablation == "resample" or draw(st.booleans()):
        lengths = [lengths[0]] * n
    return {
        "family": draw(st.sampled_from(FAMILIES)),
        "lengths": lengths,
        "side": draw(st.sampled_from(("left", "right"))),
        "first_difference": [draw(st.integers(0, length)) for length in lengths],
        "seed": draw(st.integers(0, 1000)),
        "ablation": ablation,
        "direction": draw(st.sampled_from(("denoise", "noise"))),
        "metric": draw(st.sampled_from(METRICS)),
        "memory_budget": draw(st.sampled_from((1 << 30, 1 << 24, 2_000_000))),
    }


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call."""
    shape = [case[name] for name in ("lengths", "side", "first_difference", "seed")]
    kept = {name: case[name] for name in ("ablation", "direction", "metric", "memory_budget")}
    return {"model": specimen(case["family"]).model, "task": random_task(*shape)} | kept


def site_of(draw: st.DataObject, model: Model, ablation: str, padded: bool) -> Site:
    names = [name for name in COMPONENTS if name in model.components]
    if ablation == "mean" or (ablation == "mean-per-position" and padded):
        names = [name for name in names if name not in PATTERN_COMPONENTS]
    if ablation == "mean-per-position":
        names = [name for name in names if name != "attn_scores"]
    name = draw.draw(st.sampled_from(names))
    part = ""
    if name in NEURON_COMPONENTS:
        part = draw.draw(st.sampled_from(("", ".n3", ".n0,7", ".n*" if len(names) < 13 else ".n1")))
    site = parse_site(f"{name}{part}{draw.draw(st.sampled_from(PLACES))}")
    if name in (*PATTERN_COMPONENTS, "embed") or part or draw.draw(st.integers(0, 3)):
        return site
    width = model.traits.d_head if "d_head" in site.axes else model.traits.d_model
    width = model.traits.d_mlp if "d_mlp" in site.axes else width
    basis = torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    return site.within(basis)


def assert_same(ours: Tensor, theirs: Tensor, scale: float, what: object) -> None:
    difference = float((ours - theirs).abs().max())
    assert difference <= TOLERANCE * max(scale, 0.2), f"{what}: {difference} of {scale}"


def range_of(scores: Tensor, *baselines: float) -> float:
    every = torch.cat([scores.flatten(), torch.tensor(baselines)])
    return float(every.max() - every.min())


@settings(max_examples=90, suppress_health_check=list(HealthCheck))
@given(cases(), st.data())
def test_any_sweep(case: dict[str, Any], data: st.DataObject) -> None:
    options = options_of(case)
    model, task, ablation = options["model"], options["task"], case["ablation"]
    padded = task.attention_mask is not None
    sites: list[SiteLike] = [site_of(data, model, ablation, padded) for _ in range(3)]
    # one entry for each spelling: a subspace has none
    sites = list({str(site): site for site in sites}.values())
    ours, theirs = (
        interp.patch(**options, sites=sites, backend=backend, progress=False)
        for backend in ("wavefront", "hooked")
    )
    assert ours.provenance.backend == "wavefront" and theirs.provenance.backend == "hooked"
    for site in ours:
        a, b = ours[site], theirs[site]
        assert a.axes == b.axes and a.labels == b.labels
        assert a.per_prompt is not None and b.per_prompt is not None
        scale = range_of(b.per_prompt, b.clean, b.corrupted)
        assert_same(a.per_prompt, b.per_prompt, scale, (case, site))
        assert_same(torch.tensor([a.clean, a.corrupted]), torch.tensor([b.clean, b.corrupted]), scale, case)


def cells_of(model: Model, task: PromptPairs, site: Site) -> list[Cell]:
    return list(plan_sweep(model, task, site, "denoise").cells)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(cases(), st.data())
def test_any_set_of_sites_together(case: dict[str, Any], data: st.DataObject) -> None:
    options = options_of(case)
    model, task, ablation = options["model"], options["task"], case["ablation"]
    budget = options.pop("memory_budget")
    padded = task.attention_mask is not None
    pool = [cell for _ in range(4) for cell in cells_of(model, task, site_of(data, model, ablation, padded))]
    groups = [data.draw(st.lists(st.sampled_from(pool), max_size=5)) for _ in range(5)]
    if not any(groups):
        groups.append(pool[:2])
    places = {(cell.component, cell.layer) for cell in pool}
    ours, theirs = (
        prepare(components=places, backend=backend, **options).scores(groups, budget, progress=False)
        for backend in ("wavefront", "hooked")
    )
    for group, a, b in zip(groups, ours, theirs, strict=True):
        assert_same(a, b, range_of(theirs), (case, [str(cell) for cell in group]))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(cases(), st.data())
def test_any_function_of_logits(case: dict[str, Any], data: st.DataObject) -> None:
    options = options_of(case)
    task = options["task"]
    rows = torch.arange(len(task))
    functions: tuple[Any, ...] = (
        lambda logits: logits[rows, task.end].logsumexp(-1),
        lambda logits: (logits[rows, task.end, 3] * logits[rows, task.offsets, 2]).mean(),
        lambda logits: logits.float().softmax(-1)[task.mask].max(),
    )
    options["metric"] = functions[data.draw(st.integers(0, 2))]
    site = site_of(data, options["model"], case["ablation"], task.attention_mask is not None)
    ours, theirs = (
        interp.patch(**options, sites=site, backend=backend, progress=False)[str(site)].per_prompt
        for backend in ("wavefront", "hooked")
    )
    assert_same(ours, theirs, range_of(theirs), (case, site))
