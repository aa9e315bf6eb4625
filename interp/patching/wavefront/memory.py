"""How many rows are in flight at once: a budget of bytes, and what a row takes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from interp.models.blocks import Stack
from interp.models.blocks.flight import MLP_TOKENS, MLP_TOKENS_ON_GPU
from interp.models.traits import Traits
from interp.patching.wavefront.plan import RowPlan
from interp.types import COMPONENT_AXES

MOST_ON_CPU = 1 << 28
"""Bytes of rows at once on a CPU; more fall out of the cache and are slower."""
MOST_ON_GPU = 1 << 32
"""More than this keeps no GPU busier; the rest of the memory is left alone."""
FEWEST_CHUNKS = 5
"""Chunks from which on recording layers pays."""


@dataclass(frozen=True)
class Sizes:
    """Bytes that things take, for prompts of ``n_columns`` columns of which ``n_read`` are read."""

    stack: Stack
    n_columns: int
    n_read: int
    n_logits: int
    """Logits of one read column: the whole vocabulary, or a few of its entries."""
    recorded: int = 0
    """Numbers that path patching records for a token."""

    @property
    def traits(self) -> Traits:
        """The model's traits."""
        return self.stack.traits

    @property
    def itemsize(self) -> int:
        """Bytes of one number of an activation."""
        return self.stack.model.dtype.itemsize

    def row(self, start: np.ndarray | int) -> np.ndarray | int:
        """One row that begins at a column, with everything that its attention makes of it."""
        t, n = self.traits, self.n_columns
        tokens = n - start
        stream = 8 * t.d_model + self.recorded + 8 * (t.n_heads + t.n_kv_heads) * t.d_head
        # one head's keys and values are copied where a row begins with one of them changed
        seen = 4 * t.d_head * n
        return (tokens * (stream + 5 * t.n_heads * n) + seen) * self.itemsize + tokens * 24 + self.readout

    @property
    def readout(self) -> int:
        """The logits of one row, in fp32 and with what a metric makes of them."""
        wide = max(4, self.itemsize)
        return self.n_read * (self.n_logits * (2 * wide + self.itemsize) + self.traits.d_model * 3 * wide)

    @property
    def hidden(self) -> int:
        """The hidden layer of an MLP, which takes its tokens a few at a time."""
        size = MLP_TOKENS if self.stack.model.device.type == "cpu" else MLP_TOKENS_ON_GPU
        return size * (3 if self.traits.gated_mlp else 2) * self.traits.d_mlp * self.itemsize

    def room(self, budget: int, kept: int) -> int:
        """Bytes left for rows beside what is kept of the prompts; at least one byte."""
        left = max(budget - kept - self.hidden, 1)
        return min(left, MOST_ON_CPU if self.stack.model.device.type == "cpu" else MOST_ON_GPU)

    def prompt(
        self, kept_of_base: Iterable[tuple[str, int]], kept_of_source: Iterable[tuple[str, int]]
    ) -> int:
        """One prompt of the base run and of the source run, with all that is kept of them."""
        t, n = self.traits, self.n_columns
        kept = n * ((t.n_layers + 1) * t.d_model + 2 * t.n_layers * t.n_kv_heads * t.d_head)
        parts = sum(self._activation(name) for name, _ in (*kept_of_base, *kept_of_source))
        hidden = n * (3 if t.gated_mlp else 2) * t.d_mlp
        return (2 * kept + parts + hidden) * self.itemsize + int(self.row(0))

    def _activation(self, component: str) -> int:
        t, n = self.traits, self.n_columns
        sizes = {"pos": n, "dest_pos": n, "src_pos": n, "head": t.n_heads, "kv_head": t.n_kv_heads}
        sizes |= {"d_model": t.d_model, "d_head": t.d_head, "d_mlp": t.d_mlp, "batch": 1}
        inner = {"queries": "q", "o": "attn_out", "mlp_o": "mlp_out"}
        total = 1
        for axis in COMPONENT_AXES[inner.get(component, component)]:
            total *= sizes[axis]
        return total


@dataclass(frozen=True)
class Chunks:
    """How the rows of one block of prompts are run."""

    rows: list[np.ndarray]
    """Rows that fly together."""
    kept: int
    """Bytes that are held beside them."""
    room_of_graphs: int = 0
    """Bytes that recorded layers may hold; 0 is without them."""


def plan_chunks(plan: RowPlan, sizes: Sizes, budget: int, kept: int, whole_groups: bool) -> Chunks:
    """Split rows for a budget, of which ``kept`` bytes are taken by what the prompts' own runs left.

    On a GPU rows of one first column make chunks of equal length, so that their shapes repeat, and where there are many
    half of the room is left to recorded layers. On a CPU a chunk holds what fits.
    """
    kept += sizes.hidden
    room = sizes.room(budget, kept - sizes.hidden)
    if sizes.stack.model.device.type != "cuda":
        return Chunks(list(chunk_rows(plan, sizes, room, whole_groups)), kept)
    split = list(chunk_rows(plan, sizes, room, whole_groups, equal=True))
    if len(split) < FEWEST_CHUNKS or whole_groups:
        return Chunks(split, kept)
    half = min(room, (budget - kept) // 2)
    if half < room:
        split = list(chunk_rows(plan, sizes, max(half, 1), whole_groups, equal=True))
    return Chunks(split, kept + half, half)


def chunk_rows(
    plan: RowPlan, sizes: Sizes, budget: int, whole_groups: bool, equal: bool = False
) -> Iterator[np.ndarray]:
    """Rows to run together, as many as fit in ``budget`` bytes; at least one (or one group).

    With ``equal``, rows of one first column that fill several chunks make them of equal length before the others, and
    what is left over of all first columns comes together last.
    """
    if not len(plan):
        return
    rows = np.arange(len(plan))
    if equal and not whole_groups:
        left = []
        for start in np.unique(plan.start):
            mine = rows[plan.start == start]
            n = max(1, int(budget // int(sizes.row(int(start)))))
            full = len(mine) // n * n
            yield from mine[:full].reshape(-1, n)
            left.append(mine[full:])
        rows = np.concatenate(left)
        if not len(rows):
            return
    order = np.lexsort((plan.group, plan.start)) if whole_groups else rows
    new = np.diff(plan.group[order]) if whole_groups else np.ones(len(order) - 1)
    begins = np.r_[0, np.flatnonzero(new) + 1]
    cost = np.add.reduceat(np.asarray(sizes.row(plan.start), dtype=np.float64)[order], begins)
    first, used = 0, 0.0
    for i in range(len(begins)):
        if used and used + cost[i] > budget:
            yield order[begins[first] : begins[i]]
            first, used = i, 0.0
        used += cost[i]
    yield order[begins[first] :]
