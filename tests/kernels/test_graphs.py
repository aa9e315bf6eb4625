"""Recording and replaying: on a CPU with a recorder that re-runs what was recorded on the same buffers."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from fake_recorder import Rerun
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import KernelFallbackWarning
from interp.kernels.graphs import GraphCache, open_graphs
from interp.kernels.states import put_together, take_apart

LOTS = 1 << 40


class Side(NamedTuple):
    rows: Tensor
    turned: bool


@dataclass
class Flight:
    x: Tensor
    columns: slice | Tensor
    side: Side | None = None
    done: Tensor | None = None

    def __post_init__(self) -> None:
        self.x = self.x + 0.0


def step(flights: list[Flight]) -> list[Flight]:
    """Changes the containers, makes tensors, hands others on, drops one."""
    for flight in flights:
        flight.done = flight.x.sum(-1)
        flight.x = flight.x.sin() + 1.0
    return flights


def flight(n: int = 3, seed: int = 0, **fields: Any) -> list[Flight]:
    draw = torch.Generator().manual_seed(seed)
    side = Side(torch.randint(9, (n,), generator=draw), True)
    given = {"columns": slice(1, 4), "side": side} | fields
    return [Flight(torch.randn(n, 4, generator=draw), **given)]


def copied(flights: list[Flight]) -> list[Flight]:
    form, tensors = take_apart(flights)
    return put_together(form, {path: value.clone() for path, value in tensors.items()})  # type: ignore[no-any-return]


def assert_same(found: Any, expected: Any) -> None:
    ours, theirs = take_apart(found), take_apart(expected)
    assert ours[0] == theirs[0]
    for path, value in theirs[1].items():
        assert torch.equal(ours[1][path], value), path


def make_cache(recorder: Any = None, **options: Any) -> GraphCache:
    recorder = recorder or Rerun()
    recorder.cache = GraphCache(recorder, **({"most_bytes": LOTS} | options))
    return recorder.cache  # type: ignore[no-any-return]


def test_a_state_is_taken_apart_and_put_together() -> None:
    state = (flight(), [1, "two", 3.0, None, torch.float32], slice(None, 2))
    form, tensors = take_apart(state)
    assert sorted(tensors) == [".0.0.side.0", ".0.0.x"]
    again = put_together(form, tensors)
    assert again[0][0].x is state[0][0].x and again[0][0].side == state[0][0].side
    assert again[1:] == state[1:] and hash(form) == hash(take_apart(again)[0])


@pytest.mark.parametrize(
    "other",
    [
        flight(4),
        flight(columns=slice(1, 5)),
        flight(columns=torch.arange(3)),
        flight(side=None),
        flight(side=Side(torch.zeros(3, dtype=torch.long), False)),
        flight(side=Side(torch.zeros(3, dtype=torch.int32), True)),
        flight(side=Side(torch.zeros(6, dtype=torch.long)[::2], True)),
        flight(done=torch.zeros(3)),
        flight() + flight(),
        tuple(flight()),
    ],
)
def test_states_that_work_differently_have_other_forms(other: Any) -> None:
    assert take_apart(other)[0] != take_apart(flight())[0]
    assert take_apart(flight(seed=1))[0] == take_apart(flight())[0]


def test_equal_numbers_of_other_kinds_are_told_apart() -> None:
    assert take_apart([1])[0] != take_apart([True])[0] != take_apart([1.0])[0]


def test_a_tensor_in_two_places_stays_one() -> None:
    x = torch.zeros(2)
    form, tensors = take_apart([x, (x, x.clone())])
    again = put_together(form, {path: value + 1 for path, value in tensors.items()})
    assert again[0] is again[1][0] and again[0] is not again[1][1]
    assert form != take_apart([x, (x.clone(), x.clone())])[0]

    def add(state: list[Tensor]) -> list[Tensor]:
        assert state[0] is state[1]
        return [(total := state[0] + 1), total]

    with make_cache(warm_ups=0) as cache:
        for _ in range(3):
            found = cache.run("a", add, [x, x])
            assert found[0] is found[1] and found[0].tolist() == [1.0, 1.0]


def test_it_runs_then_records_then_replays() -> None:
    recorder = Rerun()
    calls = []

    def counted(state: list[Flight]) -> list[Flight]:
        calls.append(state)
        return step(state)

    with make_cache(recorder) as cache:
        for seed in range(5):
            given = flight(seed=seed)
            expected = step(copied(given))
            assert_same(cache.run("a", counted, given), expected)
            assert (recorder.recorded, recorder.replayed) == ((0, 0) if seed == 0 else (1, seed))
        # the first time the function sees its caller's own state, and may change it
        assert calls[0][0].done is not None and len(cache) == 1
        cache.run("b", counted, flight())
        cache.run("a", counted, flight(4))
        assert recorder.recorded == 1 and len(cache) == 1
    assert len(cache) == 0 and recorder.settled == 1


def test_the_callers_tensors_are_never_written() -> None:
    with make_cache() as cache:
        for seed in range(4):
            given = flight(seed=seed)
            before = copied(given)
            kept = take_apart(given)[1]
            cache.run("a", step, given)
            for path, value in take_apart(before)[1].items():
                assert torch.equal(kept[path], value)


def test_chained_runs_pass_their_buffers_on() -> None:
    """Layers one after another: what one wrote the next reads where it stands."""
    with make_cache() as cache:
        for seed in range(4):
            state = flight(seed=seed)
            expected = copied(state)
            for layer in range(3):
                state = cache.run(layer, step, state)
                expected = step(expected)
                if seed > 1:
                    assert any(state[0].x is buffer for buffer in cache._buffers.values())
                if layer == 1:  # rows join
                    state[0].x = torch.cat([state[0].x, state[0].x[:1]])
                    expected[0].x = torch.cat([expected[0].x, expected[0].x[:1]])
            assert_same(state, expected)


def test_results_are_overwritten_by_the_next_run_only() -> None:
    with make_cache(warm_ups=0) as cache:
        first = cache.run("a", step, flight(seed=0))
        kept = copied(first)
        cache.run("a", step, flight(5, seed=1))
        assert_same(first, kept)
        cache.run("a", step, flight(seed=1))
        with pytest.raises(AssertionError):
            assert_same(first, kept)


@dataclass
class Two:
    a: Tensor
    b: Tensor


@pytest.mark.parametrize(
    "function",
    [
        lambda s: Two(s.b, s.a),
        lambda s: Two(s.b, s.a + s.b),
        lambda s: Two(s.a * 2, s.a[:]),
        lambda s: Two(s.b.flip(0), s.a.view(-1).view(4)),
        lambda s: Two(s.a, s.a),
    ],
)
def test_results_that_are_views_of_inputs(function: Callable[[Two], Two]) -> None:
    with make_cache(warm_ups=0) as cache:
        state = Two(torch.arange(4.0), torch.arange(4.0) + 10)
        expected = state
        for _ in range(4):
            state, expected = cache.run("f", function, state), function(expected)
            assert_same(state, expected)


def test_inputs_that_stand_in_each_others_buffers() -> None:
    with make_cache(warm_ups=0) as cache:
        found = cache.run("f", lambda s: Two(s.a + 1, s.b + 1), Two(torch.zeros(2), torch.full((2,), 10.0)))
        found = cache.run("f", lambda s: Two(s.a + 1, s.b + 1), Two(found.b, found.a))
        assert found.a.tolist() == [12.0, 12.0] and found.b.tolist() == [2.0, 2.0]


def test_odd_strides_and_empty_tensors() -> None:
    wide = torch.arange(12.0).view(3, 4)
    states = [
        Two(wide.T, wide[:, 1:3]),
        Two(torch.ones(1, 4).expand(3, 4), torch.empty(0, 4)),
        Two(torch.tensor(2.0), torch.tensor(3.0).expand(2)),
    ]
    with make_cache(warm_ups=0) as cache:
        for _ in range(2):
            for state in states:
                found = cache.run("f", lambda s: Two(s.a * 2, s.b), state)
                assert torch.equal(found.a, state.a * 2) and torch.equal(found.b, state.b)


def test_the_least_recently_used_leaves() -> None:
    recorder = Rerun()
    with make_cache(recorder, most_graphs=2, warm_ups=0) as cache:
        for key in "abacab":
            cache.run(key, step, flight())
        # c put b out, a was younger
        assert recorder.recorded == 4 and len(cache) == 2
        cache.run("c", step, flight())
        assert recorder.recorded == 5


def test_bytes_are_bounded() -> None:
    one = 1000
    with make_cache(Rerun(one), most_bytes=2 * one + 500, warm_ups=0) as cache:
        for key in range(5):
            found = cache.run(key, step, flight())
            assert_same(found, step(flight()))
            assert cache.n_bytes <= 2 * one + 500
        assert len(cache) == 2


def test_what_does_not_fit_alone_is_not_recorded_again() -> None:
    recorder = Rerun(1000)
    with make_cache(recorder, most_bytes=999, warm_ups=0) as cache:
        for _ in range(3):
            assert_same(cache.run("a", step, flight()), step(flight()))
        assert recorder.recorded == 1 and len(cache) == 0 and cache.n_bytes == 0


def test_buffers_leave_with_their_graphs() -> None:
    with make_cache(warm_ups=0, most_graphs=1) as cache:
        cache.run("a", step, flight(3))
        small = cache.n_bytes
        # x and its result share a buffer; what is handed on stands where it stood
        assert small == 4 * (3 * 4 + 3) + 8 * 3
        cache.run("a", step, flight(6))
        gc.collect()
        assert cache.n_bytes == 2 * small and len(cache._buffers) == 3


class Refusing(Rerun):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def record(self, run: Callable[[], None]) -> tuple[Callable[[], None], int]:
        self.recorded += 1
        raise self.error


def test_a_failed_recording_is_said_once_and_everything_just_runs() -> None:
    recorder = Refusing(RuntimeError("operation not permitted when stream is capturing"))
    with make_cache(recorder, warm_ups=0) as cache:
        with pytest.warns(KernelFallbackWarning, match="not permitted when stream is capturing"):
            assert_same(cache.run("a", step, flight()), step(flight()))
        assert not cache.is_on
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for key in ("a", "b"):
                assert_same(cache.run(key, step, flight()), step(flight()))
    assert recorder.recorded == 1


def test_no_memory_for_a_recording_leaves_that_one_out() -> None:
    recorder = Refusing(torch.OutOfMemoryError("full"))
    with make_cache(recorder) as cache, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            assert_same(cache.run("a", step, flight()), step(flight()))
        assert cache.is_on and recorder.recorded == 1
        recorder.record = partial(Rerun.record, recorder)  # type: ignore[method-assign]
        for _ in range(4):
            assert_same(cache.run("b", step, flight()), step(flight()))
        assert len(cache) == 1


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("full")])
def test_a_recording_that_fails_late_has_overwritten_nothing_that_is_read(error: Exception) -> None:
    recorder = Rerun()
    with make_cache(recorder, warm_ups=0) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore", KernelFallbackWarning)
        one = cache.run("f", lambda s: [s[0] + 1], [torch.zeros(2)])[0]
        recorder.record = partial(Refusing.record, Refusing(error))  # type: ignore[method-assign]
        # the buffer of the first of these is where the second stands
        found = cache.run("g", lambda s: [s[0] + 1, s[1] + 1], [torch.full((2,), 10.0), one])
    assert [part.tolist() for part in found] == [[11.0, 11.0], [2.0, 2.0]]


def test_an_interrupt_goes_through() -> None:
    with make_cache(Refusing(KeyboardInterrupt())) as cache:
        cache.run("a", step, flight())
        with pytest.raises(KeyboardInterrupt):
            cache.run("a", step, flight())
        assert len(cache) == 0 and cache.n_bytes == 0


def write_in_place(flights: list[Flight]) -> list[Flight]:
    flights[0].x.add_(1.0)
    return flights


def test_functions_that_write_into_their_inputs_are_not_recorded() -> None:
    with make_cache() as cache:
        cache.run("a", write_in_place, flight())
        given = flight()
        expected = write_in_place(copied(given))
        with pytest.warns(KernelFallbackWarning, match="must not write"):
            assert_same(cache.run("a", write_in_place, given), expected)


@torch.inference_mode()
def test_tensors_that_count_no_versions_are_recorded_too() -> None:
    with make_cache(warm_ups=0) as cache:
        for seed in range(3):
            expected = step(flight(seed=seed))
            assert_same(cache.run("a", step, flight(seed=seed)), expected)
        assert cache.is_on and len(cache) == 1


def test_states_of_unknown_kinds_just_run() -> None:
    with make_cache() as cache, pytest.warns(KernelFallbackWarning, match="holds a set"):
        assert cache.run("a", lambda state: state, [{1}]) == [{1}]
    with pytest.raises(KernelError, match="holds a dict; expected tensors"):
        take_apart([{}])


def test_without_a_gpu_functions_just_run() -> None:
    with open_graphs(torch.device("cpu"), LOTS) as cache:
        assert not cache.is_on
        given = flight()
        assert cache.run("a", lambda state: state, given) is given
    assert len(cache) == 0


@pytest.mark.parametrize("options", [{"most_graphs": 0}, {"warm_ups": -1}])
def test_bounds_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(KernelError, match="at least one"):
        make_cache(**options)
