"""A shuffle in bounded memory: batches drawn at random from rows that are held, and refilled in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic

import torch
from jaxtyping import Int
from torch import Tensor

from interp.coders.sources.layout import ChunkSource, ChunkT, list_differences
from interp.coders.sources.parts import ChunkForm, count_rows
from interp.errors import CoderError

BATCHES_HELD = 32
"""Rows held by default, in batches."""


@dataclass(frozen=True)
class BufferCount:
    """Account of a buffer's rows over all epochs: ``read = given + held``."""

    read: int = 0
    """Rows taken from the source."""
    given: int = 0
    """Rows given out in batches."""
    held: int = 0
    batches: int = 0
    epoch: int = 0
    """Number of the epoch whose rows are held, from 0."""


class ShuffleBuffer(Generic[ChunkT]):
    """Draws batches without replacement from ``rows`` rows of a source, and refills what was drawn.

    Every row of the source comes out exactly once an epoch, and no row of an epoch before the last of the
    epoch before. Batches have ``batch_size`` rows, the last of all as many as are left. The arrays of
    ``rows`` rows are all that is held, and one chunk of the source. ``rows`` is 32 batches by default: more
    mixes better (:func:`interp.measure_mixing`) and takes memory. ``epochs=None`` never ends. ``device``
    is where the arrays lie; by default where the rows come from.

    Raises :class:`CoderError` for a buffer smaller than a batch.

    Example::

        buffer = ShuffleBuffer(source, batch_size=4096)
        while (batch := buffer.next_batch()) is not None:
            ...
    """

    def __init__(
        self,
        source: ChunkSource[ChunkT],
        rows: int | None = None,
        batch_size: int = 4096,
        seed: int = 0,
        epochs: int | None = 1,
        device: torch.device | str | None = None,
    ) -> None:
        rows = BATCHES_HELD * batch_size if rows is None else rows
        if batch_size < 1 or rows < batch_size:
            raise CoderError(
                f"a buffer holds at least one batch; got rows={rows} and batch_size={batch_size}. Leave rows out for "
                f"{BATCHES_HELD} batches."
            )
        if epochs is not None and epochs < 1:
            raise CoderError(f"epochs is at least 1, or None for no end; got {epochs}.")
        self.source, self.rows, self.batch_size, self.seed, self.epochs = (
            source,
            rows,
            batch_size,
            seed,
            epochs,
        )
        self.device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._form: ChunkForm | None = None
        self._arrays: dict[str, Tensor] = {}
        self._chunk: dict[str, Tensor] = {}
        self._used = 0
        self._is_over = False
        self._count = BufferCount()
        self._epoch_rows = 0

    @property
    def count(self) -> BufferCount:
        """Rows read, given and held so far."""
        return self._count

    def nbytes(self) -> int:
        """Bytes of the arrays; 0 before the first batch."""
        return sum(array.numel() * array.element_size() for array in self._arrays.values())

    def next_batch(self) -> ChunkT | None:
        """The next ``batch_size`` rows, the last time fewer; ``None`` at the end."""
        parts: list[dict[str, Tensor]] = []
        missing = self.batch_size
        while missing:
            self._fill()
            if not self._count.held:
                if not self._begin_epoch():
                    break
                continue
            parts.append(self._draw(min(missing, self._count.held)))
            missing -= _length(parts[-1])
        if not parts or self._form is None:
            return None
        self._count = replace(self._count, batches=self._count.batches + 1)
        whole = parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}
        return self._form.put_together(whole)

    def _fill(self) -> None:
        """Take rows of this epoch until the arrays are full or there are no more."""
        while self._count.held < self.rows and not self._is_over:
            if self._used == _length(self._chunk):
                self._next_chunk()
                continue
            count = self._count
            n = min(_length(self._chunk) - self._used, self.rows - count.held)
            for name, array in self._arrays.items():
                array[count.held : count.held + n] = self._chunk[name][self._used : self._used + n]
            self._used, self._epoch_rows = self._used + n, self._epoch_rows + n
            self._count = replace(count, read=count.read + n, held=count.held + n)

    def _next_chunk(self) -> None:
        chunk: Any = self.source.next_chunk()
        self._chunk, self._used, self._is_over = {}, 0, chunk is None
        if chunk is None or not count_rows(chunk):
            return
        if self._form is None:
            self._form = ChunkForm.of(chunk)
        parts = self._form.take_apart(chunk)
        if not self._arrays:
            self._arrays = self._allocate(parts)
        for name, part in parts.items():
            array = self._arrays[name]
            if (part.shape[1:], part.dtype) != (array.shape[1:], array.dtype):
                raise CoderError(
                    f"all chunks of a source must be alike; {name} was {array.dtype} [row, {_sizes(array)}], a chunk "
                    f"now has {part.dtype} [row, {_sizes(part)}]."
                )
        self._chunk = parts

    def _allocate(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: part.new_empty((self.rows, *part.shape[1:]), device=self.device or part.device)
            for name, part in parts.items()
        }

    def _draw(self, n: int) -> dict[str, Tensor]:
        """Take ``n`` of the rows held; those at the end move into the holes, so that held rows are the first."""
        held = self._count.held
        picked = draw_distinct(held, n, self._generator)
        is_taken = torch.zeros(n, dtype=torch.bool)
        is_taken[picked[picked >= held - n] - (held - n)] = True
        movers = (~is_taken).nonzero()[:, 0] + (held - n)
        holes = picked[picked < held - n]
        drawn = {}
        for name, array in self._arrays.items():
            drawn[name] = array[picked.to(array.device)]
            array[holes.to(array.device)] = array[movers.to(array.device)]
        self._count = replace(self._count, given=self._count.given + n, held=held - n)
        return drawn

    def _begin_epoch(self) -> bool:
        if not self._epoch_rows:
            raise CoderError("the source has no rows to train on; check its data and positions.")
        if self.epochs is not None and self._count.epoch + 1 >= self.epochs:
            return False
        self.source.restart()
        self._is_over, self._epoch_rows = False, 0
        self._count = replace(self._count, epoch=self._count.epoch + 1)
        return True

    def state(self) -> dict[str, Any]:
        """Everything that further batches depend on: JSON-ready values, and tensors in dicts by name.

        The tensors are views of the arrays, not copies: write them before the next batch is drawn.
        """
        held = self._count.held
        return {
            "settings": self._settings(),
            "count": asdict(self._count),
            "form": None if self._form is None else {**asdict(self._form), "kept": dict(self._form.kept)},
            "generator": self._generator.get_state(),
            "held": {name: array[:held] for name, array in self._arrays.items()},
            "waiting": {name: part[self._used :] for name, part in self._chunk.items()},
            "is_over": self._is_over,
            "epoch_rows": self._epoch_rows,
            "source": self.source.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the buffer whose state this is: further batches are equal to the bit.

        Raises :class:`CoderError` for the state of a buffer of another size, batch size or seed, and as the
        source does.
        """
        if differing := list_differences(state["settings"], self._settings()):
            raise CoderError(f"this is the state of another buffer; it differs in {differing}.")
        self.source.restore(state["source"])
        self._form = None if state["form"] is None else ChunkForm(**state["form"])
        self._generator.set_state(state["generator"].cpu())
        self._arrays = self._arrays or self._allocate(state["held"])
        for name, rows in state["held"].items():
            self._arrays[name][: len(rows)] = rows
        self._chunk, self._used = {name: part.clone() for name, part in state["waiting"].items()}, 0
        self._is_over, self._epoch_rows = state["is_over"], state["epoch_rows"]
        self._count = BufferCount(**state["count"])

    def _settings(self) -> dict[str, int]:
        return {"rows": self.rows, "batch_size": self.batch_size, "seed": self.seed}


def draw_distinct(n: int, size: int, generator: torch.Generator) -> Int[Tensor, " size"]:
    """``size`` of the numbers below ``n``, each subset and each order equally likely; no array of ``n`` for few."""
    if 4 * size > n:
        return torch.randperm(n, generator=generator)[:size]
    picked = torch.randint(n, (size,), generator=generator).unique()
    while len(picked) < size:
        more = torch.randint(n, (size - len(picked),), generator=generator)
        picked = torch.cat([picked, more]).unique()
    return picked[torch.randperm(size, generator=generator)]


def _length(parts: Mapping[str, Tensor]) -> int:
    return len(next(iter(parts.values()))) if parts else 0


def _sizes(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape[1:]))
