"""One process' share of a source: every n-th row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from interp.coders.batch import CoderBatch
from interp.coders.sources.layout import ActivationSource, JointSource
from interp.coders.sources.parts import count_rows


class ShareOfRows:
    """Rows ``rank``, ``rank + n``, ... of a source, counted over its whole length.

    Every process reads the whole source: cheap from a cache; a model that is streamed from runs in each.
    """

    def __init__(self, source: ActivationSource | JointSource, rank: int, n: int) -> None:
        self.source, self.rank, self.n = source, rank, n
        self._seen = 0

    def next_chunk(self) -> Any:
        """The share of the next chunk that has one, ``None`` at the end."""
        while (chunk := self.source.next_chunk()) is not None:
            rows = count_rows(chunk)
            first = (self.rank - self._seen) % self.n
            self._seen += rows
            if first < rows:
                kept = torch.arange(first, rows, self.n)
                if isinstance(chunk, CoderBatch):
                    return chunk.select(kept)
                return {name: batch.select(kept) for name, batch in chunk.items()}
        return None

    def state(self) -> dict[str, Any]:
        return {"source": self.source.state(), "seen": self._seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.source.restore(state["source"])
        self._seen = int(state["seen"])

    def restart(self) -> None:
        self.source.restart()
        self._seen = 0
