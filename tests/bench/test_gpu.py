"""The GPU benchmark as a dry run on a CPU: every part of it, its gates, and what it refuses."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from interp.bench import gpu_pieces, peer
from interp.bench.gpu import GpuPlan, run_gpu
from interp.bench.gpu_report import GpuRow, headline, report_gpu
from interp.bench.report import Report
from interp.errors import BenchError
from interp.kernels import backend
from interp.models.threads import hold_threads

CPU = torch.device("cpu")
DRY = GpuPlan.quick(device=CPU)


@pytest.fixture(scope="module")
def dry() -> Iterator[tuple[Report[GpuRow], list[GpuRow]]]:
    """One whole dry run, and what it kept."""
    kept: list[GpuRow] = []
    with hold_threads(1):
        yield run_gpu(replace(DRY, minutes=10.0), CPU, keep=kept.extend), kept


def rows_of(dry: Any, part: str, what: str) -> list[GpuRow]:
    return [row for row in dry[0].rows if (row.part, row.what) == (part, what)]


def test_everything_is_kept_and_named(dry):
    report, kept = dry
    assert list(report.rows) == kept
    assert {(row.part, row.what) for row in kept} == {
        ("sweep", "z"), ("sweep", "resid_pre"), ("edges", "edges"), ("memory", "z"), ("memory", "resid_pre"),
    }  # fmt: skip
    assert report.last_line.startswith("a dry run on a CPU, which says nothing of a GPU: z 2x32: all 4 in ")
    assert "x TransformerLens (" in report.last_line
    assert "; edges 2x32: 40 of 46 in " in report.last_line
    assert len(report.tables) == 4 and "device: a dry run" in report.notes[-2]


@pytest.mark.parametrize(("site", "n_sites"), [("z", 4), ("resid_pre", 32)])
def test_sweeps_stand_beside_the_peer(dry, site, n_sites):
    rows = rows_of(dry, "sweep", site)
    ours = [row for row in rows if "autograd" not in row.implementation]
    assert ours[0].implementation == "interp" and ours[-1].implementation == "interp, no kernels"
    for row in ours:
        assert 0 <= row.error < 1e-4 and row.n_timed == row.n_items == n_sites
        assert row.repeats == DRY.repeats and row.p20 <= row.p50 <= row.p80
        assert row.flops_share == pytest.approx(row.tflop * 1e12 / row.p50 / row.matmul_rate)
    peers = rows[len(ours) :]
    assert len(peers) >= 2 and {row.repeats for row in peers} == {1}
    for row in peers:
        assert row.over_ours == pytest.approx(row.p50 / ours[0].p50)
        assert 1 <= row.n_timed <= 4 and math.isnan(row.error)


def test_edges_are_scored_and_compared(dry):
    ours, *others = rows_of(dry, "edges", "edges")
    assert (ours.implementation, ours.n_items, ours.n_timed) == ("interp", 46, 40)
    assert others and all(row.n_timed == 20 for row in others)
    for row in (ours, *others):
        assert 0 <= row.error < 1e-4 and row.gate in ("HookedTransformer", "interp, no kernels")
        assert row.over_ours == pytest.approx(row.p50 / ours.p50)


def test_memory_has_a_peak_for_every_budget(dry):
    for site in ("z", "resid_pre"):
        rows = rows_of(dry, "memory", site)
        assert [row.budget_mib for row in rows] == [0.25, 64]
        assert 0 < rows[0].peak_mib < rows[1].peak_mib and not any(row.is_timed for row in rows)
        assert all(row.peak_mib <= row.predicted_mib for row in rows)


def test_no_figure_for_wrong_scores(monkeypatch):
    right = gpu_pieces.patch

    def wrong(*args: Any, **options: Any) -> Any:
        scores = right(*args, **options)
        next(iter(scores.sites.values())).raw.add_(1.0)
        return scores

    monkeypatch.setattr(gpu_pieces, "patch", wrong)
    monkeypatch.setattr(gpu_pieces, "time_call", lambda *_: pytest.fail("the clock was started"))
    with pytest.raises(BenchError, match=r"z, interp, \w+: the scores differ"):
        run_gpu(replace(DRY, parts=("sweep",)), CPU)


def test_no_figure_for_wrong_edges(monkeypatch):
    right = gpu_pieces.patch_edges

    def wrong(*args: Any, **options: Any) -> Any:
        found = right(*args, **options)
        return replace(found, scores=found.scores * 1.01)

    monkeypatch.setattr(gpu_pieces, "patch_edges", wrong)
    monkeypatch.setattr(gpu_pieces, "time_call", lambda *_: pytest.fail("the clock was started"))
    with pytest.raises(BenchError, match=r"edges, interp, \w+: the scores differ"):
        run_gpu(replace(DRY, parts=("edges",)), CPU)


def test_times_of_some_are_scaled_up_to_all(monkeypatch):
    def two_seconds(call: Any, device: torch.device) -> float:
        call()
        return 2.0

    monkeypatch.setattr(gpu_pieces, "time_call", two_seconds)
    monkeypatch.setattr(peer, "time_call", two_seconds)
    plan = replace(DRY, parts=("sweep", "edges"), repeats=1, peer_seconds=5.0)
    rows = run_gpu(plan, CPU).rows
    seconds = {(row.what, row.implementation): (row.p50, row.n_timed, row.over_ours) for row in rows}
    assert seconds["edges", "interp"] == (2 * 46 / 40, 40, 1.0)
    assert seconds["edges", "interp, no kernels"] == (pytest.approx(2 * 46 / 20), 20, pytest.approx(2.0))
    # three sites of two seconds each are more than five
    kind = next(name for _, name in seconds if name.endswith("autograd on"))
    assert seconds["resid_pre", kind] == (64.0, 3, 32.0) and seconds["resid_pre", "interp"][0] == 2.0


def test_variants_run_what_they_say():
    x, seen = torch.ones(1), {}
    for name, enter in gpu_pieces.GpuPieces(DRY, CPU, print).variants.items():
        with enter(), pytest.MonkeyPatch.context() as patch:
            # a kernel that was asked for says why it does not run on a CPU
            patch.setattr(backend, "_say_once", lambda *_: seen.update({name: "kernel"}))  # noqa: B023
            seen[name] = "reference"
            assert not backend.kernel_runs("anything", [x])
    assert seen["interp"] == "kernel" and seen["interp, no kernels"] == "reference"


def test_what_the_minutes_leave_is_said():
    report = run_gpu(replace(DRY, minutes=1e-9), CPU)
    assert {row.remark for row in report.rows} == {"skipped: the 1e-09 minutes are used up"}
    assert "edges: skipped: the 1e-09 minutes are used up" in report.last_line


def test_memory_that_runs_out_is_a_row(monkeypatch):
    def run_out(*_: Any) -> int:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_pieces, "measure_peak", run_out)
    report = run_gpu(replace(DRY, parts=("memory",)), CPU)
    assert {row.remark for row in report.rows} == {"out of memory"}
    assert "memory: out of memory in 4 of 4 runs" in report.last_line


def test_a_gpu_and_models_are_needed(monkeypatch):
    with pytest.raises(BenchError, match="dry run"):
        run_gpu(GpuPlan(), CPU)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformer_lens" else name
    )
    with pytest.raises(BenchError, match="models are read through transformer_lens, which is not installed"):
        run_gpu(DRY, CPU)


def test_the_real_plan_is_gpt2_small_and_every_edge():
    plan = GpuPlan()
    assert str(plan.shape) == "12x768" and plan.edges is None and plan.edge_prompts == 16 and not plan.is_dry
    quick = GpuPlan.quick(device=torch.device("cuda:1"))
    assert quick.shape == plan.shape and quick.edges and not quick.is_dry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("sweeps",)}, "unknown part 'sweeps'"),
        ({"repeats": 0}, "at least 1"),
        ({"budgets": (1, 0)}, "at least 1"),
        ({"edges": 0}, "at least 1"),
        ({"minutes": -1.0}, "more than 0"),
    ],
)
def test_plans_that_mean_nothing(options, message):
    with pytest.raises(BenchError, match=message):
        GpuPlan(**options)


def test_the_headline_of_a_gpu():
    known: dict[str, Any] = dict(
        part="sweep", what="z", shape="12x768", n_heads=12, d_vocab=50257, n_prompts=4
    )
    known |= dict(
        n_tokens=16, first_difference=10, seed=0, n_items=144, n_timed=144, repeats=9, p20=0.1, p80=0.3
    )
    known |= dict(
        p50=0.2,
        over_ours=1.0,
        tflop=2.0,
        matmul_rate=5e13,
        flops_share=0.2,
        budget_mib=1.0,
        predicted_mib=1.0,
    )
    known |= dict(peak_mib=0.5, error=1e-6, gate="HookedTransformer", remark="", implementation="interp")
    ours = GpuRow(**known)
    peer = replace(ours, implementation="HookedTransformer, autograd on", n_timed=9, over_ours=123.4)
    memory = replace(ours, part="memory", p50=float("nan"))
    rows = [ours, peer, memory, replace(memory, peak_mib=2.0)]
    assert headline(rows) == (
        "z 12x768: all 144 in 0.2 s, 20.0% of the product rate, 123x TransformerLens (HookedTransformer, autograd on, "
        "timed on 9 of 144); memory: peak within the budget in 1 of 2 runs"
    )
    report = report_gpu(rows, "a GPU", "threads: 1")
    assert report.last_line == headline(rows) and report.notes[-2] == "device: a GPU"
    assert report.tables[0].cells[0] == ("interp", "0.2 (0.1 to 0.3)", "1", "20.0%", "all 144", "1e-06")
    assert report.tables[1].cells[0] == ("z, budget 1 MiB", "1", "0.5", "50%", "")
    assert headline([]) == "nothing was measured"
