"""All checks of one circuit in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, TypeVar

from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.proof.completeness import measure_completeness
from interp.circuits.proof.faithfulness import measure_faithfulness
from interp.circuits.proof.hypotheses import (
    check_equivalence,
    check_independence,
    check_minimality,
    check_partial_necessity,
    check_sufficiency,
)
from interp.circuits.proof.minimality import measure_minimality
from interp.circuits.proof.nulls import NULLS
from interp.circuits.runs import CircuitRuns, prepare_circuits
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import Circuit, CircuitCheck
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation

T = TypeVar("T")


class _Against(TypedDict):
    quantile: float
    n_random: int
    alpha: float
    seed: int


def check_circuit(
    model: Model,
    task: PromptPairs,
    circuit: Circuit,
    *,
    epsilon: float = 0.1,
    quantile: float = 0.9,
    alpha: float = 0.05,
    n_random: int = 100,
    n_sets: int = 40,
    confidence: float = 0.95,
    ablation: Ablation | None = None,
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    runs: CircuitRuns | None = None,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> CircuitCheck:
    """Is a circuit faithful, complete and minimal, and could as many edges at random be so too?

    Measures faithfulness beside random circuits of three kinds (:func:`interp.measure_faithfulness`),
    completeness over nodes knocked out (:func:`interp.measure_completeness`), minimality of its nodes
    (:func:`interp.measure_minimality`), and makes the five tests of Shi et al. 2024
    (:mod:`interp.circuits.proof.hypotheses`). The circuit is pruned first: edges that carry nothing could only be
    called unneeded. Give prompts that it was not found on.

    ``n_random`` random circuits are drawn for each test, a fifth of them for each kind of null of the
    faithfulness; ``n_sets`` random sets of nodes are knocked out. By default edges outside the circuit carry
    what they did when it was found, and the metric is the same. ``runs`` are those of
    :func:`interp.prepare_circuits`, and replace all options on how circuits are run.

    Example::

        check = interp.check_circuit(model, held_out, circuit)
        print(check.summary())

    Raises :class:`CircuitError` for a circuit without a node beside input and logits, for one of another graph,
    and for too few random circuits to show anything.
    """
    circuit = circuit.prune()
    if runs is None:
        made = circuit.provenance
        runs = prepare_circuits(
            model,
            task,
            circuit.graph,
            ablation=ablation or made.ablation or "source",  # type: ignore[arg-type]
            metric=metric if metric is not None else made.metric,
            reference=reference,
            seed=seed,
            backend=backend,
            memory_budget=memory_budget,
            progress=False,
        )
    with tqdm(total=8, desc="check circuit", unit="part", disable=not progress) as bar:

        def done(part: T) -> T:
            bar.update()
            return part

        faithfulness = done(
            measure_faithfulness(
                model,
                task,
                [circuit],
                nulls=NULLS,
                n_random=max(1, n_random // 5),
                confidence=confidence,
                seed=seed,
                runs=runs,
            )
        )
        completeness = done(measure_completeness(runs, circuit, n_random=n_sets, seed=seed, progress=False))
        minimality = done(measure_minimality(runs, circuit, seed=seed))
        against: _Against = {"quantile": quantile, "n_random": n_random, "alpha": alpha, "seed": seed}
        tests = (
            done(check_equivalence(runs, circuit, epsilon=epsilon, alpha=alpha)),
            done(check_independence(runs, circuit, alpha=alpha, seed=seed)),
            done(check_minimality(runs, circuit, **against)),
            done(check_sufficiency(runs, circuit, **against)),
            done(check_partial_necessity(runs, circuit, **against)),
        )
    return CircuitCheck(
        circuit=circuit,
        faithfulness=faithfulness,
        completeness=completeness,
        minimality=minimality,
        tests=tests,
        provenance=replace(runs.provenance("circuit check"), method=circuit.provenance.method),
    )
