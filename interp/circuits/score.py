"""``interp.score_edges``: one call for every score of edges."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.exact import ExactEdges, patch_edges
from interp.circuits.gradients import EdgeMethodLike, resolve_edge_method, score_edges_by_gradients
from interp.circuits.graph import build_graph, check_graph
from interp.circuits.search_folder import SearchFolder, describe_search
from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.agreement import check_confidence, choose_checked, measure_agreement
from interp.patching.budget import DEFAULT_BUDGET, check_budget
from interp.patching.prepared import BACKENDS, check_choice, choose_stack, make_provenance
from interp.patching.replacement import check_kind
from interp.results import EdgeScores, Graph, MethodAgreement
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Direction

_RUNS_A_PART = 1 << 13
"""(edge, prompt) pairs of one part of a search that can be resumed."""


def score_edges(
    model: Model,
    task: PromptPairs,
    graph: Graph | None = None,
    *,
    method: EdgeMethodLike = "eap",
    direction: Direction = "noise",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> EdgeScores:
    """What every edge of a model does to a metric when it alone carries the other run's value.

    ``direction="noise"`` puts corrupted values into the clean run, ``"denoise"`` clean ones into the
    corrupted run. An edge ``u->v`` changes what ``v`` reads of the residual stream by the change of
    ``u``'s output, and nothing else; what follows ``v`` runs on.

    ``method="exact"`` patches every edge on its own, through the engine. Estimates take a few passes for all
    of them: ``"eap"`` (edge attribution patching), ``"eap-ig"``, ``"eap-ig:activations"``,
    ``"eap-ig:clean-corrupted"`` (gradients averaged along a path), ``"relevance"`` (and
    ``"relevance:relp-ah"``, ``"relevance:attnlrp"``) and ``"atp*"``; or an object with options,
    such as ``interp.EdgeIntegratedGradients(steps=20)``. They can check themselves:
    :meth:`EdgeScores.verify`.

    ``graph`` is by default that of all heads and MLPs, positions together (:func:`interp.build_graph`). Other
    options are those of :func:`interp.patch`. With ``checkpoint``, a folder, exact scores are kept as they are
    made, and the same call goes on where one was stopped.

    Example::

        scores = interp.score_edges(model, task, method="eap-ig")
        scores.top(5)

    Raises :class:`CircuitError` for an unknown method, a graph of another model and a folder that holds another
    search; :class:`MetricError` for a metric without a gradient in an estimate; and :class:`PatchError` for
    options that do not fit.
    """
    started = time.perf_counter()
    estimate = resolve_edge_method(method)
    graph = build_graph(model) if graph is None else graph
    check_graph(graph, model)
    check_choice("direction", direction, get_args(Direction))
    check_choice("backend", backend, BACKENDS)
    check_budget(memory_budget)
    check_kind(task, ablation)
    task = task.to(model.device)
    options: dict[str, Any] = {
        "direction": direction,
        "ablation": ablation,
        "reference": reference,
        "seed": seed,
        "memory_budget": memory_budget,
    }
    found_metric = resolve_metric(metric, task)
    fields: dict[str, Any] = {
        "started": started,
        "metric": found_metric.name,
        "direction": direction,
        "ablation": ablation,
    }
    if estimate is None:
        exact = _patch_all(
            model, task, graph, checkpoint, metric=metric, backend=backend, progress=progress, **options
        )
        base = exact.corrupted if direction == "denoise" else exact.clean
        change = exact.scores - base
        fields |= {"backend": exact.backend, "backend_reason": exact.backend_reason}
        provenance = make_provenance(model, task, _means(exact), method="exact", notes=exact.notes, **fields)
        return EdgeScores(graph, change.mean(1), *_means(exact), provenance, _standard_errors(change))
    if checkpoint is not None:
        raise CircuitError("checkpoint keeps exact scores; estimates take seconds and are made anew.")
    found = score_edges_by_gradients(model, task, graph, estimate, found_metric, progress=progress, **options)
    clean, corrupted = float(found.clean.mean()), float(found.corrupted.mean())
    provenance = make_provenance(
        model, task, (clean, corrupted), method=estimate.label, notes=found.notes, **fields
    )
    scores = EdgeScores(
        graph,
        found.effects.cpu(),
        clean,
        corrupted,
        provenance,
        found.standard_errors.cpu(),
        None if found.magnitude is None else found.magnitude.cpu(),
        found.gaps,
    )
    checked = partial(
        verify_edges,
        model,
        task,
        scores,
        metric=metric,
        reference=reference,
        patch_seed=seed,
        backend=backend,
    )
    return replace(scores, exactly=checked)


def _means(exact: ExactEdges) -> tuple[float, float]:
    return float(exact.clean.mean()), float(exact.corrupted.mean())


def _standard_errors(change: Float[Tensor, "edge prompt"]) -> Float[Tensor, " edge"]:
    n = change.shape[1]
    if n < 2:
        return torch.full((len(change),), float("nan"))
    return change.double().std(1).div(n**0.5).to(change.dtype)


def _patch_all(
    model: Model, task: PromptPairs, graph: Graph, checkpoint: str | Path | None, **options: Any
) -> ExactEdges:
    """Every edge, in parts of fixed size where they are kept."""
    every = np.arange(graph.n_edges)
    if checkpoint is None:
        return patch_edges(model, task, graph, every, **options)
    told = {key: options[key] for key in ("direction", "ablation", "metric", "seed", "backend")}
    if not (told["metric"] is None or isinstance(told["metric"], str)):
        told["metric"] = resolve_metric(told["metric"], task).name
    told["reference"] = _describe_reference(options["reference"])
    folder = SearchFolder(checkpoint, describe_search(model, task, method="exact", graph=graph, **told))
    size = max(1, _RUNS_A_PART // len(task))
    parts: list[dict[str, Tensor]] = []
    for number, first in enumerate(range(0, graph.n_edges, size)):
        name = f"edges-{number:05d}"
        part = folder.load(name)
        if part is None:
            found = patch_edges(model, task, graph, every[first : first + size], **options)
            part = {"scores": found.scores, "clean": found.clean, "corrupted": found.corrupted}
            folder.save(name, part)
        parts.append(part)
    # said of parts that were read as of those that were run, so that a resumed search is the same
    stack, reason = choose_stack(model, options["backend"])
    return ExactEdges(
        torch.cat([part["scores"].cpu() for part in parts]),
        parts[0]["clean"].cpu(),
        parts[0]["corrupted"].cpu(),
        "hooked" if stack is None else "wavefront",
        reason,
        (),
    )


def _describe_reference(reference: PromptPairs | Tensor | None) -> str | None:
    if reference is None:
        return None
    tokens = reference.clean if isinstance(reference, PromptPairs) else reference
    return str(tokens.cpu().tolist())


def verify_edges(
    model: Model,
    task: PromptPairs,
    scores: EdgeScores,
    *,
    top: int | None = 20,
    sample: int = 20,
    seed: int = 0,
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    patch_seed: int = 0,
    backend: str = "auto",
    confidence: float = 0.95,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> MethodAgreement:
    """Compare approximate scores of edges with exact patching of some of the same edges.

    Checked are the ``top`` edges by the approximation's own ranking and a random ``sample`` of the others,
    drawn by ``seed``; ``top=None`` checks every edge. Effects are shares of the gap between clean and
    corrupted metric, positive where the edge supports the clean answer; intervals are of resampled edges.
    ``metric``, ``reference`` and ``patch_seed`` are those that the scores were made with.

    Raises :class:`CircuitError` for exact scores, for a check of no edge, and for scores of other prompts or of
    another model.
    """
    made = scores.provenance
    if made.method == "exact":
        raise CircuitError("these scores are exact; there is nothing to verify.")
    if (top is not None and top < 0) or sample < 0 or top == sample == 0:
        raise CircuitError(f"verify needs at least one edge to check; got top={top}, sample={sample}.")
    check_confidence(confidence)
    check_graph(scores.graph, model)
    chosen, chosen_as = choose_checked(scores.magnitudes, top, sample, seed)
    picked = np.array(chosen)
    exact = patch_edges(
        model,
        task,
        scores.graph,
        picked,
        direction="denoise" if scores.direction == "denoise" else "noise",
        ablation=_ablation_of(scores),
        metric=metric if metric is not None else made.metric,
        reference=reference,
        seed=patch_seed,
        backend=backend,
        memory_budget=memory_budget,
        progress=progress,
    )
    clean, corrupted = _means(exact)
    size = max(abs(clean), abs(corrupted), 1e-6)
    if max(
        abs(clean - scores.clean), abs(corrupted - scores.corrupted)
    ) > 1e-3 * size or made.n_prompts != len(task):
        raise CircuitError(
            f"these scores are of {made.n_prompts} prompts with a metric of {scores.clean:.4g} clean and "
            f"{scores.corrupted:.4g} corrupted; here there are {len(task)} with {clean:.4g} and {corrupted:.4g}. Give "
            "the same model, prompts and metric."
        )
    base = exact.corrupted if scores.direction == "denoise" else exact.clean
    measured = replace(scores, effects=scores.effects.clone())
    index = torch.from_numpy(picked)
    measured.effects[index] = (exact.scores - base).mean(1).to(measured.effects)
    gap = abs(scores.clean - scores.corrupted)
    note = f"checked against exact patching ({exact.backend})"
    return measure_agreement(
        scores.graph.edge_names(picked),
        measured.values[index],
        scores.values[index],
        replace(made, backend=exact.backend, backend_reason=exact.backend_reason, notes=(*made.notes, note)),
        chosen_as=chosen_as,
        ranking=scores.magnitudes[index] / (gap or 1.0),
        k=top or None,
        n_sites=scores.graph.n_edges,
        confidence=confidence,
        seed=seed,
        effect="share of the gap that the edge carries, positive where it supports the clean answer",
    )


def _ablation_of(scores: EdgeScores) -> Ablation:
    named = scores.provenance.ablation or "source"
    found: Ablation = next(kind for kind in get_args(Ablation) if kind == named)
    return found
