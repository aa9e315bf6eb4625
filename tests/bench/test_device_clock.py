"""Clocks of single calls: what is between the events of a GPU, who takes turns, and rates of a device."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.bench import device_clock
from interp.bench.device_clock import (
    EventTimer,
    HostTimer,
    Taken,
    make_timer,
    measure_copy_rate,
    measure_product_rate,
    time_in_turn,
)

CPU = torch.device("cpu")


class Ticks:
    """A timer whose every call takes a second more than the one before."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def take(self, run: Any, host: float = 0.0) -> Taken:
        run()
        return Taken(float(next(self.count)), 0.0)


def test_calls_take_turns_after_one_that_does_not_count():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    taken = time_in_turn(Ticks(), runs, seconds=0.0, least=4, most=9)
    assert "".join(order) == "abc" * 5
    assert [one.device for one in taken["b"]] == [4, 7, 10, 13]
    taken = time_in_turn(Ticks(), runs, seconds=60.0, least=4, most=9)
    assert {len(times) for times in taken.values()} == {9}


def test_each_call_is_waited_for_as_long_as_its_own_host_took():
    given: list[tuple[str, float]] = []

    class Hosts:
        def take(self, run: Any, host: float = 0.0) -> Taken:
            given.append((run(), host))
            return Taken(1.0, {"slow": 9.0, "fast": 2.0}[run()])

    time_in_turn(Hosts(), {"slow": lambda: "slow", "fast": lambda: "fast"}, seconds=0.0, least=2)
    assert given == [("slow", 0.0), ("fast", 0.0)] + 2 * [("slow", 9.0), ("fast", 2.0)]


def test_rates_count_both_ways_and_both_operations(monkeypatch):
    monkeypatch.setattr(device_clock, "SMALL_COPY", 1000)
    monkeypatch.setattr(device_clock, "SMALL_PRODUCT", 10)

    class Two(HostTimer):
        def take(self, run: Any, host: float = 0.0) -> Taken:
            run()
            return Taken(2.0, 0.0)

    assert measure_copy_rate(CPU, Two()) == 1000
    assert measure_product_rate(CPU, torch.bfloat16, Two()) == 1000


def test_a_host_is_timed_by_its_clock():
    timer = make_timer(CPU)
    assert isinstance(timer, HostTimer)
    one = timer.take(lambda: sum(range(10000)))
    assert 0 < one.device == one.host < 1


class FakeCuda:
    """What an EventTimer asks of ``torch.cuda``, written down in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        log = self.log

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                log.append("event")

            def elapsed_time(self, other: Any) -> float:
                return 3.0

        self.Event = Event

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Event", self.Event)
        monkeypatch.setattr(cuda, "_sleep", lambda cycles: self.log.append(("sleep", cycles)))
        monkeypatch.setattr(cuda, "synchronize", lambda device: self.log.append("wait"))
        properties = SimpleNamespace(L2_cache_size=1 << 20)
        monkeypatch.setattr(cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(cuda, "device", lambda device: torch.inference_mode())
        # the sweep of the cache is a sum over a tensor there
        zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda n, dtype, device: Swept(self.log, zeros(n, dtype=dtype)))


class Swept:
    def __init__(self, log: list[Any], values: torch.Tensor) -> None:
        self.log, self.n_bytes = log, values.nbytes

    def sum(self) -> None:
        self.log.append(("read", self.n_bytes))


def test_a_gpu_sleeps_and_empties_its_cache_before_the_events(monkeypatch):
    fake = FakeCuda()
    fake.install(monkeypatch)
    clock = iter([0.0, 0.002, 1.0, 1.004])
    monkeypatch.setattr(device_clock, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timer = make_timer(torch.device("cuda"))
    assert isinstance(timer, EventTimer)
    first = timer.take(lambda: fake.log.append("run"))
    second = timer.take(lambda: fake.log.append("run"), first.host)
    assert first == Taken(0.003, 0.002) and second == Taken(0.003, pytest.approx(0.004))
    # four times the L2 cache, or 64 MiB; the second sleep outlasts what the host took before
    body = [("read", 1 << 26), "event", "run", "event", "wait"]
    assert fake.log == [("sleep", 40000), *body, ("sleep", int(0.00302 * 2e9)), *body]


@pytest.mark.cuda
def test_a_copy_on_a_gpu_is_as_long_as_its_bytes():
    device = torch.device("cuda")
    timer = make_timer(device)
    rate = measure_copy_rate(device, timer)
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    seconds = min(timer.take(source.clone).device for _ in range(5))
    assert 2 * source.nbytes / seconds == pytest.approx(rate, rel=0.3)
