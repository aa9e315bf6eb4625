"""Writing transformer weights by hand: named subspaces, heads and neurons that read and write them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.plain import PlainConfig, PlainTransformer

Parts = Mapping[str, Tensor]
"""Named subspaces of the residual stream, and the matrix that reads or writes each."""


def lay_out(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """First and past-the-end dimension of consecutive blocks of these sizes."""
    ends = list(accumulate(sizes.values()))
    return {name: (end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


class Wiring:
    """A plain transformer of zeros without norms, to be wired subspace by subspace.

    ``spaces`` names consecutive blocks of residual dimensions and their sizes; ``d_model`` is
    their sum. Nothing reads or writes a block unless it is told to, so what does not matter can be
    seen from the wiring alone.
    """

    def __init__(self, spaces: Mapping[str, int], **options: Any) -> None:
        self.spaces = lay_out(spaces)
        d_model = sum(spaces.values())
        config = PlainConfig(d_model=d_model, norm=None, attn_bias=False, attn_scale=1.0, **options)
        self.model = PlainTransformer(config).eval().requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.zero_()

    def rows(self, space: str) -> slice:
        """The residual dimensions of a subspace."""
        return slice(*self.spaces[space])

    def embed(self, token: int, **features: float | Sequence[float]) -> None:
        """Give a token its value in each of some subspaces."""
        for space, value in features.items():
            self.model.embed.W_E[token, self.rows(space)] = torch.tensor(value)

    def place(self, space: str, table: Float[Tensor, "pos d"]) -> None:
        """Give the first positions their value in a subspace."""
        self.model.pos_embed.W_pos[: len(table), self.rows(space)] = table

    def unembed(self, token: int, **features: float | Sequence[float]) -> None:
        """Read a token's logit off some subspaces."""
        for space, value in features.items():
            self.model.unembed.W_U[self.rows(space), token] = torch.tensor(value)

    def head(self, layer: int, head: int, *, q: Parts, k: Parts, v: Parts, o: Parts) -> None:
        """Wire one head: ``q``, ``k``, ``v`` read subspaces [d, c], ``o`` writes them [c, d], c <= d_head."""
        attention = self.model.blocks[layer].attn
        for weight, parts in ((attention.W_Q, q), (attention.W_K, k), (attention.W_V, v)):
            for space, matrix in parts.items():
                weight[head, self.rows(space), : matrix.shape[1]] = matrix
        for space, matrix in o.items():
            attention.W_O[head, : matrix.shape[0], self.rows(space)] = matrix

    def neuron(
        self,
        layer: int,
        index: int,
        *,
        reads: Parts,
        writes: Parts,
        gate: Parts | None = None,
        bias: float = 0.0,
    ) -> None:
        """Wire one neuron by vectors [d]; ``bias`` goes to ``b_in`` (the linear branch where gated)."""
        mlp = self.model.blocks[layer].mlp
        for space, vector in reads.items():
            mlp.W_in[self.rows(space), index] = vector
        for space, vector in (gate or {}).items():
            mlp.W_gate[self.rows(space), index] = vector
        for space, vector in writes.items():
            mlp.W_out[index, self.rows(space)] = vector
        mlp.b_in[index] = bias


class DecoyWeights:
    """Random nonzero weights, multiples of 1/8 up to 1, the same on every machine."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def matrix(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """A matrix without zeros."""
        values = [self._rng.choice((-1, 1)) * self._rng.randint(1, 8) / 8 for _ in range(rows * columns)]
        return torch.tensor(values).view(rows, columns)

    def vector(self, size: int) -> Float[Tensor, " size"]:
        """A vector without zeros."""
        return self.matrix(1, size)[0]


def point_at(sources: Sequence[int], n_ctx: int, strength: float) -> tuple[Tensor, Tensor]:
    """Query and key matrices [n_ctx, n_ctx] on one-hot positions: position p attends to ``sources[p]``.

    Positions beyond ``sources`` attend everywhere alike.
    """
    query = torch.zeros(n_ctx, n_ctx)
    for position, source in enumerate(sources):
        query[position, source] = strength
    return query, torch.eye(n_ctx)
