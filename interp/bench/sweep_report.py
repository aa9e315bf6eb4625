"""Figures of the sweep benchmark: one row a variant of the peer, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class SweepRow:
    """One case, one site, one variant of the peer; times in seconds."""

    shape: str
    n_heads: int
    d_vocab: int
    n_prompts: int
    n_tokens: int
    first_difference: int
    seed: int
    site: str
    n_sites: int
    n_rows: int
    """Patched runs, one a site and prompt, that can differ from the base run."""
    peer: str
    peer_autograd: bool
    peer_seconds: float
    """Of one sweep; measured on ``peer_sites_timed`` sites and scaled up to all of them."""
    peer_sites_timed: int
    ours_p20: float
    ours_p50: float
    ours_p80: float
    ours_repeats: int
    ratio: float
    """The peer's seconds over our median."""
    floor_seconds: float
    """``floor_gflop`` at ``matmul_gflops``."""
    floor_gflop: float
    matmul_gflops: float
    ours_over_floor: float
    max_error: float
    """Largest difference from any variant of the peer, as a share of the metric's range."""

    @property
    def place(self) -> tuple[str, int, str]:
        """What all variants of the peer share."""
        return self.shape, self.first_difference, self.site

    @property
    def variant(self) -> str:
        return f"{self.peer}, autograd {'on' if self.peer_autograd else 'off'}"

    @property
    def sampled(self) -> bool:
        """Whether the peer ran on some sites only."""
        return self.peer_sites_timed < self.n_sites

    @property
    def extent(self) -> str:
        """How much of the peer's sweep was run."""
        return f"{self.peer_sites_timed if self.sampled else 'all'} of {self.n_sites} sites"


NOTES = (
    "interp: a whole interp.patch, runs of both prompts included; TransformerLens: its clean cache made before. "
    "A sweep timed on some sites is scaled up to all. Ours: n repeats, median and p20 to p80.",
    "The first variant of each case is the headline: the class that transformer_lens.patching is documented for "
    "(HookedTransformer, where this version has it) with autograd as torch leaves it.",
    "FLOP floor: the operations that are left (interp/bench/flops.py), at the rate of large products, measured "
    "before each repeat of ours (median).",
)


def report_sweep(rows: Sequence[SweepRow], threads: str) -> Report[SweepRow]:
    """A table a case and site; the last line has the headline of each."""
    places: dict[tuple[str, int, str], list[SweepRow]] = {}
    for row in rows:
        places.setdefault(row.place, []).append(row)
    last_line = "; ".join(headline(variants[0]) for variants in places.values())
    tables = [_tabulate(variants) for variants in places.values()]
    return Report(rows, tables, (*NOTES, threads), last_line)


def _tabulate(variants: Sequence[SweepRow]) -> Table:
    row = variants[0]
    spread = f"n={row.ours_repeats}, {row.ours_p20:.3f} to {row.ours_p80:.3f}"
    floor = f"{row.floor_gflop:.3g} GFLOP, {row.matmul_gflops:.0f} a second"
    return Table(
        f"{row.site} {row.shape}@{row.first_difference}: {row.n_sites} sites, {row.n_rows} patched runs that can "
        f"differ, error {row.max_error:.0e}",
        ("", "seconds", "ratio", "measured on"),
        [
            ("interp, wavefront", f"{row.ours_p50:.3f}", "1", spread),
            *((v.variant, f"{v.peer_seconds:.2f}", f"{v.ratio:.3g}", v.extent) for v in variants),
            ("FLOP floor", f"{row.floor_seconds:.3f}", f"{1 / row.ours_over_floor:.2g}", floor),
        ],
    )


def headline(row: SweepRow) -> str:
    """The figures of one case and site, in words.

    ``resid_pre 6x512@10: 95x TransformerLens (HookedTransformer, autograd on), 2.1x the FLOP floor,
    error 3e-07``; where the peer ran on some sites only, it says on how many.
    """
    sampled = f", timed on {row.extent}" if row.sampled else ""
    return (
        f"{row.site} {row.shape}@{row.first_difference}: {row.ratio:.3g}x TransformerLens "
        f"({row.variant}{sampled}), {row.ours_over_floor:.1f}x the FLOP floor, error {row.max_error:.0e}"
    )
