"""AtP* at edges: queries and keys through the exact softmax, and gradients dropped layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.circuits.gradients.block import EdgeBlock, Found
from interp.circuits.gradients.blockwise import BlockwisePasses, BlockwiseRun, Stream
from interp.circuits.gradients.methods import EdgeAttributionStar
from interp.circuits.gradients.softmax import EdgeSoftmaxFix
from interp.patching.attribution.nodes import Node


def run_star(edges: EdgeBlock, passes: BlockwisePasses, method: EdgeAttributionStar) -> Found:
    """Two forwards, one backward, and with GradDrop one more backward a layer, through the layers below it."""
    return _Star(edges, passes, method).run()


class _Star:
    def __init__(self, edges: EdgeBlock, passes: BlockwisePasses, method: EdgeAttributionStar) -> None:
        self.edges = edges
        self.passes = passes
        self.method = method
        self.fix: EdgeSoftmaxFix | None = None

    def run(self) -> Found:
        block, totals = self.edges.block, self.edges.totals
        replaced, source = block.run_source()
        nodes = totals.readers.nodes
        if self.method.qk_fix:
            patterns = {("pattern", layer) for name, layer in nodes if name == "q"}
            nodes = {node for node in nodes if node[0] not in ("q", "k")} | patterns
        run = self.passes.start(nodes, totals.writers.nodes, self.edges.see_base(replaced))
        if self.method.qk_fix:
            self.fix = EdgeSoftmaxFix(totals, self.passes.stack, run.before, block.first)
        base_score, source_score = block.compare_runs(source, run.picked)
        arriving: list[Stream] = []
        run.backward(run.scores(), self._take, arriving)
        totals.flush()
        found = Found(totals.scores, base_score, source_score)
        if self.method.grad_drop:
            found.magnitudes = self._drop_layers(run, arriving[::-1])
        return found

    def _take(self, node: Node, gradient: Tensor, x: Tensor | None) -> None:
        if node[0] == "pattern":
            assert self.fix is not None and x is not None
            self.fix.take(node[1], gradient, x)
        else:
            self.edges.totals.take(node, gradient, x)

    def _drop_layers(self, run: BlockwiseRun, arriving: list[Stream]) -> Tensor:
        """The mean over dropped layers of the size of each effect; ``arriving`` are gradients at the
        layers' outputs.

        Without what a layer adds to the stream, the gradient at its output is that at its input. Readers of
        the dropped layer have no effect then and do not count; those of later layers have the same.
        """
        totals, n_layers = self.edges.totals, len(arriving)
        size = totals.scores.abs()
        if n_layers == 1:
            return size
        graph = totals.graph
        layer_of = torch.tensor([reader.layer for reader in graph.readers], device=size.device)
        layers = layer_of[torch.from_numpy(graph.edge_reader).to(size.device).long()]
        total = size * layers
        for dropped in range(1, n_layers):
            totals.scores = torch.zeros_like(size)
            run.go_down(dropped, arriving[dropped], self._take)
            totals.flush()
            total += totals.scores.abs()
        return total / torch.where(layers == n_layers, n_layers, n_layers - 1)
