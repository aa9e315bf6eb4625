"""The circuit of one task and the performance on another: knocked out, and kept alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.graph import check_graph
from interp.circuits.proof.intervals import bootstrap_shares
from interp.circuits.proof.nulls import RandomCircuits
from interp.circuits.proof.scoring import score_circuits
from interp.circuits.runs import prepare_circuits
from interp.errors import CircuitError, unknown_name
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.members import gather_members
from interp.patching.prepared import prepare
from interp.results import Circuit, CrossTaskAblation, Graph, Provenance
from interp.results.across_tasks import ACTS
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Site

AblatedLevel = Literal["edges", "heads"]


def ablate_across_tasks(
    model: Model,
    tasks: Mapping[str, PromptPairs],
    circuits: Mapping[str, Circuit],
    *,
    level: AblatedLevel = "edges",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    n_random: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> CrossTaskAblation:
    """Knock out the circuit of every task, and keep it alone, and measure every task each time.

    Does task j need what the circuit of task i has? If it does, knocking circuit i out lowers the performance
    on j by more than knocking out as many random edges; if the circuit is enough for j, keeping it alone gives
    the performance of the whole model. Performance is the metric's mean over prompts, 1 = the whole model,
    0 = everything ablated, with bootstrap intervals over prompts.

    ``level="edges"`` runs circuits edge by edge: ablated edges carry what they carry in the ablated run,
    all others what they carry in this one. ``"heads"`` ablates the heads of the circuit together (or all other
    heads), whatever they feed; MLPs and the embedding are left alone, and 0 is then every head ablated.
    ``ablation="source"`` takes the values of each task's own corrupted prompts, so an edge that carries the
    same in both runs of a task is not touched there, however much the task needs it; ``"mean"`` and others are.

    For each circuit ``n_random`` random ones of its size are drawn, the same for every task. Edges that are
    knocked out are compared with as many into every reader, from other writers at random; a circuit that is
    kept with circuits made of random ways from the input to the logits, for random edges that lead nowhere
    would be too easy to beat (:mod:`interp.circuits.proof.nulls`). Heads are compared with as many of the
    same layers. ``metric`` is by default each task's own.

    Example::

        interp.ablate_across_tasks(model, {"ioi": ioi, "agreement": agreement}, circuits).plot()

    Raises :class:`CircuitError` without a task or a circuit, for circuits of different graphs or of no edge,
    and as :func:`interp.patch` does for options that do not fit.
    """
    if level not in get_args(AblatedLevel):
        raise CircuitError(unknown_name("level to ablate at", str(level), get_args(AblatedLevel)))
    if not 0 < confidence < 1 or n_random < 0:
        raise CircuitError(
            f"confidence must lie between 0 and 1 and n_random be at least 0; got {confidence} and {n_random}."
        )
    _check_circuits(tasks, circuits)
    sets = _sets_of(model, circuits, level)
    draw = _draw_edges if level == "edges" else _draw_heads
    graph = next(iter(circuits.values())).graph
    asked = [draw(graph, included, n_random, [seed, row]) for row, included in enumerate(sets)]
    options = {"ablation": ablation, "metric": metric, "seed": seed, "backend": backend}
    options |= {"memory_budget": memory_budget, "progress": False}
    measured: list[_Measured] = []
    for task in tqdm(tasks.values(), desc="ablate", unit="task", disable=not progress):
        run = _run_edges if level == "edges" else _run_heads
        measured.append(_measure(run(model, task, graph, options), asked, confidence, seed))
    return CrossTaskAblation(
        circuits=tuple(circuits),
        tasks=tuple(tasks),
        level=level,
        sizes=tuple(int(included.sum()) for included in sets),
        n_items=len(sets[0]),
        performance=torch.stack([found.performance[..., 0] for found in measured], dim=-1),
        low=torch.stack([found.low for found in measured], dim=-1),
        high=torch.stack([found.high for found in measured], dim=-1),
        random=torch.stack([found.performance[..., 1:] for found in measured], dim=2),
        full=torch.tensor([found.full for found in measured]),
        empty=torch.tensor([found.empty for found in measured]),
        metrics=tuple(found.provenance.metric or "metric" for found in measured),
        n_prompts=tuple(map(len, tasks.values())),
        confidence=confidence,
        provenance=_provenance(measured, tuple(tasks), seed),
        scores={name: found.scores for name, found in zip(tasks, measured, strict=True)},
    )


def _check_circuits(tasks: Mapping[str, PromptPairs], circuits: Mapping[str, Circuit]) -> None:
    if not tasks or not circuits:
        raise CircuitError(f"give at least one task and one circuit; got {len(tasks)} and {len(circuits)}.")
    (first, one), *others = circuits.items()
    for name, other in others:
        if not one.graph.same_edges(other.graph):
            raise CircuitError(
                f"the circuits of {first!r} and {name!r} have different graphs; build them alike."
            )


def _sets_of(model: Model, circuits: Mapping[str, Circuit], level: AblatedLevel) -> list[np.ndarray]:
    """[item] What each circuit has."""
    if level == "edges":
        sets = [circuit.included.cpu().numpy() for circuit in circuits.values()]
    else:
        n_layers, n_heads = model.traits.n_layers, model.traits.n_heads
        sets = [np.zeros(n_layers * n_heads, dtype=bool) for _ in circuits]
        for row, circuit in zip(sets, circuits.values(), strict=True):
            check_graph(circuit.graph, model)
            row[[layer * n_heads + head for layer, head in circuit.heads]] = True
    for name, included in zip(circuits, sets, strict=True):
        if not included.any():
            raise CircuitError(f"the circuit of {name!r} has no {level}; there is nothing to knock out.")
    return sets


@dataclass(frozen=True)
class _Asked:
    """What is left as it is, [item] each: the circuit's doing first, then that of random circuits."""

    knocked_out: list[np.ndarray]
    kept: list[np.ndarray]


def _draw_edges(graph: Graph, included: np.ndarray, n: int, seed: list[int]) -> _Asked:
    # one stream for each, so that neither changes when the other draws more
    alike, ways = (RandomCircuits(graph, np.random.default_rng([*seed, stream])) for stream in (0, 1))
    knocked_out = [included, *(alike.draw("degree", included) for _ in range(n))]
    return _Asked(
        [~one for one in knocked_out], [included, *(ways.draw("connected", included) for _ in range(n))]
    )


def _draw_heads(graph: Graph, included: np.ndarray, n: int, seed: list[int]) -> _Asked:
    """Random heads, as many of every layer."""
    rng = np.random.default_rng(seed)
    layers = included.reshape(graph.n_layers, graph.n_heads)
    drawn = [included, *(rng.permuted(layers, axis=1).ravel() for _ in range(n))]
    return _Asked([~one for one in drawn], drawn)


@dataclass(frozen=True)
class _Runs:
    """A task on a model, and the metric of every prompt with only some items left as they are."""

    score: Callable[[list[np.ndarray]], Float[Tensor, "set prompt"]]
    full: Float[Tensor, " prompt"]
    empty: Float[Tensor, " prompt"]
    provenance: Callable[[], Provenance]


def _run_edges(model: Model, task: PromptPairs, graph: Graph, options: dict[str, Any]) -> _Runs:
    runs = prepare_circuits(model, task, graph, **options)
    return _Runs(partial(score_circuits, runs), runs.full, runs.empty, partial(runs.provenance, "exact"))


def _run_heads(model: Model, task: PromptPairs, graph: Graph, options: dict[str, Any]) -> _Runs:
    """Every head noised that is not left as it is."""
    budget, progress = options["memory_budget"], options["progress"]
    wanted = {name: options[name] for name in ("ablation", "metric", "seed", "backend")}
    members, _ = gather_members(model, task, [[Site("z")]], "noise")
    prepared = prepare(model, task, members.places, direction="noise", **wanted)

    def score(left: list[np.ndarray]) -> Float[Tensor, "set prompt"]:
        groups = [[members.cells[i] for i in np.flatnonzero(~one)] for one in left]
        return prepared.scores(groups, budget, progress).cpu()

    everything = np.ones(len(members), dtype=bool)
    full, empty = score([everything, ~everything])
    return _Runs(score, full, empty, partial(prepared.provenance, "exact"))


@dataclass(frozen=True)
class _Measured:
    """All circuits on one task; the last axis of ``performance`` begins with the circuit itself."""

    performance: Float[Tensor, "act circuit draws"]
    low: Float[Tensor, "act circuit"]
    high: Float[Tensor, "act circuit"]
    scores: Float[Tensor, "act circuit prompt"]
    full: float
    empty: float
    provenance: Provenance


def _measure(runs: _Runs, asked: list[_Asked], confidence: float, seed: int) -> _Measured:
    sets = [one for act in ACTS for circuit in asked for one in getattr(circuit, act)]
    raw = runs.score(sets).double().cpu()
    full, empty = runs.full.double().cpu(), runs.empty.double().cpu()
    gap = float(full.mean() - empty.mean())
    value = (raw.mean(1) - empty.mean()) / (gap or float("nan"))
    own = raw.view(len(ACTS), len(asked), -1, raw.shape[1])[:, :, 0]
    shares = bootstrap_shares(own.flatten(0, 1), full, empty, seed)
    ends = [shares.interval(row, confidence) for row in range(len(shares.value))]
    low, high = (torch.tensor([getattr(e, end) for e in ends]).view(own.shape[:2]) for end in ("low", "high"))
    return _Measured(
        performance=value.view(len(ACTS), len(asked), -1).float(),
        low=low,
        high=high,
        scores=own.float(),
        full=float(full.mean()),
        empty=float(empty.mean()),
        provenance=runs.provenance(),
    )


def _provenance(measured: list[_Measured], tasks: tuple[str, ...], seed: int) -> Provenance:
    made = [found.provenance for found in measured]
    metrics = list(dict.fromkeys(one.metric for one in made))
    notes = dict.fromkeys(
        f"{task}: {note}" for task, one in zip(tasks, made, strict=True) for note in one.notes
    )
    return replace(
        made[0],
        task=", ".join(tasks),
        n_prompts=made[0].n_prompts if len({one.n_prompts for one in made}) == 1 else None,
        metric=metrics[0] if len(metrics) == 1 else None,
        method="cross-task ablation",
        seed=seed,
        seconds=sum(one.seconds or 0.0 for one in made),
        notes=tuple(notes),
    )
