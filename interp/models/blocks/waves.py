"""Rows in flight: many altered runs of a few prompts.

A row is one prompt of a base run with something changed. Attention is causal, so nothing changes
before the first changed column: a row holds the residual stream from there on and attends to the
base run's keys and values before. Rows of one first column form a rectangular :class:`Wave`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.models.blocks.geometry import Geometry, take_columns


@dataclass(frozen=True)
class Places:
    """Rows by their prompts, so that each prompt's rows meet its keys in one product."""

    rows: Int[Tensor, "prompt slot"]
    """The rows of each prompt that has any, filled up with row 0."""
    prompt: Int[Tensor, " row"]
    slot: Int[Tensor, " row"]
    """Where each row stands among those of its prompt."""
    in_turn: bool
    """Whether the prompts take turns: first row of each, second row of each ..."""

    @classmethod
    def of(cls, prompts: Int[Tensor, " row"]) -> Places:
        """From the prompt of each row."""
        row = torch.arange(len(prompts), device=prompts.device)
        n = int(prompts.max()) + 1
        if len(row) % n == 0 and torch.equal(prompts, row % n):
            return cls(row.view(-1, n).T, prompts, row // n, True)
        present, own = prompts.unique(return_inverse=True)
        one = torch.nn.functional.one_hot(own, len(present))
        slot = (one.cumsum(0) - 1).gather(1, own[:, None])[:, 0]
        rows = torch.zeros(len(present), int(slot.max()) + 1, dtype=torch.long, device=prompts.device)
        rows[own, slot] = row
        return cls(rows, own, slot, False)

    def group(self, x: Float[Tensor, "row kv_head n d"]) -> Float[Tensor, "prompt kv_head m d"]:
        """The rows of each prompt side by side."""
        if self.in_turn:
            turns = x.unflatten(0, (self.rows.shape[1], self.rows.shape[0]))
            return turns.permute(1, 2, 0, 3, 4).flatten(2, 3)
        heads = torch.arange(x.shape[1], device=x.device)
        return x[self.rows[:, None, :], heads[None, :, None]].flatten(2, 3)

    def ungroup(self, x: Float[Tensor, "prompt kv_head m d"], n: int) -> Float[Tensor, "row kv_head n d"]:
        """Back to one row after another, ``n`` entries each."""
        x = x.unflatten(2, (-1, n))
        if self.in_turn:
            return x.permute(2, 0, 1, 3, 4).flatten(0, 1)
        return x[self.prompt, :, self.slot]


@dataclass
class Notes:
    """What was made of a wave's rows for one layer and holds for the next, each with what it was made of. No part of
    the wave: whoever takes a wave apart leaves them behind."""

    places: tuple[Tensor, Places] | None = None
    formation: object | None = None


@dataclass
class Wave:
    """Rows that begin at one column and end before another."""

    index: int
    start: int
    stop: int
    prompts: Int[Tensor, " row"]
    """The prompt of the base run that each row changes."""
    resid: Float[Tensor, "row pos d_model"]
    columns: Int[Tensor, "row pos"] | slice | None = None
    """Which columns ``resid`` holds: all from ``start`` to ``stop``, or those still needed."""
    attn_out: Float[Tensor, "row pos d_model"] | None = None
    """Of the layer now running, where attention and MLP run in parallel."""
    _normed: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    """A residual stream and its norm, which holds as long as ``resid`` is that stream."""

    def __post_init__(self) -> None:
        if self.columns is None:
            self.columns = slice(self.start, self.stop)

    @property
    def n_rows(self) -> int:
        return len(self.prompts)

    @property
    def normed(self) -> Float[Tensor, "row pos d_model"] | None:
        """``resid`` through the norm of the sublayer that reads it next, where that was made along with it."""
        made = self._normed
        return made[1] if made is not None and made[0] is self.resid else None

    def carry(
        self,
        resid: Float[Tensor, "row pos d_model"],
        normed: Float[Tensor, "row pos d_model"] | None = None,
    ) -> None:
        """Go on with these streams, and with their norm where it is made already."""
        self.resid = resid
        self._normed = None if normed is None else (resid, normed)

    def append(
        self,
        prompts: Int[Tensor, " row"],
        resid: Float[Tensor, "row pos d_model"],
        normed: Float[Tensor, "row pos d_model"] | None = None,
    ) -> None:
        """Put further rows in flight. Their norm is kept where the rows in flight have theirs."""
        before = self.normed if self.n_rows else self.resid
        joined = None if normed is None or before is None else torch.cat([before, normed])
        self.prompts = torch.cat([self.prompts, prompts])
        self.carry(torch.cat([self.resid, resid]), joined)

    @cached_property
    def notes(self) -> Notes:
        """Empty at first."""
        return Notes()

    @property
    def places(self) -> Places:
        """The rows by their prompts. A GPU is waited for when this is first asked for."""
        if self.notes.places is None or self.notes.places[0] is not self.prompts:
            self.notes.places = (self.prompts, Places.of(self.prompts))
        return self.notes.places[1]

    def take(self, table: Shaped[Tensor, "prompt pos ..."]) -> Shaped[Tensor, "row k ..."]:
        """What a table of the base prompts holds at the columns of these rows."""
        assert self.columns is not None
        return take_columns(table, self.prompts, self.columns)


class KeyValues(Protocol):
    """Keys and values of a base run, and the geometry of its columns."""

    @property
    def keys(self) -> Sequence[Tensor]:
        """Of each layer, [prompt, kv_head, pos, d_head], as they meet queries."""

    @property
    def values(self) -> Sequence[Tensor]:
        """Of each layer, [prompt, kv_head, pos, d_head]."""

    @property
    def geometry(self) -> Geometry:
        """Where the base run's columns stand."""


class Watcher(Protocol):
    """Sees the activations of rows in flight as they are made, and may change them."""

    def wants(self, component: str, layer: int) -> bool:
        """Whether :meth:`see` is to be called for a component."""

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        """The activation of all rows of a wave at its present columns; returns what to go on with."""

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        """Head outputs [row, pos, head, d_head] and their sum after W_O; returns the sum to go on with."""


class _Blind:
    """Wants nothing."""

    def wants(self, component: str, layer: int) -> bool:
        return False

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        return o


BLIND: Watcher = _Blind()
