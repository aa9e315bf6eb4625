"""Times of single calls on a device, without what the host takes to launch them, and the device's own rates.

On a GPU a call is timed between two events of its stream. Before it the device sleeps until the host is ahead, so
that launches cost nothing between the events, and reads more bytes than its L2 cache holds, so that inputs come
from memory (reads leave no line behind that must be written back).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from interp.bench.clock import take_quantiles

Run = Callable[[], object]

COPY_BYTES = 1 << 30
"""Of a copy on a GPU whose rate is taken; read once and written once."""
PRODUCT_SIZE = 8192
"""Rows and columns of square matrices whose product's rate is taken on a GPU."""
SMALL_COPY, SMALL_PRODUCT = 1 << 24, 256
"""The same elsewhere, for a dry run."""
_CYCLES = 2_000_000_000
"""A second, in clock cycles of a GPU: at least as many as it has."""
_LONGEST_SLEEP = 0.02


class Timer(Protocol):
    """Takes the seconds of one call, which takes the host about ``host`` of them."""

    def take(self, run: Run, host: float = 0.0) -> Taken: ...


@dataclass(frozen=True)
class Taken:
    """One call, in seconds."""

    device: float
    host: float
    """Until the host had given the device its work."""


class EventTimer:
    """Of a CUDA device; see the head of this file."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        n_bytes = max(4 * torch.cuda.get_device_properties(device).L2_cache_size, 1 << 26)
        self._swept = torch.zeros(n_bytes // 4, dtype=torch.int32, device=device)

    def take(self, run: Run, host: float = 0.0) -> Taken:
        """Seconds of a call, once it has been run before: the first may compile or tune.

        The device sleeps a little longer than ``host`` seconds before it.
        """
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(min(1.5 * host + 2e-5, _LONGEST_SLEEP) * _CYCLES))
            self._swept.sum()
            start.record()
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            end.record()
            torch.cuda.synchronize(self.device)
            return Taken(start.elapsed_time(end) / 1e3, seconds)


class HostTimer:
    """Of a device that has done its work when a call returns."""

    def take(self, run: Run, host: float = 0.0) -> Taken:
        """Seconds of a call."""
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
        return Taken(seconds, seconds)


def find_device() -> torch.device:
    """The GPU where there is one; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_timer(device: torch.device) -> Timer:
    """The timer that suits a device."""
    return EventTimer(device) if device.type == "cuda" else HostTimer()


def time_in_turn(
    timer: Timer, runs: Mapping[str, Run], seconds: float, least: int = 5, most: int = 200
) -> dict[str, list[Taken]]:
    """Times of calls that take turns, so that a slower moment of the machine hits all of them alike.

    Rounds go on until ``seconds`` are used up; at least ``least``, at most ``most``.
    """
    host = {name: timer.take(run).host for name, run in runs.items()}
    taken: dict[str, list[Taken]] = {name: [] for name in runs}
    began = time.perf_counter()
    while len(next(iter(taken.values()))) < least or time.perf_counter() - began < seconds:
        for name, run in runs.items():
            taken[name].append(timer.take(run, host[name]))
            host[name] = taken[name][-1].host
        if len(taken[name]) >= most:
            break
    return taken


def measure_copy_rate(device: torch.device, timer: Timer, repeats: int = 10) -> float:
    """Bytes a second, read plus written, of a copy much larger than any cache (median)."""
    n_bytes = SMALL_COPY
    if device.type == "cuda":
        n_bytes = min(COPY_BYTES, torch.cuda.mem_get_info(device)[0] // 8)
    source = torch.ones(n_bytes // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median(timer, lambda: target.copy_(source), repeats)


def measure_product_rate(device: torch.device, dtype: torch.dtype, timer: Timer, repeats: int = 10) -> float:
    """FLOP a second of one large product of random matrices in this dtype, as torch multiplies by default (median).

    Numbers are random because a GPU draws less power for constants and runs faster than it ever does in earnest.
    """
    size = PRODUCT_SIZE if device.type == "cuda" else SMALL_PRODUCT
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _median(timer, lambda: torch.mm(a, b, out=out), repeats)


def _median(timer: Timer, run: Run, repeats: int) -> float:
    taken = time_in_turn(timer, {"": run}, 0.0, least=repeats, most=repeats)[""]
    return take_quantiles([one.device for one in taken]).p50
