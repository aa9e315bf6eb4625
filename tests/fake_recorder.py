"""A recorder of CUDA graphs for a CPU: it runs what was recorded again, on the same buffers."""

from __future__ import annotations

from collections.abc import Callable

from interp.kernels.graphs import GraphCache


class Rerun:
    """Records by running once and undoing it, and replays by running the same again.

    As on a GPU nothing has run when recording ends, and nothing but buffers carries numbers over.
    """

    cache: GraphCache

    def __init__(self, n_bytes: int = 0) -> None:
        self.n_bytes = n_bytes
        self.recorded = 0
        self.replayed = 0
        self.settled = 0

    def record(self, run: Callable[[], None]) -> tuple[Callable[[], None], int]:
        before = [(buffer, buffer.clone()) for buffer in self.cache._buffers.values()]
        try:
            run()
        finally:
            for buffer in self.cache._buffers.values():
                buffer.fill_(float("nan") if buffer.is_floating_point() else -1)
            for buffer, value in before:
                buffer.copy_(value)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            run()

        return replay, self.n_bytes

    def settle(self) -> None:
        self.settled += 1
