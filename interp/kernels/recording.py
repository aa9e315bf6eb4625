"""Recording of launches as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

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
        self._stream = torch.cuda.Stream(device)

    def record(self, run: Callable[[], None]) -> tuple[Callable[[], None], int]:
        """See :meth:`Recorder.record`."""
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
        return graph.replay, max(0, torch.cuda.memory_reserved(self._device) - before)

    def settle(self) -> None:
        """See :meth:`Recorder.settle`."""
        torch.cuda.synchronize(self._device)

    def _recover(self) -> None:
        """Leave recording mode for good.

        Where CUDA refused to end a recording, PyTorch's allocator and random numbers stay in its mode until another
        one ends well.
        """
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)
        torch.cuda.synchronize(self._device)
        one = torch.zeros(1, device=self._device)
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream(self._device)):
            one.fill_(0)
        self._pool = torch.cuda.graph_pool_handle()
