"""Figures of the coder-memory benchmark: one row a run, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table

MB = 1e6


@dataclass(frozen=True)
class CoderMemoryRow:
    """One cached data set, read through one buffer by a process of its own."""

    tokens: int
    d_in: int
    stored_as: str
    shard_rows: int
    disk_gb: float
    buffer_rows: int
    batch_size: int
    seed: int
    buffer_mb: float
    """Of the buffer's arrays."""
    chunk_mb: float
    """Of the one chunk that is held beside them."""
    baseline_mb: float
    """Resident, before the cache is opened."""
    peak_mb: float
    """Most that was resident, over the baseline; pages of files that the system may take back are included."""
    peak_anonymous_mb: float
    """The same without pages of files: the memory of the process itself."""
    first_tenth_anonymous_mb: float
    """The same after a tenth of the tokens."""
    write_seconds: float
    read_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens read, shuffled and given out."""
        return self.tokens / self.read_seconds


NOTES = (
    "peak: VmHWM of a process that reads the cache through the buffer, less what it had before.",
    "anonymous: RssAnon at every tenth batch, without pages of the mapped files, which the system may take back.",
    "Every token came out exactly once (checked by two sums), else nothing is reported.",
)


def report_coder_memory(rows: Sequence[CoderMemoryRow], threads: str) -> Report[CoderMemoryRow]:
    """A table of memory and speed; the last line is the last run's."""
    table = Table(
        "Peak memory over the baseline, in MB",
        ("tokens", "on disk GB", "buffer rows", "buffer", "peak", "anonymous", "after a tenth", "tokens/s"),
        [
            (
                f"{row.tokens:,}",
                f"{row.disk_gb:.2f}",
                f"{row.buffer_rows:,}",
                *(f"{size:.1f}" for size in (row.buffer_mb, row.peak_mb, row.peak_anonymous_mb)),
                f"{row.first_tenth_anonymous_mb:.1f}",
                f"{row.tokens_per_second:,.0f}",
            )
            for row in rows
        ],
    )
    return Report(rows, (table,), (*NOTES, threads), "; ".join(map(_line, rows)))


def _line(row: CoderMemoryRow) -> str:
    return (
        f"{row.tokens:,} tokens ({row.disk_gb:.2f} GB on disk) through a buffer of {row.buffer_rows:,} rows "
        f"({row.buffer_mb:.1f} MB): peak RAM +{row.peak_mb:.1f} MB, of it anonymous +{row.peak_anonymous_mb:.1f} MB "
        f"(after a tenth +{row.first_tenth_anonymous_mb:.1f} MB); {row.tokens_per_second:,.0f} tokens/s"
    )
