"""By how much every writer's output changes, kept small and laid out a part at a time.

A head's change is kept as that of its z, a neuron's as that of its activation; what they add to the
residual stream, ``d_model`` wide, is made where it is needed and let go of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.norms import widen
from interp.models.traits import NormWeights, Traits, Weights
from interp.patching.attribution.nodes import Node
from interp.results import Graph

INPUT: Node = ("resid_pre", 0)
Outputs = Float[Tensor, "writer prompt pos d_model"]
ThroughNorm = Callable[[Tensor, Tensor, NormWeights | None, Traits], Tensor]
"""A change or a gradient, what entered the norm, and the norm; to the other side of it."""


@dataclass(frozen=True)
class WriterGroup:
    """Writers of one kind and layer: numbers ``start`` to before ``stop``."""

    kind: str
    layer: int
    start: int
    stop: int


class Writers:
    """Changes of all writers of some prompts, at the columns that can change."""

    def __init__(self, graph: Graph, weights: Weights, traits: Traits, push: ThroughNorm) -> None:
        self.graph = graph
        self.groups = tuple(_groups(graph))
        self._weights = weights
        self._traits = traits
        self._push = push
        self._changes: dict[Node, Tensor] = {}
        self._rests: dict[int, Tensor] = {}
        """What the neurons that are no writers of their own add before any norm, by layer."""
        self._before_norm: dict[Node, Tensor] = {}
        self._units: dict[int, Int[Tensor, " unit"]] = {}
        """Neurons of each layer that are writers of their own, where their changes are."""

    @property
    def d_model(self) -> int:
        return self._traits.d_model

    @property
    def nodes(self) -> set[Node]:
        """Activations whose changes are needed, by component and layer."""
        return {self._node_of(group) for group in self.groups}

    def _node_of(self, group: WriterGroup) -> Node:
        if group.kind == "input":
            return INPUT
        whole = "mlp_out" if self.graph.units_of(group.layer) is None else "mlp_post"
        return "z" if group.kind == "head" else whole, group.layer

    @property
    def norm_nodes(self) -> set[Node]:
        """Activations of a run that norms after sublayers depend on, where heads and neurons meet one."""
        return (
            {node for node in self.nodes if node[0] in ("z", "mlp_post")}
            if self._traits.post_norms
            else set()
        )

    def set_change(self, node: Node, change: Float[Tensor, "prompt pos ..."]) -> None:
        """Keep the change of a node's activation, all heads and neurons of it."""
        self._changes[node] = change
        units = self.graph.units_of(node[1])
        if node[0] == "mlp_post" and units is not None:
            self._units[node[1]] = torch.tensor(units.indices, device=change.device)
            rest = change.index_fill(-1, self._units[node[1]], 0.0)
            W_out = self._weights.layers[node[1]].W_out
            assert W_out is not None
            self._rests[node[1]] = rest @ widen(W_out)

    def see(self, node: Node, value: Float[Tensor, "prompt pos ..."]) -> None:
        """Take an activation of the run that gradients are taken at, for the norms after sublayers."""
        if node not in self.norm_nodes:
            return
        layer = self._weights.layers[node[1]]
        W, b = (layer.W_O.flatten(0, 1), layer.b_O) if node[0] == "z" else (layer.W_out, layer.b_out)
        assert W is not None
        out = value.flatten(2) @ W
        self._before_norm[node] = out if b is None else out + b

    def moving(self, group: WriterGroup) -> tuple[Node, Float[Tensor, "prompt pos ..."]]:
        """An activation, and the change of it that replaces the outputs of all heads, or of a whole MLP."""
        node = self._node_of(group)
        return node, self._changes[node]

    def outputs(self, start: int, stop: int, prompts: slice, columns: slice) -> Outputs:
        """What writers ``start`` to before ``stop`` add to the residual stream, their changes of it.

        Through a norm after the sublayer to first order, at the run that was last seen.
        """
        change = self._changes[INPUT][prompts, columns]
        found = change.new_empty(stop - start, *change.shape)
        for group in self.groups:
            first, last = max(start, group.start), min(stop, group.stop)
            if first < last:
                into = found[first - start : last - start]
                self._fill(into, group, first - group.start, last - group.start, prompts, columns)
        return found

    def _fill(
        self, into: Outputs, group: WriterGroup, first: int, last: int, prompts: slice, columns: slice
    ) -> None:
        layer = self._weights.layers[max(0, group.layer)]
        if group.kind == "input":
            into.copy_(self._changes[INPUT][prompts, columns])
        elif group.kind == "mlp" and self.graph.units_of(group.layer) is None:
            into.copy_(self._changes["mlp_out", group.layer][prompts, columns])
        elif group.kind == "head":
            z = self._changes["z", group.layer][prompts, columns, first:last].permute(2, 0, 1, 3)
            write_heads(z, layer.W_O[first:last], into)
            self._after_norm(into, ("z", group.layer), layer.ln1_post, prompts, columns)
        else:
            if group.kind == "mlp":
                into.copy_(self._rests[group.layer][prompts, columns])
            else:
                self._write_neurons(into, group.layer, first, last, prompts, columns)
            self._after_norm(into, ("mlp_post", group.layer), layer.ln2_post, prompts, columns)

    def _write_neurons(
        self, into: Outputs, layer: int, first: int, last: int, prompts: slice, columns: slice
    ) -> None:
        W_out = self._weights.layers[layer].W_out
        assert W_out is not None
        chosen = self._units[layer][first:last]
        post = self._changes["mlp_post", layer][prompts, columns][..., chosen].permute(2, 0, 1)
        torch.mul(post[..., None], widen(W_out[chosen])[:, None, None], out=into)

    def _after_norm(
        self, into: Tensor, node: Node, norm: NormWeights | None, prompts: slice, columns: slice
    ) -> None:
        if self._traits.post_norms:
            into.copy_(self._push(into, self._before_norm[node][prompts, columns], norm, self._traits))


def write_heads(
    z: Float[Tensor, "head prompt pos d_head"], W_O: Float[Tensor, "head d_head d_model"], into: Outputs
) -> None:
    """Each head's z through its own W_O, in the weights' precision."""
    flat = z.flatten(1, 2).to(W_O.dtype)
    if W_O.dtype == into.dtype:
        torch.bmm(flat, W_O, out=into.flatten(1, 2))
    else:
        into.copy_(torch.bmm(flat, W_O).view(into.shape))


def _groups(graph: Graph) -> list[WriterGroup]:
    found, start = [], 0
    for (kind, layer), members in groupby(graph.writers, key=lambda writer: (writer.kind, writer.layer)):
        stop = start + sum(1 for _ in members)
        found.append(WriterGroup(kind, layer, start, stop))
        start = stop
    return found
