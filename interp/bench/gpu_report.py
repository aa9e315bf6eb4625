"""Figures of the GPU benchmark: one row an implementation of a sweep, a set of edges or a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table

SWEEP, EDGES, MEMORY = "sweep", "edges", "memory"
PARTS = (SWEEP, EDGES, MEMORY)
OURS = "interp"
"""Ours as it runs by itself: with kernels, and CUDA graphs where shapes repeat."""
SKIPPED = "skipped: "
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class GpuRow:
    """One implementation of one thing; times in seconds, NaN where there is none."""

    part: str
    what: str
    """``z``, ``resid_pre``, ``edges``."""
    implementation: str
    """``interp``, the same without graphs or kernels, or the peer's class and whether autograd is on."""
    shape: str
    n_heads: int
    d_vocab: int
    n_prompts: int
    n_tokens: int
    first_difference: int
    seed: int
    n_items: int
    """Sites or edges."""
    n_timed: int
    """Of them; times are scaled up to all."""
    repeats: int
    p20: float
    p50: float
    p80: float
    over_ours: float
    """Its median over that of ``interp``."""
    tflop: float
    """Fewest operations of all items (``interp/bench/flops.py``)."""
    matmul_rate: float
    """FLOP a second of a large fp32 product of random matrices in the same run."""
    flops_share: float
    """Fewest operations a second of its median time, over the rate of large products."""
    budget_mib: float
    predicted_mib: float
    peak_mib: float
    """Most memory of tensors beside the weights, as the allocator counts it."""
    error: float
    """Largest difference from the peer's scores, as a share of the metric's range."""
    gate: str
    """What the scores were compared with."""
    remark: str

    @property
    def is_timed(self) -> bool:
        """Whether a time was taken."""
        return not math.isnan(self.p50)

    @property
    def extent(self) -> str:
        """How much of it was run."""
        return f"{self.n_timed} of {self.n_items}" if self.n_timed < self.n_items else f"all {self.n_items}"


NOTES = (
    "interp: whole calls, runs of both prompts included, after one that tunes kernels and records graphs; median, p20 "
    "to p80. TransformerLens: its clean cache made before. What ran on some sites or edges only is scaled up to all.",
    "TFLOP: the fewest that the rows need (interp/bench/flops.py). Share: of the rate of a large fp32 product, as "
    "torch multiplies by default, measured in this run.",
    "Peak: most bytes of tensors alive at once beside the weights, by the allocator (on a CPU counted at every "
    "operation); predicted: what the planner expects of its plan.",
)


DRY = "a dry run on a CPU, which says nothing of a GPU"


def report_gpu(rows: Sequence[GpuRow], device: str | None, threads: str) -> Report[GpuRow]:
    """A table a sweep, one for edges, one for memory; the last line has the headlines.

    ``device`` is the GPU's name, ``None`` for a dry run.
    """
    tables = []
    for part, what in dict.fromkeys((row.part, row.what) for row in rows if row.part != MEMORY):
        tables.append(_tabulate_times([row for row in rows if (row.part, row.what) == (part, what)]))
    memory = [row for row in rows if row.part == MEMORY]
    if memory:
        tables.append(_tabulate_memory(memory))
    figures = headline(rows)
    last_line = figures if device else f"{DRY}: {figures}"
    return Report(rows, tables, (*NOTES, f"device: {device or DRY}", threads), last_line)


def _tabulate_times(rows: Sequence[GpuRow]) -> Table:
    row = rows[0]
    title = (
        f"{row.what} of {row.shape}: {row.n_items}, in {row.n_prompts} prompts of {row.n_tokens} tokens that differ at "
        f"{row.first_difference}; {row.tflop:.3g} TFLOP, a large product has {row.matmul_rate / 1e12:.3g} a second"
    )
    if row.gate:
        title += f"; compared with {row.gate}"
    cells = [
        (
            row.implementation,
            f"{row.p50:.3g}" + (f" ({row.p20:.3g} to {row.p80:.3g})" if row.repeats > 1 else ""),
            f"{row.over_ours:.3g}",
            f"{row.flops_share:.1%}",
            row.extent,
            "" if math.isnan(row.error) else f"{row.error:.0e}",
        )
        if row.is_timed
        else (row.implementation, row.remark, "", "", "", "")
        for row in rows
    ]
    return Table(title, ("", "seconds", "x interp", "of product rate", "timed", "error"), cells)


def _tabulate_memory(rows: Sequence[GpuRow]) -> Table:
    cells = [
        (
            f"{row.what}, budget {row.budget_mib:.4g} MiB",
            _mib(row.predicted_mib),
            _mib(row.peak_mib),
            f"{row.peak_mib / row.predicted_mib:.0%}" if row.predicted_mib > 0 else "",
            row.remark,
        )
        for row in rows
    ]
    return Table("memory", ("", "predicted MiB", "peak MiB", "of predicted", ""), cells)


def _mib(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def headline(rows: Sequence[GpuRow]) -> str:
    """The figures in words; what was not measured is named."""
    parts = []
    for row in rows:
        if row.part == MEMORY or row.implementation != OURS:
            continue
        if not row.is_timed:
            parts.append(f"{row.what}: {row.remark}")
            continue
        own = [other for other in rows if (other.part, other.what) == (row.part, row.what)]
        peer = next((other for other in own if "autograd" in other.implementation and other.is_timed), None)
        figure = f"{row.what} {row.shape}: {row.extent} in {row.p50:.3g} s, {row.flops_share:.1%} of the product rate"
        if peer is not None:
            figure += (
                f", {peer.over_ours:.3g}x TransformerLens ({peer.implementation}, timed on {peer.extent})"
            )
        parts.append(figure)
    memory = [row for row in rows if row.part == MEMORY]
    within = [row for row in memory if row.peak_mib <= row.budget_mib]
    if memory:
        parts.append(f"memory: peak within the budget in {len(within)} of {len(memory)} runs")
    failed = [row for row in memory if row.remark == OUT_OF_MEMORY]
    if failed:
        parts.append(f"memory: {OUT_OF_MEMORY} in {len(failed)} of {len(memory)} runs")
    return "; ".join(parts) or "nothing was measured"
