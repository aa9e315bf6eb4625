"""Layers that are recorded and replayed, scores that arrive late, and chunks whose shapes repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_recorder import Rerun
from model_zoo import specimen
from random_tasks import random_task
from torch._subclasses.fake_tensor import FakeTensorMode

import interp
from interp.kernels.graphs import GraphCache
from interp.patching.wavefront import sweep
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.memory import FEWEST_CHUNKS, MOST_ON_GPU, Sizes, plan_chunks
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.transfers import ReadBack, send_numbers, send_together
from interp.tasks.base import PromptPairs


def ragged(side: str = "left", first: tuple[int, ...] = (1, 1, 3)) -> PromptPairs:
    return random_task([7, 6, 7][: len(first)], side, first, seed=2)


def record_layers(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Rerun:
    """Make sweeps on a CPU record and replay."""
    recorder = Rerun()

    @contextmanager
    def opened(*_: Any) -> Iterator[GraphCache]:
        with GraphCache(recorder, **({"most_bytes": 1 << 40} | options)) as cache:
            recorder.cache = cache
            yield cache

    monkeypatch.setattr(sweep, "open_graphs", opened)
    return recorder


def assert_equal_scores(found: Any, expected: Any) -> None:
    for site in expected:
        assert torch.equal(found[site].per_prompt, expected[site].per_prompt)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "qwen3"])
@pytest.mark.parametrize("sites", [["z", "resid_pre"], ["k", "mlp_out"]])
def test_replayed_layers_give_the_same_bits(
    family: str, sites: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = specimen(family).model, {"memory_budget": 1 << 15, "progress": False}
    expected = interp.patch(model, ragged(), sites, **options)
    recorder = record_layers(monkeypatch)
    assert_equal_scores(interp.patch(model, ragged(), sites, **options), expected)
    assert recorder.replayed > recorder.recorded > 0


def test_edges_are_replayed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = specimen("llama").model, {"memory_budget": 1 << 16, "progress": False}
    expected = interp.score_edges(model, ragged(), method="exact", **options)
    recorder = record_layers(monkeypatch)
    found = interp.score_edges(model, ragged(), method="exact", **options)
    assert torch.equal(found.effects, expected.effects)
    assert recorder.replayed > recorder.recorded > 0


def test_rows_that_are_written_in_flight_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, ragged()
    recorder = record_layers(monkeypatch, warm_ups=0)
    interp.patch(model, task, ["pattern", "q"], ablation="zero", progress=False)
    recorded = recorder.recorded
    prepared = interp.patching.prepared.prepare(model, task, [("z", 0), ("z", 1)], direction="denoise")
    cells = interp.patching.cells.plan_sweep(model, task, interp.parse_site("z"), "denoise").cells
    prepared.scores([(cells[0], cells[-1])] * 3, 1, progress=False)
    assert recorded and recorder.recorded == recorded


def test_recordings_are_known_by_layer_and_part(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []
    run = GraphCache.run

    def watched(self: GraphCache, key: Any, *given: Any) -> Any:
        keys.append(key)
        return run(self, key, *given)

    record_layers(monkeypatch)
    monkeypatch.setattr(GraphCache, "run", watched)
    model = specimen("gpt2").model
    interp.patch(model, ragged(), ["z", "resid_pre"], progress=False)
    # heads enter between attention and MLP
    assert len(keys) == len(set(keys)) == 4
    keys.clear()
    interp.patch(model, ragged(), ["resid_pre"], progress=False)
    assert len(keys) == len(set(keys)) == 2


def test_blocks_of_prompts_do_not_share_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded reads the base run's keys where they stand."""
    model, task = specimen("gpt2").model, random_task([7] * 4, "right", [2] * 4, seed=3)
    options: dict[str, Any] = {"memory_budget": 1, "progress": False}
    expected = interp.patch(model, task, "z", **options)
    recorder = record_layers(monkeypatch)
    assert_equal_scores(interp.patch(model, task, "z", **options), expected)
    assert recorder.replayed > 0 and recorder.settled >= 4


def run_behind(monkeypatch: pytest.MonkeyPatch, ahead: int) -> list[int]:
    """Make scores arrive so many chunks late; collects how many are outstanding."""
    waiting: list[int] = []
    inbox = sweep._Inbox

    class Late(inbox):  # type: ignore[misc, valid-type]
        def __init__(self, plan: Any, scores: Any, _: int, done: Any) -> None:
            super().__init__(plan, scores, ahead, done)

        def add(self, *given: Any) -> None:
            super().add(*given)
            waiting.append(len(self._waiting))

    monkeypatch.setattr(sweep, "_Inbox", Late)
    return waiting


@pytest.mark.parametrize("ahead", [1, 2])
def test_late_scores_are_the_same(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = specimen("gpt2").model, {"memory_budget": 1 << 15, "progress": False}
    expected = interp.patch(model, ragged(), ["z", "resid_pre"], **options)
    waiting = run_behind(monkeypatch, ahead)
    assert_equal_scores(interp.patch(model, ragged(), ["z", "resid_pre"], **options), expected)
    assert max(waiting) == ahead and len(waiting) > 4


def test_memory_that_runs_out_loses_and_repeats_no_late_score(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, ragged()
    expected = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    run_behind(monkeypatch, 2)
    run, written = Flights.run, []
    read = sweep._Inbox._write
    tries = iter(range(100))

    def fails_at_times(self: Flights, rows: Any) -> Any:
        if len(rows) > 9 or (next(tries) % 3 == 1 and len(rows) > 1):
            raise torch.OutOfMemoryError("no room")
        return run(self, rows)

    def counted(self: Any) -> None:
        written.extend(self._waiting[0][0].tolist())
        read(self)

    monkeypatch.setattr(Flights, "run", fails_at_times)
    monkeypatch.setattr(sweep._Inbox, "_write", counted)
    found = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    assert sorted(written) == list(range(len(written))) and written
    for site in expected:
        torch.testing.assert_close(found[site].per_prompt, expected[site].per_prompt, atol=1e-5, rtol=0)


def test_an_interrupt_with_scores_outstanding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = specimen("gpt2").model, specimen("gpt2").model(ragged().clean).detach()
    run_behind(monkeypatch, 2)
    recorder = record_layers(monkeypatch, warm_ups=0)
    run, calls = Flights.run, iter(range(100))

    def interrupted(self: Flights, rows: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return run(self, rows)

    monkeypatch.setattr(Flights, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, ragged(), "z", memory_budget=1, progress=False)
    assert recorder.recorded and len(recorder.cache) == 0 and recorder.cache.n_bytes == 0
    assert torch.equal(model(ragged().clean).detach(), before)


def test_numbers_travel_together() -> None:
    device = torch.device("cpu")
    arrays = [np.arange(6).reshape(2, 3), np.arange(0), np.arange(4)[::-1]]
    for array, found in zip(arrays, send_together(arrays, device), strict=True):
        assert np.array_equal(found.numpy(), array)
    numbers = np.arange(3)
    assert send_numbers(numbers[::-1], device).tolist() == [2, 1, 0]
    scores = torch.tensor([1.5, 2.5])
    assert torch.equal(ReadBack(scores).wait(), scores)


def test_scores_are_waited_for_on_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []
    event = SimpleNamespace(record=lambda *stream: recorded.append(stream))
    with FakeTensorMode():
        scores = torch.empty(2, device="cuda:1")
        monkeypatch.setattr(torch.cuda, "Event", lambda: event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"of {device}")
        monkeypatch.setattr(torch, "empty", lambda *_, **__: SimpleNamespace(copy_=lambda *_, **__: None))
        ReadBack(scores)
    assert recorded == [("of cuda:1",)]


def sizes_on(device: str) -> Sizes:
    model = specimen("gpt2").model
    fake = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
    return Sizes(SimpleNamespace(model=fake, traits=model.traits), 16, 1, 2)  # type: ignore[arg-type]


def many_rows(starts: dict[int, int], seed: int = 0) -> RowPlan:
    draw = np.random.default_rng(seed)
    start = np.repeat(list(starts), list(starts.values()))
    entry = draw.integers(0, 5, len(start))
    order = np.lexsort((entry, start))
    start, entry, number = start[order], entry[order], np.arange(len(start))
    return RowPlan(number // 4, number % 4, start, entry, np.full(len(start), -1), {})


def test_chunks_on_a_gpu_have_equal_lengths() -> None:
    plan, sizes = many_rows({3: 1000, 9: 90, 11: 7, 12: 700}), sizes_on("cuda")
    kept = sizes.hidden + 12345
    budget = kept + (1 << 21)
    chunks = plan_chunks(plan, sizes, budget, kept, whole_groups=False)
    assert sorted(np.concatenate(chunks.rows).tolist()) == list(range(len(plan)))
    for rows in chunks.rows:
        assert chunks.kept + sizes.flight(plan.start[rows], plan.entry[rows]) <= budget
    # half of the room is for recorded layers
    assert chunks.kept == kept + (1 << 20) and chunks.room_of_graphs == 1 << 20
    for start in (3, 12):
        own = [len(rows) for rows in chunks.rows if (plan.start[rows] == start).all()]
        assert len(own) >= 5 and len(set(own[:-1])) == 1
    # what is left over comes together, and nothing else is mixed
    assert sum(len(set(plan.start[rows].tolist())) > 1 for rows in chunks.rows) <= 2


def test_few_chunks_on_a_gpu_take_all_room_and_record_nothing() -> None:
    plan, sizes = many_rows({3: 50, 9: 90}), sizes_on("cuda")
    chunks = plan_chunks(plan, sizes, MOST_ON_GPU * 2, sizes.hidden, whole_groups=False)
    assert len(chunks.rows) == 1 < FEWEST_CHUNKS and chunks.room_of_graphs == 0


def test_whole_groups_stay_together_on_a_gpu() -> None:
    plan, sizes = many_rows({3: 200}), sizes_on("cuda")
    chunks = plan_chunks(plan, sizes, sizes.hidden + (1 << 19), sizes.hidden, whole_groups=True)
    groups = [set(plan.group[rows].tolist()) for rows in chunks.rows]
    assert len(groups) > 1 and sum(map(len, groups)) == len(set(plan.group.tolist()))
    assert chunks.room_of_graphs == 0


@pytest.mark.parametrize("budget", [1, 1 << 18, 1 << 20, 1 << 30])
def test_chunks_on_a_cpu_hold_what_fits(budget: int) -> None:
    plan, sizes = many_rows({3: 100, 9: 90, 15: 30}), sizes_on("cpu")
    chunks = plan_chunks(plan, sizes, sizes.hidden + budget, sizes.hidden, whole_groups=False)
    assert np.array_equal(np.concatenate(chunks.rows), np.arange(len(plan)))
    for rows, after in zip(chunks.rows, [*chunks.rows[1:], None], strict=True):
        assert len(rows) == 1 or sizes.flight(plan.start[rows], plan.entry[rows]) <= budget
        if after is not None:
            more = np.append(rows, after[0])
            assert sizes.flight(plan.start[more], plan.entry[more]) > budget


def test_no_rows_are_no_chunks() -> None:
    for device in ("cpu", "cuda"):
        sizes = sizes_on(device)
        assert plan_chunks(many_rows({}), sizes, 1 << 20, sizes.hidden, whole_groups=False).rows == []


@pytest.mark.cuda
def test_replays_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_models import make_hf_model

    model = interp.load_model(make_hf_model("gpt2", n_layers=3, d_head=16, d_model=64), device="cuda")
    task = random_task([7] * 6, "right", [2] * 6, seed=3)
    replays: list[Any] = []
    run = GraphCache.run

    def watched(self: GraphCache, *given: Any) -> Any:
        found = run(self, *given)
        replays.append(len(self))
        return found

    options: dict[str, Any] = {"memory_budget": 1 << 23, "progress": False}
    monkeypatch.setattr(GraphCache, "run", watched)
    found = interp.patch(model, task, ["z@pos", "resid_pre"], **options)
    assert max(replays) > 0
    monkeypatch.setattr(Flights, "is_recordable", False)
    assert_equal_scores(interp.patch(model, task, ["z@pos", "resid_pre"], **options), found)
