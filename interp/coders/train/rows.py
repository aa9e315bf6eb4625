"""The batches of a training: shuffled, shared among processes, the first ones looked at before they are used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.sources import JointSource, ShuffleBuffer
from interp.coders.sources.layout import ActivationSource
from interp.coders.sources.parts import ChunkForm, count_rows
from interp.coders.train.config import TrainingConfig
from interp.coders.train.distributed import Processes
from interp.coders.train.share import ShareOfRows
from interp.errors import CoderError

Batches = dict[str, CoderBatch]


class TrainingRows:
    """Batches by coder: of one source for all coders, or of a joint source that has one for each."""

    def __init__(
        self,
        source: ActivationSource | JointSource,
        names: tuple[str, ...],
        training: TrainingConfig,
        processes: Processes,
    ) -> None:
        self.names = names
        self.training = training
        share = training.batch_size // processes.n
        if share * processes.n != training.batch_size:
            raise CoderError(
                f"batch_size={training.batch_size} cannot be shared among {processes.n} processes; take a multiple."
            )
        self.batch_size = share
        epochs = training.epochs if training.epochs is not None else (None if training.tokens else 1)
        self.buffer: ShuffleBuffer[Any] = ShuffleBuffer(
            source if processes.n == 1 else ShareOfRows(source, processes.rank, processes.n),
            rows=max(training.buffer_rows // processes.n, share),
            batch_size=share,
            seed=training.seed + processes.rank,
            epochs=epochs,
        )
        self._waiting: list[Any] = []

    def look(self) -> Batches:
        """The first ``start_rows`` rows in one batch; they come again from :meth:`next`.

        A source that was read before begins anew; an iterator, which cannot, goes on where it stands.
        Warns of data that are less than one batch. Raises :class:`CoderError` for a source without rows.
        """
        with suppress(CoderError):
            self.buffer.source.restart()
        n = 0
        while n < self.training.start_rows and (batch := self.buffer.next_batch()) is not None:
            self._waiting.append(batch)
            n += count_rows(batch)
        if not n:
            raise CoderError("the source has no rows; a coder needs activations to be trained on.")
        if n < self.batch_size:
            warnings.warn(
                f"all data are {n} rows, less than a batch of {self.batch_size}: the coder takes a single step. Give a "
                "smaller batch_size, or tokens or epochs for several passes.",
                UserWarning,
                stacklevel=5,
            )
        by_name = [self._by_name(batch) for batch in self._waiting]
        return {name: CoderBatch.cat([batches[name] for batches in by_name]) for name in self.names}

    def next(self) -> Batches | None:
        """The next batch of every coder, ``None`` at the end."""
        batch = self._waiting.pop(0) if self._waiting else self.buffer.next_batch()
        return None if batch is None else self._by_name(batch)

    def _by_name(self, batch: CoderBatch | dict[str, CoderBatch]) -> Batches:
        if isinstance(batch, CoderBatch):
            return dict.fromkeys(self.names, batch)
        missing = sorted(set(self.names) - set(batch))
        if missing:
            raise CoderError(f"the source has rows for {sorted(batch)}, none for coder {missing[0]!r}.")
        return {name: batch[name] for name in self.names}

    def state(self) -> dict[str, Any]:
        """Where the rows stand: JSON-ready values, and tensors."""
        waiting = [ChunkForm.of(batch).take_apart(batch) for batch in self._waiting]
        form = ChunkForm.of(self._waiting[0]) if self._waiting else None
        return {
            "buffer": self.buffer.state(),
            "waiting": waiting,
            "kept": None if form is None else dict(form.kept),
            "is_joint": form is not None and form.is_joint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where :meth:`state` was taken."""
        self.buffer.restore(state["buffer"])
        self._waiting = []
        if state["kept"] is not None:
            form = ChunkForm(state["kept"], state["is_joint"])
            self._waiting = [form.put_together(tensors) for tensors in state["waiting"]]


def take_tensors_out(state: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state with a mark in place of every tensor, which goes to ``tensors`` under its path."""
    if isinstance(state, Tensor):
        tensors[path] = state
        return {"tensor at": path}
    if isinstance(state, Mapping):
        return {str(key): take_tensors_out(value, f"{path}.{key}", tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [take_tensors_out(value, f"{path}.{i}", tensors) for i, value in enumerate(state)]
    return state


def put_tensors_back(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`take_tensors_out` took apart."""
    if isinstance(state, Mapping):
        if set(state) == {"tensor at"}:
            return tensors[state["tensor at"]]
        return {key: put_tensors_back(value, tensors) for key, value in state.items()}
    if isinstance(state, list):
        return [put_tensors_back(value, tensors) for value in state]
    return state
