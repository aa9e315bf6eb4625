"""Gradients averaged along the inputs, along each sublayer's own outputs, or over the two runs."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.circuits.gradients.block import EdgeBlock, Found
from interp.circuits.gradients.methods import EdgeIntegratedGradients
from interp.circuits.gradients.passes import Move
from interp.circuits.gradients.writers import WriterGroup
from interp.patching.attribution.block import Gap
from interp.patching.attribution.nodes import Node


def run_over_inputs(edges: EdgeBlock, method: EdgeIntegratedGradients) -> Found:
    """One path for all edges, from the base prompts' inputs to what replaces them."""
    base, source = edges.run_base()
    whole = edges.totals.writers.groups[0]
    moved = edges.totals.writers.moving(whole)
    _go_along(edges, moved, method)
    end = source if edges.block.source.kind == "source" else _score_at(edges, moved)
    gap = Gap("input", _sum_out_of(edges, whole), end - base)
    return Found(edges.totals.scores, base, source, gaps=[gap])


def run_over_activations(edges: EdgeBlock, method: EdgeIntegratedGradients) -> Found:
    """A path of its own for the input, for all heads of each layer and for each MLP.

    The end of each path is run too, for the completeness gap.
    """
    base, source = edges.run_base()
    gaps = []
    for whole in merge_units(edges.totals.writers.groups):
        moved = edges.totals.writers.moving(whole)
        edges.totals.sources = range(whole.start, whole.stop)
        _go_along(edges, moved, method)
        gaps.append(Gap(_name(moved[0]), _sum_out_of(edges, whole), _score_at(edges, moved) - base))
    return Found(edges.totals.scores, base, source, gaps=gaps)


def run_over_both(edges: EdgeBlock) -> Found:
    """The mean of the gradients at the base and at the source run."""
    block, totals = edges.block, edges.totals
    replaced, source_picked = block.run_source()
    totals.weight = 0.5
    run = edges.passes.start(totals.readers.nodes, totals.writers.nodes, edges.see_base(replaced))
    base, source = block.compare_runs(source_picked, run.picked)
    run.backward(run.scores(), totals.take)
    totals.flush()
    writers = totals.writers
    run = edges.passes.start(totals.readers.nodes, writers.norm_nodes, writers.see, of_source=True)
    run.backward(run.scores(), totals.take)
    totals.flush()
    return Found(totals.scores, base, source)


def merge_units(groups: tuple[WriterGroup, ...]) -> list[WriterGroup]:
    """Units together with the rest of their MLP, which comes after them."""
    found: list[WriterGroup] = []
    for group in groups:
        if group.kind == "mlp" and found[-1].kind == "neuron" and found[-1].layer == group.layer:
            found[-1] = WriterGroup("neuron", group.layer, found[-1].start, group.stop)
        else:
            found.append(group)
    return found


def _go_along(edges: EdgeBlock, moved: Move, method: EdgeIntegratedGradients) -> None:
    """Add the scores by gradients at points of a path, each with its weight."""
    totals, (node, change) = edges.totals, moved
    for point, weight in method.points():
        totals.weight = weight
        run = edges.passes.start(
            totals.readers.nodes, totals.writers.norm_nodes, totals.writers.see, (node, point * change)
        )
        run.backward(run.scores(), totals.take)
        totals.flush()


def _score_at(edges: EdgeBlock, moved: Move) -> Tensor:
    """The metric at the end of a path."""
    picked = edges.passes.run(moved=moved)
    return edges.block.readout.score_picked(picked, edges.block.prompts)


def _sum_out_of(edges: EdgeBlock, whole: WriterGroup) -> Tensor:
    writer = torch.from_numpy(edges.totals.graph.edge_writer)
    leaving = ((writer >= whole.start) & (writer < whole.stop)).to(edges.totals.scores.device)
    return edges.totals.scores[:, leaving].sum(1)


def _name(node: Node) -> str:
    return "input" if node[0] == "resid_pre" else f"{node[0]}[{node[1]}]"
