"""What the engine leaves out, how it keeps to its budget, and what it does when something goes wrong."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp.models.blocks.block import Block
from interp.models.memory_meter import MemoryMeter
from interp.patching.prepared import prepare
from interp.patching.readout import Readout
from interp.patching.wavefront import pairs, sweep
from interp.patching.wavefront.flights import Flights
from interp.tasks.base import PromptPairs


def small_task(first: int = 3) -> PromptPairs:
    return random_task([7, 7, 7], "right", [first] * 3, seed=2)


def rows_run(model: Any, task: PromptPairs, sites: Any, **options: Any) -> tuple[int, int]:
    note = interp.patch(model, task, sites, progress=False, **options).provenance.notes[-1]
    run, _, asked = note.split()[:3]
    return int(run), int(asked)


def test_no_ops_are_left_out() -> None:
    model = specimen("llama").model
    # positions before the first difference are equal; the metric is read at the last
    assert rows_run(model, small_task(4), "resid_pre") == (3 * 2 * 3, 3 * 2 * 7)
    assert rows_run(model, small_task(4), "resid_pre", metric="logit_diff@S") == (0, 42)
    assert rows_run(model, small_task(0), "z@pos") == (3 * 8 * 7, 3 * 8 * 7)
    # the last layer reaches the metric from the last position only, but is not known to before it runs
    assert rows_run(model, small_task(7), "z") == (0, 24)
    # other ablations differ from the base run earlier
    assert rows_run(model, small_task(4), "resid_pre", ablation="zero") == (42, 42)


def test_a_row_begins_where_it_first_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    run = Flights.run

    def spy(self: Flights, rows: Any) -> Any:
        seen.extend(zip(self.plan.start[rows].tolist(), self.plan.entry[rows].tolist(), strict=True))
        return run(self, rows)

    monkeypatch.setattr(Flights, "run", spy)
    model, task = specimen("gpt2").model, random_task([7, 7], "right", [2, 5], seed=1)
    interp.patch(model, task, ["z[1.0]", "mlp_out[0]@-1", "resid_pre[1]@3:"], progress=False)
    # the head enters before its MLP, an MLP output before the next layer
    assert sorted(seen) == sorted([(2, 3), (5, 3), (6, 2), (6, 2), (3, 2), (5, 2)])


def last_logits(logits: Tensor) -> Tensor:
    return logits[:, -1].logsumexp(-1)


@pytest.mark.parametrize("metric", ["logit_diff", "kl", last_logits])
@pytest.mark.parametrize("sites", [["z", "resid_pre"], ["k", "pattern@pos"], ["mlp_post", "mlp_out"]])
def test_memory_stays_within_any_budget(sites: list[str], metric: Any) -> None:
    sizes = {"n_layers": 3, "n_heads": 4, "d_model": 32, "d_mlp": 96, "d_vocab": 307, "n_ctx": 32}
    model = interp.load_model(make_hf_model("gpt2", **sizes))
    draw = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(1, 307, (6, 14), generator=draw) for _ in range(2))
    corrupted[:, :8] = clean[:, :8]
    task = interp.tasks.from_tokens(clean, corrupted, clean[:, 0], clean[:, 1])
    usual = interp.patch(model, task, sites, metric=metric, progress=False)
    peaks = []
    for budget in (1 << 24, 1 << 21, 1 << 19, 1):
        gc.collect()
        with MemoryMeter() as meter:
            found = interp.patch(model, task, sites, metric=metric, memory_budget=budget, progress=False)
        peaks.append(meter.peak)
        for site in usual:
            torch.testing.assert_close(found[site].raw, usual[site].raw, atol=2e-5, rtol=1e-5)
        # where not even the least fits, the note says how much that may take
        least = [int(note.split()[5]) for note in found.provenance.notes if "may take" in note]
        assert meter.peak <= max([budget, *least])
        assert not least or least[0] > budget
    # a smaller budget holds less at once, down to the least there is
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > 2 * peaks[-1]


def test_running_out_of_memory_halves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, small_task(0)
    usual = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    sizes: list[int] = []
    run = Flights.run

    def too_small(self: Flights, rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 11:
            raise torch.OutOfMemoryError("no room for that many")
        return run(self, rows)

    monkeypatch.setattr(Flights, "run", too_small)
    found = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    assert sizes[:3] == [66, 33, 16] and max(sizes[3:]) <= 33 and sum(n for n in sizes if n <= 11) == 66
    for site in usual:
        torch.testing.assert_close(found[site].raw, usual[site].raw, atol=1e-5, rtol=0)
    monkeypatch.setattr(Flights, "run", _always_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        interp.patch(model, task, "z", progress=False)


def test_halving_keeps_whole_batches_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, random_task([7, 7, 7], "right", [0, 3, 7], seed=5)

    def metric(logits: Tensor) -> Tensor:
        assert len(logits) == 3
        return logits[:, -1].logsumexp(-1).prod()

    usual = interp.patch(model, task, ["z", "resid_pre"], metric=metric, progress=False)
    run = Flights.run
    sizes: list[set[int]] = []

    def too_small(self: Flights, rows: Any) -> Any:
        groups = set(self.plan.group[rows].tolist())
        if len(groups) > 2:
            raise MemoryError
        sizes.append(groups)
        return run(self, rows)

    monkeypatch.setattr(Flights, "run", too_small)
    found = interp.patch(model, task, ["z", "resid_pre"], metric=metric, progress=False)
    assert all(a.isdisjoint(b) for i, a in enumerate(sizes) for b in sizes[:i])
    for site in usual:
        torch.testing.assert_close(found[site].raw, usual[site].raw, atol=1e-4, rtol=1e-5)


def test_prompts_whose_own_runs_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("llama").model, random_task([7, 5, 6, 7, 4], "left", [1] * 5, seed=9)
    usual = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    run, sizes = pairs.run_traces, []

    def too_small(stack: Any, tokens: Tensor, *args: Any) -> Any:
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("no room for that many")
        return run(stack, tokens, *args)

    monkeypatch.setattr(pairs, "run_traces", too_small)
    found = interp.patch(model, task, ["z", "resid_pre"], progress=False)
    assert sizes == [5, 3, 2, 1, 2]
    for site in usual:
        torch.testing.assert_close(found[site].per_prompt, usual[site].per_prompt, atol=1e-5, rtol=0)


def _always_out_of_memory(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("none at all")


@pytest.mark.parametrize("where", ["metric", "block", "chunk"])
def test_an_interrupt_leaves_nothing_behind(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gemma2").model, small_task()
    before = model(task.clean).detach()
    calls = iter(range(10_000))

    def interrupted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) > 5:
                raise KeyboardInterrupt
            return function(*args, **options)

        return call

    owner, name = {"metric": (Readout, "score_picked"), "block": (Block, "mlp"), "chunk": (Flights, "run")}[
        where
    ]
    monkeypatch.setattr(owner, name, interrupted(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, task, ["z", "resid_pre@pos"], memory_budget=1, progress=False)
    monkeypatch.undo()
    assert model.active_edits == [] and model.edit_handles == {}
    assert torch.equal(model(task.clean).detach(), before)


def test_progress_counts_every_site_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []
    made = sweep.tqdm

    def watched(*args: Any, **options: Any) -> Any:
        bars.append(made(*args, **options))
        return bars[-1]

    monkeypatch.setattr(sweep, "tqdm", watched)
    for budget in (1, 1 << 30):
        interp.patch(specimen("gpt2").model, small_task(), ["z", "resid_pre"], memory_budget=budget)
        assert bars[-1].n == pytest.approx(bars[-1].total) == 8 + 14


def test_what_was_chosen_is_said() -> None:
    model, task = specimen("gpt2").model, small_task()
    auto = interp.patch(model, task, "z", progress=False).provenance
    assert auto.backend == "wavefront" and "own logits" in (auto.backend_reason or "")
    for backend in ("wavefront", "hooked"):
        asked = interp.patch(model, task, "z", backend=backend, progress=False).provenance
        assert (asked.backend, asked.backend_reason) == (backend, "asked for")


def test_an_empty_set_is_the_base_run() -> None:
    model, task = specimen("gpt2").model, small_task()
    prepared = prepare(model, task, [("z", 0)], direction="denoise")
    cell = interp.patching.cells.plan_sweep(model, task, interp.parse_site("z[0.1]"), "denoise").cells[0]
    scores = prepared.scores([(), (cell,), ()], 1 << 30, progress=False)
    assert torch.equal(scores[0], scores[2]) and not torch.equal(scores[0], scores[1])
    assert float(scores[0].mean()) == pytest.approx(prepared.corrupted, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_half_precision_is_as_near_as_hooks(family: str) -> None:
    task = small_task()
    wide = interp.load_model(make_hf_model(family, seed=4, dtype=torch.bfloat16).float())
    half = interp.load_model(make_hf_model(family, seed=4, dtype=torch.bfloat16))
    exact = interp.patch(wide, task, ["z", "resid_pre"], progress=False)
    for site in ("z", "resid_pre"):
        errors = [
            float(
                (interp.patch(half, task, site, backend=b, progress=False)[site].raw - exact[site].raw)
                .abs()
                .mean()
            )
            for b in ("wavefront", "hooked")
        ]
        assert errors[0] < 1.5 * errors[1] + 0.01


@pytest.mark.cuda
def test_memory_on_a_gpu() -> None:
    model = interp.load_model(
        make_hf_model("gpt2", n_layers=4, d_model=128, d_mlp=512, n_heads=4), device="cuda"
    )
    task = small_task()
    interp.patch(model, task, "z", progress=False)
    for budget in (1 << 24, 1 << 22):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        interp.patch(model, task, ["z@pos", "resid_pre"], memory_budget=budget, progress=False)
        assert torch.cuda.max_memory_allocated() - before <= budget
