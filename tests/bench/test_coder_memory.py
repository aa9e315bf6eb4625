"""The memory of reading a cache, end to end on a small one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from interp.bench import coder_memory
from interp.bench.coder_memory import CoderMemoryPlan, run_coder_memory
from interp.bench.coder_memory_report import CoderMemoryRow
from interp.errors import BenchError

PLAN = CoderMemoryPlan(
    tokens=1_500_000, d_in=16, shard_rows=200_000, buffer_rows=50_000, batch_size=2000, threads=1
)


def test_memory_stays_with_the_buffer(tmp_path: Path):
    """66 MB on disk, 132 MB as rows: the process takes the buffer, a chunk, and little beside."""
    kept: list[CoderMemoryRow] = []
    report = run_coder_memory(PLAN, tmp_path, keep=kept.extend)
    (row,) = report.rows
    assert kept == [row]
    assert row.disk_gb == pytest.approx(0.066, rel=0.01)
    assert row.buffer_mb == pytest.approx(50_000 * (16 * 4 + 3 * 8) / 1e6)
    assert row.peak_anonymous_mb < row.buffer_mb + 2 * row.chunk_mb + 20
    assert row.peak_mb < row.buffer_mb + 2 * row.chunk_mb + 30
    # what a tenth takes is what all of it takes
    assert row.peak_anonymous_mb - row.first_tenth_anonymous_mb < 10
    assert report.last_line.startswith(
        "1,500,000 tokens (0.07 GB on disk) through a buffer of 50,000 rows (4.4 MB)"
    )
    assert not list(tmp_path.iterdir())


def test_no_figure_for_tokens_that_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    n = 20_000
    sums = [n, n * (n - 1) // 2 - 1, sum(token**2 for token in range(n))]
    monkeypatch.setattr(coder_memory, "_read_apart", lambda plan, cache: {"sums": sums})
    with pytest.raises(BenchError, match="did not come out once each"):
        run_coder_memory(replace(PLAN, tokens=n, buffer_rows=4000), tmp_path)
    assert not list(tmp_path.iterdir())


def test_plans_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BenchError, match="a buffer holds a batch"):
        replace(PLAN, buffer_rows=100)
    with pytest.raises(BenchError, match="unknown type of a cache"):
        replace(PLAN, dtype="int8")
    with pytest.raises(BenchError, match=r"has .* GB left"):
        run_coder_memory(replace(PLAN, tokens=10**14), tmp_path)
    monkeypatch.setattr(coder_memory, "STATUS", tmp_path / "nowhere")
    with pytest.raises(BenchError, match="needs Linux"):
        run_coder_memory(PLAN, tmp_path)
