"""Calls of gradient scores of edges that have a meaning, each beside the naive route to its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attribution_cases import ABLATIONS, DIRECTIONS, LAYOUTS, METRICS, TOLERANCE
from hypothesis import strategies as st
from model_zoo import HOOKED, NAMES, Specimen, specimen
from naive_edge_gradients import NaiveEdges
from random_tasks import random_task
from torch import Tensor

from interp.circuits.gradients import (
    EdgeEstimates,
    EdgeMethodLike,
    resolve_edge_method,
    score_edges_by_gradients,
)
from interp.circuits.graph import build_graph
from interp.models.hooks import HookEdit, installed_edits
from interp.models.model import Model
from interp.results import Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import resolve_metric

WITH_BLOCKS = tuple(name for name in NAMES if name not in HOOKED)
GRAPHS = ("", "S", "pos", "neurons", "all neurons of a layer", "neurons at S")


@dataclass(frozen=True)
class EdgeCase:
    """One call but for its method: a kind of model, the shape of a task, a graph and the options."""

    on: Specimen
    lengths: tuple[int, ...]
    side: str
    first_difference: tuple[int, ...]
    seed: int
    ablation: str
    direction: str
    metric: Any
    """A name, or a function of the logits."""
    graph_kind: str = ""

    @property
    def model(self) -> Model:
        return self.on.model

    @property
    def task(self) -> PromptPairs:
        return random_task(self.lengths, self.side, self.first_difference, self.seed)

    @property
    def graph(self) -> Graph:
        options: dict[str, Any] = {}
        if self.model.traits.d_mlp and self.graph_kind == "all neurons of a layer":
            options["neurons"] = {0: range(self.model.traits.d_mlp)}
        elif self.model.traits.d_mlp and "neurons" in self.graph_kind:
            options["neurons"] = {0: [2, 3, 40], 1: [7]}
        if self.graph_kind == "pos":
            options["positions"] = "pos"
        elif "S" in self.graph_kind:
            apart = bool((self.task.columns_of("S") != self.task.end).all())
            options["positions"] = ["S", "END"] if apart else ["S"]
        return build_graph(self.model, self.task, **options)

    @property
    def options(self) -> dict[str, Any]:
        return {"direction": self.direction, "ablation": self.ablation, "seed": 2}

    @property
    def naive(self) -> NaiveEdges:
        return NaiveEdges.of(self.on, self.task, self.graph, metric=self.metric, **self.options)

    def estimate(self, method: EdgeMethodLike, **options: Any) -> EdgeEstimates:
        """The call itself."""
        task, chosen = self.task, resolve_edge_method(method)
        assert chosen is not None
        options = {"progress": False, "memory_budget": 1 << 28} | self.options | options
        metric = resolve_metric(self.metric, task)
        return score_edges_by_gradients(self.model, task, self.graph, chosen, metric, **options)

    @contextmanager
    def only_hooks(self) -> Iterator[None]:
        """An edit that does nothing, beside which block functions are not used."""
        with installed_edits(
            self.model, [HookEdit(self.model.family.hook_names(self.model.traits)["embed"], _leave)]
        ):
            yield


def _leave(value: Tensor) -> None:
    return None


def fixed_edge_case(name: str, layout: int, graph_kind: str | None = None) -> EdgeCase:
    """A kind of model in one layout, with all else in turn."""
    i = NAMES.index(name)
    side, lengths = LAYOUTS[layout]
    choices = [ablation for ablation in ABLATIONS if ablation != "resample" or layout == 0]
    kinds = [kind for kind in GRAPHS if kind != "pos" or layout == 0]
    return EdgeCase(
        specimen(name),
        lengths,
        side,
        (1, 2, 1),
        3 + i,
        choices[(i + 2 * layout) % len(choices)],
        DIRECTIONS[(i + layout) % 2],
        METRICS[(i + 3 * layout) % len(METRICS)],
        kinds[(i + layout) % len(kinds)] if graph_kind is None else graph_kind,
    )


@st.composite
def edge_cases(
    draw: st.DrawFn, names: Sequence[str] = NAMES, ablations: Sequence[str] = ABLATIONS
) -> EdgeCase:
    """Any call."""
    ablation = draw(st.sampled_from(ablations))
    n = draw(st.integers(2 if ablation == "resample" else 1, 3))
    lengths = [draw(st.integers(3, 7)) for _ in range(n)]
    if ablation == "resample" or draw(st.booleans()):
        lengths = [lengths[0]] * n
    kinds = [kind for kind in GRAPHS if kind != "pos" or len(set(lengths)) == 1]
    return EdgeCase(
        specimen(draw(st.sampled_from(names))),
        tuple(lengths),
        draw(st.sampled_from(("left", "right"))),
        tuple(draw(st.integers(0, length)) for length in lengths),
        draw(st.integers(0, 1000)),
        ablation,
        draw(st.sampled_from(DIRECTIONS)),
        draw(st.sampled_from(METRICS)),
        draw(st.sampled_from(kinds)),
    )


def mass_everywhere(logits: Tensor) -> Tensor:
    """A metric, one number a prompt, of more than its last position: of all columns, padding included."""
    return logits[:, -1].logsumexp(-1) + logits.softmax(-1)[:, :, 3].pow(2).sum(1)


def assert_estimates(found: Tensor, expected: Tensor, what: object) -> None:
    """Means over prompts are those expected, [edge, prompt], up to rounding of the largest; NaN is not
    expected."""
    mean = expected.mean(1)
    known = ~mean.isnan()
    assert bool(known.any()) and not bool(found.isnan().any()), what
    size = max(float(mean[known].abs().max()), 0.2)
    error = float((found.double() - mean)[known].abs().max())
    assert error <= TOLERANCE * size, f"{what}: off by {error} where the largest is {size}"


def assert_errors(found: Tensor, expected: Tensor, what: object) -> None:
    """Standard errors over prompts are those of effects [edge, prompt]."""
    n = expected.shape[1]
    if n == 1:
        assert bool(found.isnan().all())
        return
    spread = expected.std(1) / n**0.5
    error = float((found.double() - spread).abs().max())
    assert error <= TOLERANCE * max(float(expected.abs().max()), 0.2), (
        f"{what}: standard errors off by {error}"
    )
