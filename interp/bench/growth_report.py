"""Figures of the growth benchmark: one row a size, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class GrowthRow:
    """One site at one size of one axis; the exponents are those of the whole axis."""

    axis: str
    size: int
    site: str
    shape: str
    n_heads: int
    d_vocab: int
    n_prompts: int
    n_tokens: int
    first_difference: int
    seed: int
    repeats: int
    ours_p20: float
    """Seconds of one sweep."""
    ours_p50: float
    ours_p80: float
    floor_gflop: float
    """Operations of ``interp/bench/flops.py``."""
    peer_gflop: float
    """Operations of one whole forward a site."""
    exponent_p20: float
    """Quantiles over repeats of the exponent of our time."""
    exponent_p50: float
    exponent_p80: float
    floor_exponent: float
    peer_exponent: float


NOTES = (
    "exponent: slope of log seconds over log size, median over repeats (p20 to p80).",
    "floor and peer: exponents of the operations counted for the same sizes (interp/bench/flops.py). The peer, one "
    "forward a site with logits of the whole vocabulary, is not run.",
    "At small sizes the fixed costs of a call keep our exponent below the floor's.",
)


def report_growth(rows: Sequence[GrowthRow], threads: str) -> Report[GrowthRow]:
    """Tables of seconds and of exponents; the last line has the exponents of every axis."""
    axes: dict[tuple[str, str], GrowthRow] = {}
    for row in rows:
        axes.setdefault((row.site, row.axis), row)
    times = Table(
        "Ours, in seconds",
        ("axis", "site", "size", "p20", "p50", "p80", "floor GFLOP"),
        [
            (
                row.axis,
                row.site,
                str(row.size),
                *(f"{seconds:.4f}" for seconds in (row.ours_p20, row.ours_p50, row.ours_p80)),
                f"{row.floor_gflop:.3f}",
            )
            for row in rows
        ],
    )
    exponents = Table(
        "Exponents",
        ("axis", "site", "ours", "p20 to p80", "floor", "peer"),
        [
            (
                row.axis,
                row.site,
                f"{row.exponent_p50:.2f}",
                f"{row.exponent_p20:.2f} to {row.exponent_p80:.2f}",
                f"{row.floor_exponent:.2f}",
                f"{row.peer_exponent:.2f}",
            )
            for row in axes.values()
        ],
    )
    sites = dict.fromkeys(row.site for row in rows)
    lines = [f"{site}: " + ", ".join(_exponent(r) for r in axes.values() if r.site == site) for site in sites]
    return Report(rows, (times, exponents), (*NOTES, threads), "; ".join(lines))


def _exponent(row: GrowthRow) -> str:
    return f"{row.axis}^{row.exponent_p50:.2f} (floor {row.floor_exponent:.2f}, peer {row.peer_exponent:.2f})"
