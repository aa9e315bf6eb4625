"""Recording on a CUDA device: its pools and streams (faked), and on a real one."""

from __future__ import annotations

import gc
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.kernels import KernelFallbackWarning
from interp.kernels.graphs import open_graphs
from interp.kernels.recording import CudaRecorder

LOTS = 1 << 40


class _Pools:
    """As PyTorch's allocator has it: a pool whose graphs have all gone takes no further one."""

    def __init__(self) -> None:
        self.used: dict[int, int] = {}
        self.handles = 0
        self.streams = 0

    def handle(self) -> int:
        self.handles += 1
        return self.handles

    def stream(self, index: int) -> object:
        self.streams += 1
        return SimpleNamespace(wait_stream=lambda other: None, index=index)

    def graph(self) -> Any:
        pools = self

        class Graph:
            pool = 0

            def capture_begin(self, pool: int, capture_error_mode: str) -> None:
                if pools.used.get(pool) == 0:
                    raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
                pools.used[pool] = pools.used.get(pool, 0) + 1
                self.pool = pool

            def capture_end(self) -> None: ...

            def replay(self) -> None: ...

            def __del__(self) -> None:
                if self.pool:
                    pools.used[self.pool] -= 1

        return Graph()


def test_recordings_share_a_pool_until_the_last_goes_and_all_recorders_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools = _Pools()
    fakes: dict[str, Any] = {
        "graph_pool_handle": pools.handle,
        "CUDAGraph": pools.graph,
        "Stream": pools.stream,
        "current_device": lambda: 7,
        "current_stream": lambda device: pools.stream(7),
        "stream": lambda stream: nullcontext(),
        "memory_reserved": lambda device: 0,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    first, second = CudaRecorder(torch.device("cuda", 7)), CudaRecorder(torch.device("cuda"))
    assert first._stream is second._stream
    kept = [first.record(lambda: None), first.record(lambda: None)]
    assert list(pools.used.values()) == [2]
    kept.pop()
    kept.append(first.record(lambda: None))
    assert list(pools.used.values()) == [2]
    kept.clear()
    kept.append(first.record(lambda: None))
    assert list(pools.used.values()) == [0, 1]


@pytest.mark.cuda
def test_on_a_gpu_replays_are_what_runs_were() -> None:
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    with open_graphs(device, LOTS) as cache:
        for seed in range(4):
            x = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).to(device)
            found = cache.run("a", lambda s: [s[0] @ s[0], s[0]], [x])
            assert torch.equal(found[0], x @ x) and torch.equal(found[1], x)
        assert len(cache) == 1
    del found, x
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + (1 << 26)


@pytest.mark.cuda
def test_on_a_gpu_recording_goes_on_after_all_recordings_left() -> None:
    x = torch.randn(64, 64, device="cuda")
    with open_graphs(torch.device("cuda"), LOTS) as cache, warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        for _ in range(2):
            for _ in range(3):
                found = cache.run("a", lambda s: [s[0] @ s[0]], [x])
                assert torch.equal(found[0], x @ x)
            # what was found keeps the pool's memory from being given back
            assert len(cache) == 1
            cache.close()


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["host", "interrupt", "memory"])
def test_on_a_gpu_a_failed_recording_leaves_nothing_behind(how: str) -> None:
    device = torch.device("cuda")

    def function(state: list[Tensor]) -> list[Tensor]:
        made = state[0] * 2
        if torch.cuda.is_current_stream_capturing():
            if how == "host":
                made = made * made.sum().item()
            elif how == "interrupt":
                raise KeyboardInterrupt
            else:
                torch.empty(1 << 50, dtype=torch.uint8, device=device)
        return [made]

    stream = torch.cuda.current_stream()
    with open_graphs(device, LOTS) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            try:
                cache.run("a", function, [torch.ones(4, device=device)])
            except KeyboardInterrupt:
                assert how == "interrupt"
    assert not torch.cuda.is_current_stream_capturing() and torch.cuda.current_stream() == stream
    # random numbers and memory work as before
    assert bool(torch.randn(8, device=device).isfinite().all())
    torch.cuda.empty_cache()
    recorder = CudaRecorder(device)
    out = torch.zeros(1, device=device)
    replay, _ = recorder.record(lambda: out.add_(1) and None)
    replay()
    assert float(out) == 1.0
