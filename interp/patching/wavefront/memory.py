"""How many rows are in flight at once: a budget of bytes, and what a row takes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

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
MOST_ROWS = 1 << 16
"""More rows than this at once gain nothing."""
STATISTICS = 2048
"""Bytes that statistics of one column's vocabulary take, part by part."""
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
    logit_copies: int = 7
    """Of a whole vocabulary, what a metric holds at once: KL has both log-probabilities and what it makes of them. 0 is
    where a kernel reads it and stores no logits."""
    born: int = 0
    """Numbers that a token of a row takes while the row is made, beside a few residual streams."""
    carried: int = 0
    """Of these, what stands beside the stream of every row: its reader's own input."""
    recorded: int = 0
    """Numbers that are held for a token as long as its row flies."""
    watched: int = 0
    """Numbers of a token's hidden layer in MLPs that take all tokens at once, for they are looked into."""

    @property
    def traits(self) -> Traits:
        """The model's traits."""
        return self.stack.traits

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one number of an activation."""
        return self.stack.model.dtype.itemsize

    def row(self, start: np.ndarray | int) -> np.ndarray | int:
        """What one row that begins at a column weighs: roughly what it takes if all phases came at once.

        Blocks of prompts, and chunks on a CPU, are cut by this; :meth:`flight` is what rows really take.
        """
        t, n = self.traits, self.n_columns
        tokens = n - start
        stream = 8 * t.d_model + self.recorded + self.carried + 8 * (t.n_heads + t.n_kv_heads) * t.d_head
        # one head's keys and values are copied where a row begins with one of them changed
        seen = 4 * t.d_head * n
        wide = max(4, self.itemsize)
        readout = self.n_read * (self.n_logits * (2 * wide + self.itemsize) + t.d_model * 3 * wide)
        return (tokens * (stream + 5 * t.n_heads * n) + seen) * self.itemsize + tokens * 24 + readout

    def flight(self, start: np.ndarray, entry: np.ndarray) -> int:
        """Most bytes at once of rows that fly together, by first column and by where each enters.

        Rows in flight grow layer by layer, so the last layer in which all columns go on is the widest; after it only
        those that are read do. What attention makes of rows of one first column is gone before the next.
        """
        return self._flight(start, entry, self.hidden)

    def _flight(self, start: np.ndarray, entry: np.ndarray, hidden: int) -> int:
        """:meth:`flight` with MLPs whose hidden layer takes no more than ``hidden`` bytes."""
        last = 2 * (self.traits.n_layers - 1)
        tokens = (self.n_columns - start).astype(np.float64)
        hidden = min(hidden, int(tokens.sum()) * self._hidden_of_token)
        few = np.minimum(tokens, self.n_read)
        phases = [
            self._attention(tokens, tokens, start, entry <= last - 2),
            self._attention(tokens, few, start, entry <= last),
            self._mlp(tokens, entry <= last - 1) + hidden,
            self._mlp(few, entry <= last + 1) + hidden,
            self._births(tokens, start, entry) + hidden,
            few.sum() * (3 * self.traits.d_model + self.recorded) * self.itemsize + len(start) * self.readout,
        ]
        return int(max(phases) + 24 * tokens.sum())

    def _attention(
        self, tokens: np.ndarray, asking: np.ndarray, start: np.ndarray, flying: np.ndarray
    ) -> float:
        """Bytes while rows attend, at some of their tokens."""
        t = self.traits
        tokens, asking, start = tokens[flying], asking[flying], start[flying]
        if not len(tokens):
            return 0.0
        q, kv = t.n_heads * t.d_head, t.n_kv_heads * t.d_head
        turned = t.positional == "rotary" or t.qk_norm
        norms = 2 if t.norm == "rmsnorm" else 1
        held = tokens * ((2 + norms) * t.d_model + self.recorded + (4 + turned) * kv)
        held += asking * ((5 + 2 * turned) * q + t.d_model)
        # scores, pattern and the pattern by prompts; half precision takes its softmax in fp32
        copies = 3 if self.itemsize >= 4 else 4
        inside = asking * self.n_columns * (copies * t.n_heads * self.itemsize + 3)
        widest = max(inside[start == first].sum() for first in np.unique(start))
        return float(held.sum() * self.itemsize + widest)

    def _mlp(self, tokens: np.ndarray, flying: np.ndarray) -> float:
        """Bytes while tokens pass an MLP, its hidden layer left out where it takes a few at a time."""
        t = self.traits
        streams = 4 + (2 if t.norm == "rmsnorm" else 0) + t.post_norms
        return float(
            tokens[flying].sum() * (streams * t.d_model + self.recorded + self.watched) * self.itemsize
        )

    def _births(self, tokens: np.ndarray, start: np.ndarray, entry: np.ndarray) -> float:
        """Bytes while rows of one entry and first column are made, beside those in flight."""
        t = self.traits
        wide = np.where(entry > 2 * t.n_layers - 2, np.minimum(tokens, self.n_read), tokens)
        made = wide * (5 * t.d_model + self.born) + 5 * t.d_head * self.n_columns * (self.born > 0)
        most = 0.0
        for where in np.unique(entry):
            here = entry == where
            before = tokens[entry < where].sum() if where <= 2 * t.n_layers - 2 else wide[entry < where].sum()
            newborn = max(made[here & (start == first)].sum() for first in np.unique(start[here]))
            joined = 2 * (before + wide[here].sum())
            most = max(most, max(before * t.d_model + newborn, joined * t.d_model) + before * self.recorded)
        return most * self.itemsize

    @cached_property
    def readout(self) -> int:
        """The logits of one row, in fp32 and with what a metric makes of them."""
        t, wide = self.traits, max(4, self.itemsize)
        streams = self.n_read * t.d_model * 3 * wide
        if self.n_logits < t.d_vocab:
            # each row's own columns of the unembedding are gathered
            return (
                streams + self.n_read * self.n_logits * 4 * wide + self.n_logits * t.d_model * self.itemsize
            )
        if not self.logit_copies:
            return streams + self.n_read * STATISTICS
        return streams + self.n_read * t.d_vocab * (self.logit_copies * wide + self.itemsize)

    @property
    def hidden(self) -> int:
        """The hidden layer of an MLP, which takes its tokens a few at a time."""
        size = MLP_TOKENS if self.stack.model.device.type == "cpu" else MLP_TOKENS_ON_GPU
        return size * self._hidden_of_token

    @property
    def _hidden_of_token(self) -> int:
        return (3 if self.traits.gated_mlp else 2) * self.traits.d_mlp * self.itemsize

    def prompt(
        self, kept_of_base: Iterable[tuple[str, int]], kept_of_source: Iterable[tuple[str, int]]
    ) -> int:
        """One prompt of the base run and of the source run, with all that is kept of them."""
        t, n = self.traits, self.n_columns
        kept = n * ((t.n_layers + 1) * t.d_model + 2 * t.n_layers * t.n_kv_heads * t.d_head)
        parts = sum(self._activation(name) for name, _ in (*kept_of_base, *kept_of_source))
        hidden = n * (3 if t.gated_mlp else 2) * t.d_mlp
        return (2 * kept + parts + hidden) * self.itemsize + int(self.row(0))

    def held(
        self, kept_of_base: Iterable[tuple[str, int]], kept_of_source: Iterable[tuple[str, int]]
    ) -> tuple[int, int]:
        """Bytes that one prompt's two runs leave, and how many more are taken while they are made."""
        t, n = self.traits, self.n_columns
        stream = n * (t.n_layers + 1) * t.d_model
        of_base, of_source = (
            sum(self._activation(name) for name, _ in places if not name.startswith("resid_p"))
            for places in ({*kept_of_base, *kept_of_source}, set(kept_of_source))
        )
        kept = 2 * stream + 2 * n * t.n_layers * t.n_kv_heads * t.d_head + of_base + of_source
        start = np.zeros(2)
        watched = n * 4 * t.d_mlp if any(name.startswith("mlp") for name, _ in kept_of_base) else 0
        made = max(
            self._flight(start, start, 0) + 2 * watched * self.itemsize, (stream + of_source) * self.itemsize
        )
        # both runs' logits, and as they are compared with
        logits = 3 * self.n_read * self.n_logits * max(4, self.itemsize)
        return kept * self.itemsize + 32 * n + logits, made

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
    """Split rows for a budget, of which ``kept`` bytes are taken.

    On a GPU rows of one first column make chunks of equal length, so that their shapes repeat, and where there are
    many half of the room is left to recorded layers. On a CPU a chunk holds what fits.
    """
    room = max(budget - kept, 1)
    if sizes.stack.model.device.type != "cuda":
        return Chunks(list(chunk_rows(plan, sizes, room, whole_groups, MOST_ON_CPU)), kept)
    room = min(room, MOST_ON_GPU)
    split = _equal_chunks(plan, sizes, room, whole_groups)
    if len(split) < FEWEST_CHUNKS or whole_groups:
        return Chunks(split, kept)
    half = min(room, (budget - kept) // 2)
    if half < room:
        split = _equal_chunks(plan, sizes, max(half, 1), whole_groups)
    return Chunks(split, kept + half, max(half, 0))


def _equal_chunks(plan: RowPlan, sizes: Sizes, room: int, whole_groups: bool) -> list[np.ndarray]:
    """Rows of one first column that fill several chunks in chunks of equal length, then what is left over of all."""
    if whole_groups:
        return list(chunk_rows(plan, sizes, room, whole_groups))
    rows, found, left = np.arange(len(plan)), [], []
    for start in np.unique(plan.start):
        mine = rows[plan.start == start]
        # as many as fit if all of them enter first
        early = np.zeros(MOST_ROWS)

        def fits(n: int, start: int = start, early: np.ndarray = early) -> bool:
            return sizes.flight(np.full(n, start), early[:n]) <= room

        n = _most(MOST_ROWS, fits)
        full = len(mine) // n * n
        found += list(mine[:full].reshape(-1, n))
        left.append(mine[full:])
    if left:
        found += list(chunk_rows(plan, sizes, room, False, rows=np.concatenate(left)))
    return found


def chunk_rows(
    plan: RowPlan,
    sizes: Sizes,
    room: int,
    whole_groups: bool,
    most: int | None = None,
    rows: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Rows to run together, as many as fit in ``room`` bytes; at least one (or one group).

    ``most`` bounds the bytes that they would take one by one, so that a processor's cache is not overrun.
    """
    rows = np.arange(len(plan)) if rows is None else rows
    if not len(rows):
        return
    order = rows[np.lexsort((plan.group[rows], plan.start[rows]))] if whole_groups else rows
    new = np.diff(plan.group[order]) if whole_groups else np.ones(len(order) - 1)
    begins = np.r_[0, np.flatnonzero(new) + 1, len(order)]
    cost = np.r_[0.0, np.asarray(sizes.row(plan.start), dtype=np.float64)[order].cumsum()][begins]
    first, n_units = 0, len(begins) - 1
    while first < n_units:

        def fits(n: int, first: int = first) -> bool:
            mine = order[begins[first] : begins[first + n]]
            return sizes.flight(plan.start[mine], plan.entry[mine]) <= room

        end = n_units
        if most is not None:
            end = int(np.searchsorted(cost, cost[first] + most, side="right")) - 1
        n = _most(max(1, end - first), fits)
        yield order[begins[first] : begins[first + n]]
        first += n


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that fits, where smaller ones then do too; at least 1."""
    if fits(most):
        return most
    found, step = 1, 1
    while found < most and fits(min(found + step, most)):
        found = min(found + step, most)
        step *= 2
    while step := step // 2:
        if found + step <= most and fits(found + step):
            found += step
    return found
