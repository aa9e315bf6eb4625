"""A search for circuits that is kept in a folder: scored, cut, tested and written, and resumable at any moment.

What ``interp find-circuit`` does, and what a script calls to have the same files and numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from interp.circuits.acdc import search_acdc
from interp.circuits.choose import choose_circuit
from interp.circuits.graph import build_graph
from interp.circuits.plan import ACDC, EXACT, Cut, SearchPlan
from interp.circuits.proof.faithfulness import measure_faithfulness
from interp.circuits.runs import CircuitRuns, prepare_circuits
from interp.circuits.score import score_edges, verify_edges
from interp.circuits.search_files import (
    PARTS,
    SUMMARY,
    Kept,
    SearchFiles,
    forget_search,
    without_time,
    write_json,
)
from interp.circuits.search_folder import describe_search
from interp.circuits.search_summary import Check, summarize_search
from interp.models.model import Model
from interp.results import Circuit, EdgeScores, Faithfulness, Graph, MethodAgreement, Provenance
from interp.results.storage import write_whole
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import resolve_metric


@dataclass(frozen=True)
class CircuitSearch:
    """What a search found. All of it lies in the folder too; returned by :func:`search_circuits`."""

    folder: Path
    plan: SearchPlan
    graph: Graph
    circuits: tuple[Circuit, ...]
    """One for each of :attr:`cuts`; it may have fewer edges than asked for, or none, once pruned."""
    scores: EdgeScores | None
    """``None`` with ACDC, which scores no edge."""
    faithfulness: Faithfulness | None
    """Of the circuits, in the order of their size; ``None`` where it was not asked for, as the others."""
    curve: Faithfulness | None
    """Of circuits of every size on MIB's grid, with CPR and CMD."""
    agreement: MethodAgreement | None
    """Of estimated scores with exact patching."""
    notes: tuple[str, ...]
    """What was not done although a plan asks for it by default, and why."""
    read_back: tuple[str, ...]
    """Steps that an earlier run had finished; the numbers are those of a search that was never stopped."""

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The circuits asked for."""
        return self.plan.cuts

    @property
    def provenance(self) -> Provenance:
        """Of the scores, or of ACDC."""
        return self.circuits[0].provenance if self.scores is None else self.scores.provenance

    @property
    def ranks(self) -> tuple[int, ...]:
        """Where each circuit stands in :attr:`faithfulness`, which orders them by their size."""
        order = sorted(range(len(self.circuits)), key=lambda i: self.circuits[i].n_edges)
        return tuple(order.index(i) for i in range(len(order)))

    @property
    def largest(self) -> int:
        """The number of the circuit with the most edges, which ``min_faithfulness`` is about."""
        return self.ranks.index(len(self.ranks) - 1)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """What the plan bounds, and whether it holds. An undefined number fails."""
        found = []
        if self.plan.min_faithfulness is not None and self.faithfulness is not None:
            value = float(self.faithfulness.values[0, -1])
            label = self.cuts[self.largest].label
            found.append(
                Check(f"faithfulness of the largest circuit ({label})", value, self.plan.min_faithfulness)
            )
        if self.plan.min_agreement is not None and self.agreement is not None:
            value = self.agreement.pearson.value
            found.append(Check("Pearson's r with exact patching", value, self.plan.min_agreement))
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether every check holds; true without any."""
        return all(check.passed for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """Every figure as plain values, as ``summary.json`` holds them; NaN is ``None``."""
        return summarize_search(self)


def search_circuits(
    model: Model,
    task: PromptPairs,
    plan: SearchPlan | None = None,
    *,
    folder: str | Path,
    restart: bool = False,
    progress: bool = True,
) -> CircuitSearch:
    """Find circuits by a plan, test them, and keep everything in ``folder``.

    The folder gets the edges' scores (``scores.safetensors``), each circuit as JSON, for Graphviz and for
    circuit-tracer's frontend, the agreement of an estimate with exact patching, the faithfulness of
    the circuits and of every size on MIB's grid, and ``summary.json`` with every figure; how long steps took is
    in ``times.json`` alone. Stopped at any moment, the same call goes on: finished steps are read back, and exact
    scores and ACDC go on inside. The files are then, to the bit, those of a search that was not stopped.
    ``restart`` deletes what an earlier search left there (and nothing else) and begins anew.

    Example::

        plan = interp.SearchPlan(method="relevance", edges=(0.01, 0.02, 0.05))
        found = interp.search_circuits(model, task, plan, folder="ioi-relevance")
        found.circuits[1].plot()

    Raises :class:`CircuitError` for a folder that holds another search (naming what differs) or foreign files of
    the same names, and as :func:`interp.score_edges`, :func:`interp.choose_circuit` and
    :func:`interp.measure_faithfulness` do.
    """
    plan = SearchPlan() if plan is None else plan
    graph = build_graph(model, task, positions=_positions(plan), neurons=_neurons(plan))
    metric = resolve_metric(plan.metric, task).name
    question = describe_search(model, task, graph=graph, **plan.question() | {"metric": metric})
    if restart:
        forget_search(folder)
    search = _Search(model, task, plan, graph, SearchFiles(folder, question), progress)
    found = search.run()
    write_json(found.folder / SUMMARY, found.summary())
    return found


def _positions(plan: SearchPlan) -> Any:
    if plan.positions == ("pos",):
        return "pos"
    return list(plan.positions) or None


def _neurons(plan: SearchPlan) -> Any:
    return "all" if plan.neurons == ("all",) else plan.neurons_by_layer() or None


class _Test(Kept, Protocol):
    """A record with a table."""

    def to_frame(self) -> Any:
        """Its table."""


K = TypeVar("K", bound=_Test)


@dataclass(frozen=True)
class _Search:
    model: Model
    task: PromptPairs
    plan: SearchPlan
    graph: Graph
    files: SearchFiles
    progress: bool

    def run(self) -> CircuitSearch:
        """Every step in turn."""
        scores = None if self.plan.method == ACDC else self.files.keep("scores", EdgeScores, self._score)
        circuits = self._take_out() if scores is None else self._choose(scores)
        for cut, circuit in zip(self.plan.cuts, circuits, strict=True):
            self._draw(circuit, cut)
        agreement = None
        if scores is not None and self.plan.is_estimate and self.plan.verify == "exact":
            agreement = self._test("verify", MethodAgreement, lambda: self._verify(scores))
        faithfulness = curve = None
        if self.plan.faithfulness:
            faithfulness = self._test("faithfulness", Faithfulness, lambda: self._measure(circuits))
            if self.plan.curve and scores is not None:
                curve = self._test("curve", Faithfulness, lambda: self._measure(scores))
        return CircuitSearch(
            folder=self.files.folder,
            plan=self.plan,
            graph=self.graph,
            circuits=circuits,
            scores=scores,
            faithfulness=faithfulness,
            curve=curve,
            agreement=agreement,
            notes=self._notes(circuits),
            read_back=tuple(self.files.read_back),
        )

    @property
    def _options(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "ablation": plan.ablation,
            "metric": plan.metric,
            "seed": plan.seed,
            "backend": plan.backend,
            "memory_budget": plan.memory << 20,
            "progress": self.progress,
        }

    def _score(self) -> EdgeScores:
        method = self.plan.method
        inside = self.files.path(PARTS) if method == EXACT else None
        return score_edges(
            self.model,
            self.task,
            self.graph,
            method=method,
            direction=self.plan.direction,
            checkpoint=inside,
            **self._options,
        )

    def _choose(self, scores: EdgeScores) -> tuple[Circuit, ...]:
        how: dict[str, Any] = {"how": self.plan.how, "signed": self.plan.signed}
        found = tuple(choose_circuit(scores, **how | {cut.kind: cut.amount}) for cut in self.plan.cuts)
        for cut, circuit in zip(self.plan.cuts, found, strict=True):
            circuit.write_json(self._place(cut, "json"))
        return found

    def _take_out(self) -> tuple[Circuit, ...]:
        """The circuits of ACDC, read back if all of them are there."""
        places = [self._place(cut, "json") for cut in self.plan.cuts]
        if all(place.exists() for place in places):
            self.files.read_back.append(ACDC)
        else:
            with self.files.timed(ACDC):
                taus = [cut.amount for cut in self.plan.cuts]
                inside = self.files.path(PARTS)
                made = search_acdc(
                    self.model, self.task, self.graph, taus=taus, checkpoint=inside, **self._options
                )
                for place, circuit in zip(places, made, strict=True):
                    without_time(circuit).write_json(place)
        return tuple(map(Circuit.read_json, places))

    def _place(self, cut: Cut, ending: str) -> Path:
        return self.files.path(f"circuit-{cut.slug}.{ending}")

    def _draw(self, circuit: Circuit, cut: Cut) -> None:
        """For Graphviz and for circuit-tracer's frontend."""
        circuit.write_dot(self._place(cut, "dot"))
        circuit.write_circuit_tracer(self._place(cut, "tracer.json"))

    def _verify(self, scores: EdgeScores) -> MethodAgreement:
        plan, options = self.plan, self._options
        del options["ablation"]
        options["patch_seed"] = plan.seed
        return verify_edges(
            self.model, self.task, scores, top=plan.verify_top, sample=plan.verify_sample, **options
        )

    @cached_property
    def _runs(self) -> CircuitRuns:
        return prepare_circuits(self.model, self.task, self.graph, **self._options)

    def _measure(self, circuits: EdgeScores | tuple[Circuit, ...]) -> Faithfulness:
        plan = self.plan
        return measure_faithfulness(
            self.model,
            self.task,
            circuits,
            how=plan.how,
            signed=plan.signed,
            n_random=plan.random,
            seed=plan.seed,
            runs=self._runs,
            progress=self.progress,
        )

    def _test(self, name: str, kind: type[K], make: Callable[[], K]) -> K:
        """A record of a test, with its table beside it."""
        found = self.files.keep(name, kind, make)
        write_whole(self.files.path(f"{name}.csv"), found.to_frame().to_csv(index=False).encode("utf-8"))
        return found

    def _notes(self, circuits: tuple[Circuit, ...]) -> tuple[str, ...]:
        plan, found = self.plan, []
        if not plan.is_estimate and plan.verify == "exact":
            what = "exact scores" if plan.method == EXACT else "circuits of ACDC, which scores no edge,"
            found.append(f"{what} are not verified: there is no estimate to check")
        if plan.method == ACDC and plan.faithfulness and plan.curve:
            found.append("ACDC ranks no edges, so there is no curve over sizes and no CPR or CMD")
        empty = [cut.label for cut, circuit in zip(plan.cuts, circuits, strict=True) if not circuit.n_edges]
        if empty:
            found.append(
                f"no edges left in the circuit of {', '.join(empty)}: none of those chosen lies on a way from input "
                "to logits; ask for more, or choose with how=greedy"
            )
        return tuple(found)
