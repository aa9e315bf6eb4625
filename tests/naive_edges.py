"""Edges patched one forward each, by path patching through hooks: the reference for every score of edges.

A sender is what a writer adds (``z`` of a head, ``mlp_out``, the stream at the first layer for the input),
a receiver what a reader makes of the stream (``q``, ``k``, ``v``, ``mlp_pre`` with both branches of a gated
MLP, the last ``resid_post``); everything between them is frozen at the base run. Neurons send and
receive as parts of ``mlp_post`` and ``mlp_pre``; latents are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.graph import place_columns
from interp.models.model import Model
from interp.patching.cells import Cell, plan_sweep
from interp.patching.prepared import Prepared, prepare
from interp.patching.wavefront import Paths
from interp.results import Graph
from interp.results.graph import Reader, Writer
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Site

BUDGET = 1 << 30


def naive_edge_effects(
    model: Model,
    task: PromptPairs,
    graph: Graph,
    direction: str = "noise",
    backend: str = "hooked",
    ablation: str = "source",
    metric: MetricLike | None = None,
    **options: object,
) -> Float[Tensor, " edge"]:
    """Metric with each edge patched less that of the base run, mean over prompts, in the metric's units."""
    per_prompt = naive_edge_effects_per_prompt(
        model, task, graph, direction, backend, ablation, metric, **options
    )
    return per_prompt.mean(1)


def naive_edge_effect_of(
    model: Model,
    task: PromptPairs,
    name: str,
    graph: Graph,
    direction: str = "noise",
    backend: str = "hooked",
    ablation: str = "source",
    metric: MetricLike | None = None,
    **options: object,
) -> float:
    """The same for one edge by its name, such as ``a0.h1->a1.h0<k>``."""
    edge = graph.find_edge(name)
    found = naive_edge_effects_per_prompt(
        model, task, graph, direction, backend, ablation, metric, edges=[edge], **options
    )
    return float(found.mean())


def naive_edge_effects_per_prompt(
    model: Model,
    task: PromptPairs,
    graph: Graph,
    direction: str = "noise",
    backend: str = "hooked",
    ablation: str = "source",
    metric: MetricLike | None = None,
    *,
    edges: Iterable[int] | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
) -> Float[Tensor, "edge prompt"]:
    """The same for every prompt; ``edges`` takes only these, in their order."""
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
        backend=backend,
    )
    base = _base_metric(prepared, direction)
    chosen = list(range(graph.n_edges) if edges is None else edges)
    found = torch.empty(len(chosen), len(task), dtype=torch.float64)
    columns = place_columns(graph, task)
    by_end: dict[tuple[int, int], list[int]] = {}
    for row, edge in enumerate(chosen):
        by_end.setdefault((int(graph.edge_reader[edge]), int(graph.edge_position[edge])), []).append(row)
    for (reader, position), rows in by_end.items():
        cells = _receivers(model, task, graph, graph.readers[reader], direction)
        paths = Paths(tuple(replace(cell, where=columns == position) for cell in cells))
        writers = [senders[graph.edge_writer[chosen[row]]] for row in rows]
        scores = prepared.scores_along(writers, paths, BUDGET, progress=False)
        found[rows] = scores.double().cpu() - base
    return found


@torch.no_grad()
def _base_metric(prepared: Prepared, direction: str) -> Float[Tensor, " prompt"]:
    """Of the run that is patched; the reference run that some metrics need is taken on the way."""
    _ = prepared.clean
    task, readout = prepared.task, prepared.readout
    tokens = task.corrupted if direction == "denoise" else task.clean
    logits = prepared.model(tokens, task.attention_mask, keep_columns=readout.columns)
    prompts = torch.arange(len(task), device=logits.device)
    return readout.score(logits, prompts).float().double().cpu()


def _sender(model: Model, task: PromptPairs, graph: Graph, writer: Writer, direction: str) -> Cell:
    site = {
        "input": lambda: Site("resid_pre", 0),
        "head": lambda: Site("z", writer.layer, writer.index),
        "mlp": lambda: _rest_of("mlp_out", graph, writer.layer, "mlp_post"),
        "neuron": lambda: Site("mlp_post", writer.layer, neurons=(writer.index,)),
    }[writer.kind]()
    (cell,) = plan_sweep(model, task, site.at("all"), direction).cells
    return cell


def _receivers(model: Model, task: PromptPairs, graph: Graph, reader: Reader, direction: str) -> list[Cell]:
    if reader.kind in ("q", "k", "v"):
        sites = [Site(reader.kind, reader.layer, reader.index)]
    elif reader.kind == "logits":
        sites = [Site("resid_post", reader.layer - 1)]
    else:
        neurons = (reader.index,) if reader.kind == "neuron" else None
        branches = ["mlp_pre", "mlp_pre_linear"] if model.traits.gated_mlp else ["mlp_pre"]
        wholes = [Site(branch, reader.layer, neurons=neurons) for branch in branches]
        sites = wholes if neurons else [_rest_of(site.component, graph, reader.layer) for site in wholes]
    return [cell for site in sites for cell in plan_sweep(model, task, site.at("all"), direction).cells]


def _rest_of(component: str, graph: Graph, layer: int, in_parts: str | None = None) -> Site:
    """An MLP's site, or what of it is no node of its own (at ``in_parts``, where neurons lie apart)."""
    units = graph.units_of(layer)
    if units is None:
        return Site(component, layer)
    rest = tuple(n for n in range(graph.d_mlp) if n not in units.indices)
    return Site(in_parts or component, layer, neurons=rest)
