"""Recording of launches as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Protocol
from weakref import WeakSet

import torch


class Recorder(Protocol):
    """Records what a function launches; all that it has recorded shares one pool of memory."""

    def record(self, run: Callable[[], None]) -> tuple[Callable[[], None], int]:
        """How to replay what ``run`` launches, and by how many bytes the pool grew.

        Nothing has run when this returns. Whatever ``run`` raises is raised, and nothing stays behind then.
        """

    def settle(self) -> None:
        """Wait until nothing that was recorded is running."""


class CudaRecorder:
    """Records launches of this thread on one CUDA device.

    What does not survive recording: reading a number of the device on the host, memory that other streams free.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._index: int = torch.cuda.current_device() if device.index is None else device.index
        self._stream = _stream_of(self._index)
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def record(self, run: Callable[[], None]) -> tuple[Callable[[], None], int]:
        """See :meth:`Recorder.record`."""
        if not self._graphs:
            # a pool whose last recording has gone takes no further one
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.memory_reserved(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # a tensor or graph that is collected while launches are recorded would spoil them
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.stream(self._stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    run()
                except BaseException:
                    with suppress(RuntimeError):  # the first error is the one that tells
                        graph.capture_end()
                    raise
                graph.capture_end()
        except BaseException:
            del graph
            self._recover()
            raise
        finally:
            if collects:
                gc.enable()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._graphs.add(graph)
        return graph.replay, max(0, torch.cuda.memory_reserved(self._device) - before)

    def settle(self) -> None:
        """See :meth:`Recorder.settle`."""
        torch.cuda.synchronize(self._device)

    def _recover(self) -> None:
        """Leave recording mode for good.

        Where CUDA refused to end a recording, PyTorch's allocator and random numbers stay in its mode until another
        one ends well.
        """
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self._index, self._pool)
        torch.cuda.synchronize(self._device)
        one = torch.zeros(1, device=self._device)
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream(self._device)):
            one.fill_(0)
        self._pool = torch.cuda.graph_pool_handle()
        _stream_of.cache_clear()
        self._stream = _stream_of(self._index)


@cache
def _stream_of(index: int) -> torch.cuda.Stream:
    """The one stream of a device on which launches are recorded: cuBLAS keeps a workspace for each that it has seen."""
    return torch.cuda.Stream(index)
