"""How fast kernels are beside what the device can do, as ``interp bench kernels`` measured it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from interp.errors import DataFileError, RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KERNEL = "kernel"
"""The implementation that the others are compared with."""


@dataclass(frozen=True)
class KernelTiming:
    """One implementation of one case; times in seconds, of the device alone.

    Raises :class:`RecordError` for times, bytes or rates that are not positive.
    """

    op: str
    """Operation: ``readout``, ``prefix_attention`` ..."""
    case: str
    """What of it: ``forward``, ``backward`` ..."""
    shape: str
    """``rows=512 d=768``."""
    dtype: str
    """Of the inputs: ``bfloat16`` ..."""
    implementation: str
    """``kernel``, ``eager``, ``compiled`` or a peer's name."""
    n_bytes: float
    n_flops: float
    """Fewest that the case must move through memory, and compute."""
    p20: float
    p50: float
    p80: float
    copy_rate: float
    """Bytes a second, read plus written, of a large copy in the same run."""
    matmul_rate: float
    """FLOP a second of a large product of this dtype in the same run."""
    error: float
    """Against plain PyTorch in fp64: largest length of an output's error over the truth's."""

    def __post_init__(self) -> None:
        for name in ("n_bytes", "p20", "p50", "p80", "copy_rate", "matmul_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecordError(f"{name} of a kernel's timing is positive; got {getattr(self, name)}.")
        if not 0 <= self.n_flops < math.inf:
            raise RecordError(f"n_flops of a kernel's timing is at least 0; got {self.n_flops}.")

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What all implementations of a case share: op, case, shape, dtype."""
        return self.op, self.case, self.shape, self.dtype

    @property
    def intensity(self) -> float:
        """FLOP a byte, both the fewest that there must be."""
        return self.n_flops / self.n_bytes

    @property
    def flops_rate(self) -> float:
        """The fewest FLOP, a second of its median time."""
        return self.n_flops / self.p50

    @property
    def bytes_rate(self) -> float:
        """The fewest bytes, a second of its median time."""
        return self.n_bytes / self.p50

    @property
    def is_memory_bound(self) -> bool:
        """Whether moving the bytes takes longer than the arithmetic, at the measured rates."""
        return self.n_bytes / self.copy_rate >= self.n_flops / self.matmul_rate

    @property
    def roof_share(self) -> float:
        """Time that the device needs at best, over the time taken."""
        return max(self.n_bytes / self.copy_rate, self.n_flops / self.matmul_rate) / self.p50


@dataclass(frozen=True, eq=False)
class KernelTimings(Record):
    """Timings of one device; every case has its kernel, and may have plain PyTorch and peers beside it.

    Roofline: Williams, Waterman & Patterson, "Roofline: an insightful visual performance model" (2009). Raises
    :class:`RecordError` without timings, and for a case without a kernel or with an implementation twice.
    """

    timings: tuple[KernelTiming, ...]
    device: str
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.timings:
            raise RecordError("KernelTimings needs at least one timing.")
        for place, found in self.cases.items():
            names = [timing.implementation for timing in found]
            if KERNEL not in names or len(set(names)) < len(names):
                raise RecordError(
                    f"{' '.join(place)} needs one timing of the kernel and of each other implementation; got {names}."
                )

    def __repr__(self) -> str:
        shares = [timing.roof_share for timing in self.kernels]
        return (
            f"KernelTimings({len(shares)} cases on {self.device}, {median(shares):.0%} of the roof, "
            f"worst {min(shares):.0%})"
        )

    @classmethod
    def from_csv(cls, path: str | Path, device: str | None = None) -> Self:
        """Timings in a file that ``interp bench kernels --csv`` wrote: the last of each case on one device.

        ``device`` is by default that of the last timing. Rows without a time are left out. Raises
        :class:`DataFileError` for a file that is missing, lacks columns or has no time of that device.
        """
        rows = [row for row in _read_rows(Path(path)) if not math.isnan(_number(row, "p50", path))]
        devices = [row["device"] for row in rows]
        if not rows or device not in (None, *devices):
            of = "" if device is None else f" of device {device!r}"
            there = ", ".join(map(repr, dict.fromkeys(devices))) or "none, for only a GPU gives times"
            raise DataFileError(f"{str(path)!r} has no times{of}; devices with times: {there}.")
        chosen = devices[-1] if device is None else device
        own = [row for row in rows if row["device"] == chosen]
        found = {}
        for row in own:
            timing = _read_timing(row, path)
            found[timing.place, timing.implementation] = timing
        versions = {name: own[-1][name] for name in ("interp", "python", "torch", "triton", "cuda")}
        provenance = Provenance(model="interp.kernels", device=chosen, versions=versions)
        return cls(tuple(found.values()), chosen, provenance)

    @cached_property
    def cases(self) -> Mapping[tuple[str, str, str, str], tuple[KernelTiming, ...]]:
        """Timings by op, case, shape and dtype."""
        places = dict.fromkeys(timing.place for timing in self.timings)
        return {place: tuple(one for one in self.timings if one.place == place) for place in places}

    @property
    def kernels(self) -> list[KernelTiming]:
        """The kernels' timings."""
        return [timing for timing in self.timings if timing.implementation == KERNEL]

    @property
    def ops(self) -> tuple[str, ...]:
        """Operations in the order of the timings."""
        return tuple(dict.fromkeys(timing.op for timing in self.timings))

    @property
    def copy_rate(self) -> float:
        """Bytes a second of a large copy, median over cases."""
        return median(timing.copy_rate for timing in self.timings)

    def matmul_rate(self, dtype: str) -> float:
        """FLOP a second of a large product of a dtype, median over its cases."""
        return median(timing.matmul_rate for timing in self.timings if timing.dtype == dtype)

    def to_frame(self) -> pd.DataFrame:
        """One row an implementation: its fields, and intensity, flops_rate, bytes_rate, roof_share."""
        import pandas as pd

        more = ("intensity", "flops_rate", "bytes_rate", "roof_share")
        return pd.DataFrame(
            [asdict(one) | {name: getattr(one, name) for name in more} for one in self.timings]
        )

    def plot(self, **options: Any) -> go.Figure:
        """Kernels under the roofs of their device; see :func:`interp.plots.plot_roofline`."""
        return draw("plot_roofline", self, **options)


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"cannot read {str(path)!r} ({error}).") from error
    needed = {"device", "inputs_dtype", "interp", "python", "torch", "triton", "cuda"}
    needed |= set(KernelTiming.__dataclass_fields__) - {"dtype"}
    missing = sorted(needed - set(rows[0] if rows else ()))
    if missing:
        raise DataFileError(
            f"{str(path)!r} holds no rows of 'interp bench kernels' (missing columns: {', '.join(missing)})."
        )
    return rows


def _read_timing(row: Mapping[str, str], path: str | Path) -> KernelTiming:
    numbers = ("n_bytes", "n_flops", "p20", "p50", "p80", "copy_rate", "matmul_rate", "error")
    return KernelTiming(
        op=row["op"],
        case=row["case"],
        shape=row["shape"],
        dtype=row["inputs_dtype"],
        implementation=row["implementation"],
        **{name: _number(row, name, path) for name in numbers},
    )


def _number(row: Mapping[str, str], name: str, path: str | Path) -> float:
    try:
        return float(row[name])
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{str(path)!r} has {row[name]!r} where {name} is a number.") from error
