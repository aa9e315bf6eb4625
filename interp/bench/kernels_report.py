"""Figures of the kernel benchmark: one row a case and implementation, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from interp.bench.clock import take_quantiles
from interp.bench.report import Report, Table

KERNEL, EAGER, COMPILED = "kernel", "eager", "compiled"
"""Implementations that cases have; peers have names of their own."""


@dataclass(frozen=True)
class KernelRow:
    """One implementation of one case; times in seconds, NaN where none was taken."""

    op: str
    case: str
    shape: str
    inputs_dtype: str
    implementation: str
    """``kernel``, ``eager`` PyTorch, ``compiled`` (``torch.compile`` of it), or a peer."""
    seed: int
    error: float
    """Largest length of an output's error over the length of the truth; NaN where it was not taken."""
    tolerance: float
    truth: str
    """Dtype of the plain PyTorch that it was compared with."""
    remark: str
    """Why there is no time, or nothing."""
    n_bytes: int
    n_flops: int
    """Fewest that the case must move and compute."""
    repeats: int
    p20: float
    p50: float
    p80: float
    host: float
    """Until the host had launched it, median; not part of the times."""
    over_kernel: float
    """Its time over the kernel's in the same round, median."""
    copy_rate: float
    """Bytes a second, read plus written, of a large copy in the same run."""
    matmul_rate: float
    """FLOP a second of a large product of this dtype in the same run."""
    bytes_share: float
    """The fewest bytes a second of its median time, over the copy rate."""
    flops_share: float
    """The fewest FLOP a second of its median time, over the matmul rate."""
    triton: str
    cuda: str

    @property
    def is_timed(self) -> bool:
        """Whether a time was taken."""
        return not math.isnan(self.p50)

    @property
    def is_wrong(self) -> bool:
        """Whether the numbers were not those of the truth, or no kernel ran."""
        return self.remark.startswith(WRONG)

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What all implementations of a case share."""
        return self.op, self.case, self.shape, self.inputs_dtype

    @property
    def is_memory_bound(self) -> bool:
        """Whether moving the bytes takes longer than the arithmetic, at the measured rates."""
        return self.bytes_share >= self.flops_share

    @property
    def roof_share(self) -> float:
        """Share of what the device can do at best: of the rate that bounds the case."""
        return max(self.bytes_share, self.flops_share)


WRONG = "wrong: "
SKIPPED = "skipped: "

NOTES = (
    "Times: device only, median (p20 to p80) of calls that take turns; inputs come from memory, not from the L2 "
    "cache; what the host takes to launch a call stands beside it and is not in them.",
    "Roof: the larger of the time for the fewest bytes at the rate of a large copy (bytes read plus written) and of "
    "the fewest operations at the rate of a large product in the same dtype (fp32: as torch multiplies by default; "
    "kernels use three TF32 products and may pass it), both measured in this run. Share: that time over the kernel's.",
    "x eager, x compiled: how many times longer plain PyTorch takes, and torch.compile of it; median over rounds.",
    "Every case was first compared with plain PyTorch in fp64 on the same inputs, in memory that holds NaN.",
)


def report_kernels(rows: Sequence[KernelRow], where: str) -> Report[KernelRow]:
    """A table an operation; the last line counts the cases and says how near to the roof kernels come."""
    ops = dict.fromkeys(row.op for row in rows)
    tables = [_tabulate(op, [row for row in rows if row.op == op]) for op in ops]
    timed = any(row.is_timed for row in rows)
    if timed:
        tables.append(_summarise({op: [row for row in rows if row.op == op and row.is_timed] for op in ops}))
    return Report(rows, tables, (*(NOTES if timed else NOTES[-1:]), where), headline(rows))


def _summarise(timed: Mapping[str, Sequence[KernelRow]]) -> Table:
    """The median and the worst case of each operation."""
    cells = []
    for op, rows in timed.items():
        kernels = [row for row in rows if row.implementation == KERNEL]
        memory = [row.roof_share for row in kernels if row.is_memory_bound]
        compute = [row.roof_share for row in kernels if not row.is_memory_bound]
        others = [row.over_kernel for row in rows if row.implementation not in (KERNEL, EAGER, COMPILED)]
        cells.append(
            (
                op,
                str(len(kernels)),
                _middle_and_least(memory, "{:.0%}"),
                _middle_and_least(compute, "{:.0%}"),
                _middle_and_least(_ratios(rows, EAGER), "{:.2f}"),
                _middle_and_least(_ratios(rows, COMPILED), "{:.2f}"),
                _middle_and_least(others, "{:.2f}"),
            )
        )
    headings = ("", "cases", "of copy rate", "of matmul rate", "x eager", "x compiled", "x peers")
    return Table("all operations: median (least)", headings, cells)


def _middle_and_least(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    return f"{form.format(take_quantiles(values).p50)} ({form.format(min(values))})"


def _tabulate(op: str, rows: Sequence[KernelRow]) -> Table:
    headings = ("case", "bound by", "us", "host us", "of roof", "x eager", "x compiled", "x peers", "error")
    places: dict[tuple[str, ...], dict[str, KernelRow]] = {}
    for row in rows:
        places.setdefault(row.place, {})[row.implementation] = row
    cells: list[tuple[str, ...]] = []
    for (_, case, shape, dtype), found in places.items():
        kernel, name = found[KERNEL], f"{case} {shape} {dtype}"
        others = [row for row in found.values() if row.implementation not in (KERNEL, EAGER, COMPILED)]
        peers = ", ".join(f"{row.implementation} {_times(row)}" for row in others)
        if kernel.is_timed:
            cells.append(
                (
                    name,
                    "memory" if kernel.is_memory_bound else "compute",
                    f"{kernel.p50 * 1e6:.1f} ({kernel.p20 * 1e6:.1f} to {kernel.p80 * 1e6:.1f})",
                    f"{kernel.host * 1e6:.0f}",
                    f"{kernel.roof_share:.0%}",
                    _times(found.get(EAGER)),
                    _times(found.get(COMPILED)),
                    peers,
                    f"{kernel.error:.1e}",
                )
            )
        else:
            error = "" if math.isnan(kernel.error) else f"{kernel.error:.1e}"
            cells.append((name, *[""] * 6, kernel.remark, error))
    return _without_empty_columns(Table(op, headings, cells))


def _times(row: KernelRow | None) -> str:
    if row is None:
        return ""
    return f"{row.over_kernel:.2f}" if row.is_timed else row.remark


def _without_empty_columns(table: Table) -> Table:
    kept = [i for i in range(len(table.headings)) if any(cells[i] for cells in table.cells)]
    headings = [table.headings[i] for i in kept]
    if "us" not in headings:
        # only remarks stand there
        headings = ["remark" if heading == "x peers" else heading for heading in headings]
    return Table(table.title, headings, [[cells[i] for i in kept] for cells in table.cells])


def headline(rows: Sequence[KernelRow]) -> str:
    """The figures in words.

    ``kernels: 40 of 41 cases right, 1 skipped; 30 memory-bound ones at 86 % of the copy rate (worst 71 %), ...``
    """
    kernels = [row for row in rows if row.implementation == KERNEL]
    skipped = [row for row in kernels if row.remark.startswith(SKIPPED)]
    wrong = [row for row in kernels if row.is_wrong]
    right = len(kernels) - len(skipped) - len(wrong)
    parts = [
        f"kernels: {right} of {len(kernels)} cases right" + (f", {len(skipped)} skipped" if skipped else "")
    ]
    if wrong:
        parts.append("WRONG: " + ", ".join(" ".join(row.place) for row in wrong))
    timed = [row for row in kernels if row.is_timed]
    if not timed:
        return "; ".join([*parts, "times await a GPU"])
    for bound, found in (
        ("memory", [row for row in timed if row.is_memory_bound]),
        ("compute", [row for row in timed if not row.is_memory_bound]),
    ):
        if found:
            shares = [row.roof_share for row in found]
            rate = "copy" if bound == "memory" else "matmul"
            parts.append(
                f"{len(found)} {bound}-bound at {take_quantiles(shares).p50:.0%} of the {rate} rate "
                f"(worst {min(shares):.0%})"
            )
    for name in (EAGER, COMPILED):
        ratios = _ratios(rows, name)
        if ratios:
            parts.append(f"{name} takes {take_quantiles(ratios).p50:.2f}x (least {min(ratios):.2f}x)")
    return "; ".join(parts)


def _ratios(rows: Iterable[KernelRow], implementation: str) -> list[float]:
    return [row.over_kernel for row in rows if row.implementation == implementation and row.is_timed]
