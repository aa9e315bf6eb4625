"""What is written into rows that begin, as records of tables and of who reads what in them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

Columns = Int[Tensor, "row n_columns"] | slice
"""Columns of a table for every row: its own, or a slice that is the same for all."""


@dataclass(frozen=True, eq=False)
class PositionPatch:
    """Whole activations: a row takes, at its patched places, its prompt's and column's entry of ``new``.

    Without ``old`` that replaces the residual stream; with it ``new - old`` is added.
    """

    new: Float[Tensor, "prompt pos d_model"]
    old: Float[Tensor, "prompt pos d_model"] | None = None
    where: Bool[Tensor, "row n_columns"] | None = None
    """The patched ones among the row's columns; ``None``: all."""


@dataclass(frozen=True, eq=False)
class DirectionPatch:
    """A change along directions: ``(new - old) @ directions`` is added, of the row's own part of both.

    A head's output with ``W_O`` as directions, a neuron's or a latent's activation (one direction each) with
    ``W_out`` or decoder rows, or a difference within a subspace with its basis.
    """

    new: Float[Tensor, "prompt pos part rank"]
    directions: Float[Tensor, "n rank d_model"]
    """One set for every part, or one that serves all."""
    part: Int[Tensor, " row"]
    """Head, neuron or latent that each row changes."""
    old: Float[Tensor, "prompt pos part rank"] | None = None
    """``None`` is zero."""
    where: Bool[Tensor, "row n_columns"] | None = None
    """The patched ones among the row's columns; ``None``: all."""


Patch = PositionPatch | DirectionPatch
