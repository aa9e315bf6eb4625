"""What the gradient comes to where a reader meets the residual stream: its own map and its norm, backwards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.gradients.writers import ThroughNorm
from interp.models.norms import widen
from interp.models.traits import NormWeights, Traits, Weights
from interp.patching.attribution.nodes import Node
from interp.results import Graph

Rows = Float[Tensor, "reader prompt pos d_model"]
Stream = Float[Tensor, "prompt pos d_model"]


class Reading(Protocol):
    """Readers of one kind and layer, in the order of the graph, and the gradients that arrived at them."""

    @property
    def first(self) -> int:
        """Number of the first."""

    @property
    def n(self) -> int:
        """How many."""

    @property
    def n_held(self) -> int:
        """Numbers that are held for them."""

    def rows(self, readers: slice, prompts: slice, columns: slice) -> Rows:
        """Gradients with respect to the residual stream as some of the readers see it."""


@dataclass(frozen=True)
class _Whole:
    """One reader, whose gradient is ready."""

    first: int
    gradient: Stream
    n: int = 1

    @property
    def n_held(self) -> int:
        return self.gradient.numel()

    def rows(self, readers: slice, prompts: slice, columns: slice) -> Rows:
        return self.gradient[None, prompts, columns]


@dataclass(frozen=True)
class _Heads:
    """Queries, keys or values of a layer."""

    first: int
    gradient: Float[Tensor, "prompt pos head d_head"]
    W: Float[Tensor, "head d_model d_head"]
    through: _Norm

    @property
    def n(self) -> int:
        return self.gradient.shape[2]

    @property
    def n_held(self) -> int:
        return self.gradient.numel() + self.through.x.numel()

    def rows(self, readers: slice, prompts: slice, columns: slice) -> Rows:
        chosen = self.gradient[prompts, columns, readers].permute(2, 0, 1, 3)
        flat = chosen.flatten(1, 2).to(self.W.dtype) @ self.W[readers].transpose(1, 2)
        return self.through.pull(flat.view(*chosen.shape[:3], -1), prompts, columns)


@dataclass(frozen=True)
class _Units:
    """Single neurons of an MLP."""

    first: int
    gradient: Float[Tensor, "prompt pos unit"]
    W: Float[Tensor, "d_model unit"]
    through: _Norm

    @property
    def n(self) -> int:
        return self.gradient.shape[2]

    @property
    def n_held(self) -> int:
        return self.gradient.numel() + self.through.x.numel()

    def rows(self, readers: slice, prompts: slice, columns: slice) -> Rows:
        chosen = self.gradient[prompts, columns, readers].permute(2, 0, 1)
        return self.through.pull(
            chosen[..., None] * widen(self.W.T[readers])[:, None, None], prompts, columns
        )


@dataclass(frozen=True)
class _Norm:
    """The norm before a sublayer, at a run."""

    x: Stream
    norm: NormWeights | None
    traits: Traits
    back: ThroughNorm

    def pull(self, gradient: Rows, prompts: slice, columns: slice) -> Rows:
        return self.back(gradient, self.x[prompts, columns], self.norm, self.traits)


class Readers:
    """From gradients at a run's activations to gradients at what the graph's readers read."""

    def __init__(self, graph: Graph, weights: Weights, traits: Traits, back: ThroughNorm) -> None:
        self._graph = graph
        self._weights = weights
        self._traits = traits
        self._back = back
        self._first: dict[tuple[str, int], int] = {}
        self._units: dict[int, Int[Tensor, " unit"]] = {}
        number = 0
        for key, members in groupby(graph.readers, key=lambda reader: (reader.kind, reader.layer)):
            self._first[key] = number
            number += sum(1 for _ in members)

    @property
    def nodes(self) -> set[Node]:
        """Activations where gradients are needed, by component and layer."""
        traits = self._traits
        of_layer = ["q", "k", "v"]
        if traits.d_mlp:
            of_layer += ["mlp_pre", "mlp_pre_linear"] if traits.gated_mlp else ["mlp_pre"]
        found = {(name, layer) for name in of_layer for layer in range(traits.n_layers)}
        return found | {("resid_post", traits.n_layers - 1)}

    def first_of(self, kind: str, layer: int) -> int:
        """Number of the first reader of a kind in a layer."""
        return self._first[kind, layer]

    def read(self, node: Node, gradient: Tensor, x: Stream | None) -> list[Reading]:
        """The readers that a node's gradient belongs to; ``x`` is what the norm before them read.

        Of a gated MLP each branch gives a part of it, and the parts add up.
        """
        name, layer = node
        if name == "resid_post":
            return [_Whole(self._first["logits", layer + 1], gradient)]
        assert x is not None
        weights = self._weights.layers[layer]
        if name in ("q", "k", "v"):
            W = {"q": weights.W_Q, "k": weights.W_K, "v": weights.W_V}[name]
            return [_Heads(self._first[name, layer], gradient, W, self._norm(x, weights.ln1))]
        W_in = weights.W_gate if name == "mlp_pre" and self._traits.gated_mlp else weights.W_in
        assert W_in is not None
        return self._read_mlp(layer, gradient, W_in, self._norm(x, weights.ln2))

    def _norm(self, x: Stream, norm: NormWeights | None) -> _Norm:
        return _Norm(x, norm, self._traits, self._back)

    def _units_of(self, layer: int, device: torch.device) -> Int[Tensor, " unit"]:
        if layer not in self._units:
            units = self._graph.units_of(layer)
            assert units is not None
            self._units[layer] = torch.tensor(units.indices, device=device)
        return self._units[layer]

    def _read_mlp(self, layer: int, gradient: Tensor, W: Tensor, through: _Norm) -> list[Reading]:
        units, found = self._graph.units_of(layer), list[Reading]()
        if units is not None:
            chosen = self._units_of(layer, gradient.device)
            found.append(_Units(self._first["neuron", layer], gradient[..., chosen], W[:, chosen], through))
            gradient = gradient.index_fill(-1, chosen, 0.0)
        if ("mlp", layer) in self._first:
            everything = slice(None)
            whole = (gradient.to(W.dtype) @ W.T)[None]
            found.append(_Whole(self._first["mlp", layer], through.pull(whole, everything, everything)[0]))
        return found
