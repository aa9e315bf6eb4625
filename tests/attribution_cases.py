"""Calls of ``interp.patch(method=...)`` that have a meaning, each beside the naive route to its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from model_zoo import NAMES, specimen
from naive_attribution import NaiveAttribution, cells_of
from random_tasks import random_task
from torch import Tensor

import interp
from interp.models.model import Model
from interp.results import PatchScores, SiteScores
from interp.tasks.base import PromptPairs
from interp.types import HEAD_COMPONENTS, NEURON_COMPONENTS, PATTERN_COMPONENTS, Site, parse_site

ABLATIONS = ("source", "zero", "mean", "mean-per-position", "resample")
DIRECTIONS = ("denoise", "noise")
METRICS = ("logit_diff", "kl", "prob_diff", "loss", "logit_diff@S")
PLACES = ("", "@pos", "@all", "@-1", "@1:3", "@S", "@S,END")
NEURONS = ("", ".n*", ".n3,5")
HEADS = ("", "[*.1]", "[1.0]", "[0.1]")
LAYOUTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("right", (6, 6, 6)),
    ("left", (4, 7, 5)),
    ("right", (5, 7, 4)),
)
SPAN = torch.randn(2, 64, generator=torch.Generator().manual_seed(8))

TOLERANCE = 5e-5
"""Of the range of what is expected, and of a fifth of a unit where that is smaller; logits of size 20 round
at 2e-6."""


@dataclass(frozen=True)
class Case:
    """One call: a kind of model, the shape of a task, and the options."""

    name: str
    lengths: tuple[int, ...]
    side: str
    first_difference: tuple[int, ...]
    seed: int
    ablation: str
    direction: str
    metric: str
    sites: tuple[Site, ...]

    @property
    def model(self) -> Model:
        return specimen(self.name).model

    @property
    def task(self) -> PromptPairs:
        return random_task(self.lengths, self.side, self.first_difference, self.seed)

    @property
    def options(self) -> dict[str, Any]:
        return {"direction": self.direction, "ablation": self.ablation, "metric": self.metric, "seed": 2}

    @property
    def naive(self) -> NaiveAttribution:
        return NaiveAttribution(specimen(self.name), self.task, **self.options)

    def patch(self, method: Any, **options: Any) -> PatchScores:
        """The call itself."""
        options = {"progress": False} | self.options | options
        return interp.patch(self.model, self.task, self.sites, method=method, **options)

    def entries(self, found: PatchScores) -> Iterator[tuple[SiteScores, list[Site]]]:
        """The scores of every site, and the place of each of their entries."""
        for site in self.sites:
            scores = found[str(site)]
            yield scores, cells_of(site, scores)


def fits(component: str, ablation: str, padded: bool) -> bool:
    """Whether an ablation of a component has a meaning: patterns are averaged where they match."""
    if component not in PATTERN_COMPONENTS or not ablation.startswith("mean"):
        return True
    return ablation == "mean-per-position" and not padded


def width_of(component: str, model: Model, n_pos: int) -> int:
    axis = Site(component).axes[-1]
    return n_pos if axis == "src_pos" else getattr(model.traits, axis)


def fixed_case(name: str, layout: int, only: Sequence[str] | None = None) -> Case:
    """Components (or ``only`` some) of one kind of model in one layout, with all else in turn."""
    i, k, model = NAMES.index(name), layout, specimen(name).model
    side, lengths = LAYOUTS[layout]
    padded = len(set(lengths)) > 1
    choices = [ablation for ablation in ABLATIONS if ablation != "resample" or not padded]
    ablation = choices[(i + 2 * k) % len(choices)]
    sites = []
    for j, component in enumerate(model.components):
        neurons = NEURONS[(i + j + k) % len(NEURONS)] if component in NEURON_COMPONENTS else ""
        heads = HEADS[(i + j + 2 * k) % len(HEADS)] if component in HEAD_COMPONENTS else ""
        place = PLACES[(i + 2 * j + 3 * k) % len(PLACES)]
        # some of them where prompts are padded, the others where they are padded on the other side
        chosen = layout == 0 or (j + k) % 2 == 0 or component in PATTERN_COMPONENTS or only is not None
        if chosen and fits(component, ablation, padded) and component in (only or model.components):
            sites.append(parse_site(f"{component}{heads}{neurons}{place}"))
    direction, metric = DIRECTIONS[(i + k) % 2], METRICS[(i + 3 * k) % len(METRICS)]
    return Case(name, lengths, side, (0, 2, 1), 3 + i, ablation, direction, metric, tuple(sites))


@st.composite
def cases(
    draw: st.DrawFn,
    names: Sequence[str] = NAMES,
    only: Sequence[str] | None = None,
    ablations: Sequence[str] = ABLATIONS,
    places: Sequence[str] = PLACES,
) -> Case:
    """A call with two sites, of which ``only`` some components."""
    ablation = draw(st.sampled_from(ablations))
    n = draw(st.integers(2 if ablation == "resample" else 1, 3))
    lengths = [draw(st.integers(2, 7)) for _ in range(n)]
    if ablation == "resample" or draw(st.booleans()):
        lengths = [lengths[0]] * n
    name = draw(st.sampled_from(names))
    model, padded = specimen(name).model, len(set(lengths)) > 1
    known = [c for c in only or model.components if c in model.components and fits(c, ablation, padded)]
    sites = [draw(_sites(known or ["z"], model, ablation, max(lengths), places)) for _ in range(2)]
    return Case(
        name,
        tuple(lengths),
        draw(st.sampled_from(("left", "right"))),
        tuple(draw(st.integers(0, length)) for length in lengths),
        draw(st.integers(0, 1000)),
        ablation,
        draw(st.sampled_from(DIRECTIONS)),
        draw(st.sampled_from(METRICS)),
        # one entry for each spelling: a subspace has none
        tuple({str(site): site for site in sites}.values()),
    )


@st.composite
def _sites(
    draw: st.DrawFn, components: Sequence[str], model: Model, ablation: str, n_pos: int, places: Sequence[str]
) -> Site:
    component = draw(st.sampled_from(components))
    neurons = draw(st.sampled_from(NEURONS)) if component in NEURON_COMPONENTS else ""
    part = ""
    if component != "embed" and draw(st.integers(0, 2)) == 0:
        part = f"[{draw(st.integers(0, 1))}]"
    if component in HEAD_COMPONENTS and draw(st.integers(0, 2)) == 0:
        part = draw(st.sampled_from(HEADS[1:]))
    site = parse_site(f"{component}{part}{neurons}{draw(st.sampled_from(places))}")
    # what is masked has no place in a subspace with what is not
    if draw(st.integers(0, 3)) or (component == "attn_scores" and ablation == "zero"):
        return site
    width = {"": width_of(component, model, n_pos), ".n*": 1, ".n3,5": 2}[neurons]
    return site.within(SPAN[: min(2, width), :width])


def assert_near(found: Tensor, expected: Tensor, what: object, scale: float | None = None) -> None:
    """Equal up to rounding in fp32, relative to the range of what is expected."""
    if scale is None:
        scale = float(expected.max() - expected.min())
    error = float((found.double() - expected).abs().max())
    assert error <= TOLERANCE * max(scale, 0.2), f"{what}: off by {error} where the range is {scale}"


def assert_scores(case: Case, scores: SiteScores, expected: Tensor) -> None:
    """Per-prompt scores, their mean and the baselines are those of the naive route."""
    naive = case.naive
    scored = naive.base_score + expected
    assert scores.per_prompt is not None
    assert_near(scores.per_prompt.reshape(expected.shape), scored, (case, scores.site))
    torch.testing.assert_close(scores.raw, scores.per_prompt.mean(-1))
    base = scores.corrupted if case.direction == "denoise" else scores.clean
    assert_near(torch.tensor(base), naive.base_score.mean(), (case, "base"), 1.0)
