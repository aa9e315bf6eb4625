"""``interp.find_circuit``: from a model and a task to a circuit in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from interp.circuits.acdc import search_acdc
from interp.circuits.choose import Choice, choose_circuit
from interp.circuits.gradients import EdgeMethodLike
from interp.circuits.score import score_edges
from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import Circuit, Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction


def find_circuit(
    model: Model,
    task: PromptPairs,
    graph: Graph | None = None,
    *,
    method: EdgeMethodLike = "eap-ig",
    edges: float | int | None = None,
    threshold: float | None = None,
    tau: float | None = None,
    how: Choice = "top",
    signed: bool = False,
    direction: Direction = "noise",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Circuit:
    """Find the circuit of a task: score every edge and keep the strongest, connected ones.

    ``method`` is one of :func:`interp.score_edges`, or ``"acdc"``, which takes edges out one by one up to
    ``tau`` (:func:`interp.search_acdc`). ``edges`` (2 % by default), ``threshold``, ``how`` and
    ``signed`` choose among scored edges (:func:`interp.choose_circuit`). Found is not proven:
    :func:`interp.measure_faithfulness` and :func:`interp.check_circuit` say what the circuit is worth.

    Example::

        circuit = interp.find_circuit(model, task, method="relevance", edges=0.02)
        circuit.plot()

    Raises :class:`CircuitError` for options that do not go together, and as the functions named above.
    """
    options: dict[str, Any] = {
        "ablation": ablation,
        "metric": metric,
        "reference": reference,
        "seed": seed,
        "backend": backend,
        "memory_budget": memory_budget,
        "checkpoint": checkpoint,
        "progress": progress,
    }
    if method == "acdc":
        given = [name for name, value in (("edges", edges), ("threshold", threshold)) if value is not None]
        if given or signed or how != "top" or direction != "noise":
            raise CircuitError(
                "ACDC chooses by tau alone and patches corrupted into clean runs; leave out edges, threshold, how, "
                "signed and direction."
            )
        return search_acdc(model, task, graph, taus=0.01 if tau is None else tau, **options)[0]
    if tau is not None:
        raise CircuitError(f"tau belongs to method='acdc'; {method!r} chooses by edges or threshold.")
    if edges is None and threshold is None:
        edges = 0.02
    scores = score_edges(model, task, graph, method=method, direction=direction, **options)
    return choose_circuit(scores, edges, threshold=threshold, how=how, signed=signed)
