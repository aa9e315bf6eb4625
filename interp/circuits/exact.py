"""Exact scores of edges: each edge patched alone, by the engine or through hooks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.graph import place_columns
from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.cells import Cell, plan_sweep
from interp.patching.prepared import choose_stack, prepare
from interp.patching.wavefront import EdgeRequest, Paths, run_edges
from interp.results import Graph
from interp.results.graph import Reader, Writer
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Direction, Site


@dataclass(frozen=True)
class ExactEdges:
    """The metric with each of some edges patched, and without."""

    scores: Float[Tensor, "edge prompt"]
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    backend: str
    backend_reason: str
    notes: tuple[str, ...]


def patch_edges(
    model: Model,
    task: PromptPairs,
    graph: Graph,
    edges: np.ndarray,
    *,
    direction: Direction,
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int,
    progress: bool = True,
) -> ExactEdges:
    """Patch each of these edges alone.

    Raises :class:`CircuitError` for latents, which need their coder, and :class:`PatchError` for
    options that do not fit.
    """
    if any(unit.kind == "latent" for unit in graph.units):
        raise CircuitError("edges of coder latents cannot be patched without their coder; leave latents out.")
    stack, reason = choose_stack(model, backend)
    task = task.to(model.device)
    if stack is None:
        return _patch_hooked(
            model, task, graph, edges, direction, ablation, metric, reference, seed, reason, progress
        )
    request = EdgeRequest(
        task=task,
        graph=graph,
        edges=edges,
        direction=direction,
        ablation=ablation,
        metric=resolve_metric(metric, task),
        reference=reference,
        seed=seed,
        places=place_columns(graph, task) if graph.positions else None,
    )
    answer = run_edges(stack, request, memory_budget, progress)
    run = f"{answer.n_rows} of {answer.scores.numel()} patched runs were not provably the base run"
    notes = (*answer.notes, run)
    return ExactEdges(answer.scores, answer.clean, answer.corrupted, "wavefront", reason, notes)


def _patch_hooked(
    model: Model,
    task: PromptPairs,
    graph: Graph,
    edges: np.ndarray,
    direction: Direction,
    ablation: Ablation,
    metric: MetricLike | None,
    reference: PromptPairs | Tensor | None,
    seed: int,
    reason: str,
    progress: bool,
) -> ExactEdges:
    """One path-patched forward an edge, all writers of a reader in turn."""
    senders = [_sender(model, task, graph, writer, direction) for writer in graph.writers]
    prepared = prepare(
        model,
        task,
        {(cell.component, cell.layer) for cell in senders},
        direction=direction,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend="hooked",
    )
    scores = torch.empty(len(edges), len(task))
    columns = place_columns(graph, task)
    ends = np.stack([graph.edge_reader[edges], graph.edge_position[edges]], axis=1)
    with tqdm(total=len(edges), desc="edges", unit="edge", disable=not progress) as bar:
        for reader, position in np.unique(ends, axis=0):
            rows = np.flatnonzero((ends == (reader, position)).all(1))
            cells = _receivers(model, task, graph, graph.readers[reader], direction)
            paths = Paths(tuple(replace(cell, where=columns == int(position)) for cell in cells))
            chosen = [senders[writer] for writer in graph.edge_writer[edges[rows]]]
            scores[torch.from_numpy(rows)] = prepared.scores_along(chosen, paths, 1, False).float().cpu()
            bar.update(len(rows))
    clean, corrupted = prepared.scores_unpatched()
    return ExactEdges(scores, clean.cpu(), corrupted.cpu(), "hooked", reason, ())


def _sender(model: Model, task: PromptPairs, graph: Graph, writer: Writer, direction: Direction) -> Cell:
    if writer.kind == "input":
        site = Site("resid_pre", 0)
    elif writer.kind == "head":
        site = Site("z", writer.layer, writer.index)
    elif writer.kind == "neuron":
        site = Site("mlp_post", writer.layer, neurons=(writer.index,))
    else:
        rest = _rest(graph, writer.layer)
        site = Site("mlp_out" if rest is None else "mlp_post", writer.layer, neurons=rest)
    (cell,) = plan_sweep(model, task, site.at("all"), direction).cells
    return cell


def _receivers(
    model: Model, task: PromptPairs, graph: Graph, reader: Reader, direction: Direction
) -> list[Cell]:
    if reader.kind in ("q", "k", "v"):
        sites = [Site(reader.kind, reader.layer, reader.index)]
    elif reader.kind == "logits":
        sites = [Site("resid_post", reader.layer - 1)]
    else:
        neurons = (reader.index,) if reader.kind == "neuron" else _rest(graph, reader.layer)
        branches = ("mlp_pre", "mlp_pre_linear") if model.traits.gated_mlp else ("mlp_pre",)
        sites = [Site(branch, reader.layer, neurons=neurons) for branch in branches]
    return [cell for site in sites for cell in plan_sweep(model, task, site.at("all"), direction).cells]


def _rest(graph: Graph, layer: int) -> tuple[int, ...] | None:
    """The neurons of an MLP that are no nodes of their own; ``None`` is all of them."""
    units = graph.units_of(layer)
    return None if units is None else tuple(n for n in range(graph.d_mlp) if n not in set(units.indices))
