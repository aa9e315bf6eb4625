"""Faithfulness over the number of edges, with CPR, CMD, intervals and random circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.choose import Choice, choose_circuit
from interp.circuits.proof.intervals import bootstrap_shares, integrate, percentiles
from interp.circuits.proof.nulls import Null, RandomCircuits, check_nulls, read_places
from interp.circuits.proof.scoring import check_same_graph, score_circuits
from interp.circuits.runs import CircuitRuns, prepare_circuits
from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.agreement import check_confidence
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import Circuit, EdgeScores, Estimate, Faithfulness, Graph, RandomCurve
from interp.results.connectivity import keep_connected
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of all edges, as in MIB."""


def measure_faithfulness(
    model: Model,
    task: PromptPairs,
    circuit_scores: EdgeScores | Sequence[Circuit] | Mapping[str, EdgeScores],
    *,
    fractions: Sequence[float] = FRACTIONS,
    how: Choice = "top",
    signed: bool = False,
    ablation: Ablation | None = None,
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    nulls: Null | Sequence[Null] = ("connected", "uniform"),
    n_random: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    runs: CircuitRuns | None = None,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> Faithfulness:
    """Run circuits of rising size, and see how much of the model's metric each keeps.

    ``f(k) = (m(C_k) - m(0)) / (m(all) - m(0))`` of the circuit ``C_k`` that :func:`interp.choose_circuit`
    takes from the scores at the share ``k`` of all edges, with ``m`` the metric averaged over prompts.
    Edges outside it carry ablated values, by default those the scores were made with, as ``metric``
    is theirs. Circuits are pruned to what is connected, and :attr:`Faithfulness.n_edges` counts what
    was left.

    CPR is the integral of ``f``, CMD that of ``|1 - f|`` over ``k`` (Mueller et al. 2025, arXiv 2504.13151), by
    the trapezoid rule between the smallest and the largest of ``fractions``, as MIB's code does: the share
    asked for is integrated over, not the one realised, and nothing is added at the left end. On their grid a
    perfect method has a CPR of 0.999, and one whose circuits do nothing up to half the edges still 0.25: look
    at the random circuits beside it. Intervals are percentiles over 1000 resamples of the prompts,
    the same for every circuit: ratios of resampled means. They say nothing of how edges were
    chosen; score and measure on different prompts for that.

    Several methods, as ``{name: scores}``, stand in one record. Given circuits, each one's share of edges
    is its fraction; one circuit has no CPR. ``nulls`` draws ``n_random`` random circuits at every fraction:
    ``"connected"``, ``"uniform"``, ``"degree"`` (matched to each method's circuits); see
    :mod:`interp.circuits.proof.nulls` for what they are worth. ``runs`` are those of
    :func:`interp.prepare_circuits`, and replace all options on how circuits are run.

    Example::

        found = interp.measure_faithfulness(model, task, {"eap": eap, "exact": exact})
        found.values, found.cpr, found.plot()

    Raises :class:`CircuitError` for fractions outside (0, 1], for scores of several graphs, ablations or
    metrics, and without a circuit.
    """
    check_confidence(confidence)
    kinds: tuple[Null, ...] = (nulls,) if isinstance(nulls, str) else tuple(nulls)
    check_nulls(kinds)
    if n_random < 0:
        raise CircuitError(f"n_random is a number of random circuits, 0 or more; got {n_random}.")
    asked = _ask(circuit_scores, tuple(float(f) for f in fractions), how, signed)
    if runs is None:
        runs = prepare_circuits(
            model,
            task,
            asked.graph,
            ablation=ablation or asked.shared("ablation") or "source",  # type: ignore[arg-type]
            metric=metric if metric is not None else asked.shared("metric"),
            reference=reference,
            seed=seed,
            backend=backend,
            memory_budget=memory_budget,
            progress=progress,
        )
    check_same_graph(runs.graph, asked.graph)
    curves = _plan_curves(asked, kinds if n_random else (), n_random, seed)
    real = [included for circuits in asked.circuits for included in circuits]
    drawn = [included for curve in curves for included in curve.circuits]
    scored = score_circuits(runs, real + drawn)
    n_methods, n_fractions = len(asked.methods), len(asked.fractions)
    per_prompt = scored[: len(real)].view(n_methods, n_fractions, -1)
    means = scored[len(real) :].mean(-1).view(len(curves), n_fractions, n_random)
    found = [curve.record(runs.graph, metrics) for curve, metrics in zip(curves, means, strict=True)]
    return _record(runs, asked, per_prompt, tuple(found), confidence, seed)


@dataclass(frozen=True)
class _Asked:
    """The circuits to run: [method][fraction] arrays over edges, pruned."""

    graph: Graph
    methods: tuple[str, ...]
    fractions: tuple[float, ...]
    circuits: list[list[np.ndarray]]
    sources: tuple[EdgeScores | Circuit, ...]
    marked: np.ndarray
    """[edge] Edges that any method gives a score or any circuit has."""

    def shared(self, name: str) -> str | None:
        """What all scores were made with. Raises :class:`CircuitError` where they differ."""
        values = list(dict.fromkeys(getattr(source.provenance, name) for source in self.sources))
        if len(values) > 1:
            raise CircuitError(
                f"the scores were made with different {name}s ({', '.join(map(str, values))}); say with which to "
                f"measure: {name}={values[0]!r}."
            )
        return None if values[0] is None else str(values[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """How circuits came about."""
        return tuple(dict.fromkeys(s.provenance.method or "given" for s in self.sources))


def _ask(
    given: EdgeScores | Sequence[Circuit] | Mapping[str, EdgeScores],
    fractions: tuple[float, ...],
    how: Choice,
    signed: bool,
) -> _Asked:
    if isinstance(given, EdgeScores):
        given = {given.provenance.method or "scores": given}
    if not isinstance(given, Mapping):
        return _ask_circuits(given)
    if not given:
        raise CircuitError("no scores given; write for example {'eap': scores}.")
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise CircuitError(f"fractions are shares of all edges, above 0 and up to 1; got {list(fractions)}.")
    fractions = tuple(sorted(set(fractions)))
    scores = tuple(given.values())
    graph = scores[0].graph
    for other in scores[1:]:
        check_same_graph(graph, other.graph)
    circuits = [
        [choose_circuit(s, k, how=how, signed=signed).included.cpu().numpy() for k in fractions]
        for s in scores
    ]
    marked = np.any([s.magnitudes.cpu().numpy() > 0 for s in scores], axis=0)
    return _Asked(graph, tuple(given), fractions, circuits, scores, marked)


def _ask_circuits(circuits: Sequence[Circuit]) -> _Asked:
    if isinstance(circuits, Circuit) or not circuits or not all(isinstance(c, Circuit) for c in circuits):
        raise CircuitError(
            "expected edge scores, a mapping of names to edge scores, or a list of circuits ([circuit] for one); "
            f"got {type(circuits).__name__}."
        )
    graph = circuits[0].graph
    for other in circuits[1:]:
        check_same_graph(graph, other.graph)
    rising = sorted(circuits, key=lambda circuit: circuit.n_edges)
    fractions = tuple(circuit.n_edges / graph.n_edges for circuit in rising)
    kept = [keep_connected(graph, circuit.included.cpu().numpy()) for circuit in rising]
    name = " / ".join(dict.fromkeys(c.provenance.method or "circuit" for c in rising))
    marked = np.any([circuit.included.cpu().numpy() for circuit in rising], axis=0)
    return _Asked(graph, (name,), fractions, [kept], tuple(rising), marked)


@dataclass(frozen=True)
class _Curve:
    """Random circuits to run, one kind of them, fraction by fraction."""

    kind: Null
    like: str | None
    n_drawn: tuple[int, ...]
    circuits: list[np.ndarray]

    def record(self, graph: Graph, metric: Float[Tensor, "fraction draw"]) -> RandomCurve:
        """With what came of them."""
        sizes = [int(keep_connected(graph, included).sum()) for included in self.circuits]
        return RandomCurve(self.kind, self.like, self.n_drawn, torch.tensor(sizes).view(metric.shape), metric)


def _plan_curves(asked: _Asked, kinds: Sequence[Null], n_random: int, seed: int) -> list[_Curve]:
    """Each kind draws from a stream of its own, so that leaving one out changes no other."""
    graph, curves = asked.graph, []
    ends = read_places(graph, asked.marked)
    sizes = [np.arange(graph.n_edges) < max(1, round(f * graph.n_edges)) for f in asked.fractions]
    for kind in kinds:
        matched = (
            [(None, sizes)] if kind != "degree" else list(zip(asked.methods, asked.circuits, strict=True))
        )
        for like, wanted in matched:
            rng = np.random.default_rng([seed, *kind.encode(), *(like or "").encode()])
            source = RandomCircuits(graph, rng, ends)
            drawn = [source.draw(kind, one) for one in wanted for _ in range(n_random)]
            curves.append(_Curve(kind, like, tuple(int(one.sum()) for one in wanted), drawn))
    return curves


def _record(
    runs: CircuitRuns,
    asked: _Asked,
    per_prompt: Float[Tensor, "method fraction prompt"],
    nulls: tuple[RandomCurve, ...],
    confidence: float,
    seed: int,
) -> Faithfulness:
    full, empty = runs.full.cpu(), runs.empty.cpu()
    shares = bootstrap_shares(per_prompt.flatten(0, 1), full, empty, seed)
    shape = per_prompt.shape[:2]
    value, resamples = shares.value.reshape(shape), shares.resamples.reshape(-1, *shape)
    ends = [shares.interval(row, confidence) for row in range(len(shares.value))]
    low, high = (torch.tensor([getattr(e, end) for e in ends]).view(shape) for end in ("low", "high"))

    def area(share: np.ndarray, of_resamples: np.ndarray) -> tuple[Estimate, ...]:
        whole, parts = integrate(share, asked.fractions), integrate(of_resamples, asked.fractions)
        return tuple(percentiles(v, p, confidence) for v, p in zip(whole, parts.T, strict=True))

    made = runs.provenance("faithfulness")
    return Faithfulness(
        methods=asked.methods,
        fractions=asked.fractions,
        n_edges=torch.tensor([[int(c.sum()) for c in circuits] for circuits in asked.circuits]),
        n_total=asked.graph.n_edges,
        per_prompt=per_prompt.float(),
        full=full.float(),
        empty=empty.float(),
        low=low,
        high=high,
        cpr=area(value, resamples),
        cmd=area(abs(1 - value), abs(1 - resamples)),
        confidence=confidence,
        provenance=replace(made, method=", ".join(asked.labels)),
        nulls=nulls,
    )
