"""Figures of the edge benchmark: one row a case, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class EdgeRow:
    """One case; times in seconds, memory in MiB of tensors alive at once beside the weights."""

    shape: str
    n_heads: int
    d_vocab: int
    n_tokens: int
    first_difference: int
    seed: int
    n_edges: int
    peer: str
    eap_prompts: int
    eap_repeats: int
    eap_p20: float
    eap_p50: float
    eap_p80: float
    eap_peer_p50: float
    eap_peer_over_ours_p50: float
    """Peer over ours in the same repeat."""
    eap_mib: float
    eap_peer_mib: float
    eap_error: float
    """Largest difference from the peer's scores, as a share of their largest."""
    exact_prompts: int
    exact_edges: int
    """All of them, but in a quick look."""
    exact_seconds: float
    exact_rows: int
    one_forward_seconds: float
    """Of one edge, the peer's median."""
    one_forward_edges: int
    """Timed."""
    exact_ratio: float
    """One forward an edge, times the edges, over ours."""
    floor_tflop: float
    matmul_gflops: float
    """Median of the rate measured before, during and after."""
    exact_over_floor: float
    exact_error: float
    """Largest difference from the peer's metric on the timed edges, as a share of the metric's range."""


NOTES = (
    "recipe: both runs' outputs of every writer and the gradient at every reader's input cached whole, one product "
    "of the two. Ratios are of the same repeat; median and p20 to p80.",
    "Exact: every edge alone carries the corrupted value, for whole prompts; ours is one call, runs of both prompts "
    "included. One forward an edge is timed on random edges, each compared with ours.",
    "Floor: operations that the rows need at least (interp/bench/flops.py), at the rate of large products measured "
    "in the same run.",
    "Memory: bytes of tensors alive at once, weights not counted, counted at every operation (on a GPU by the "
    "allocator).",
)


def report_edges(rows: Sequence[EdgeRow], threads: str) -> Report[EdgeRow]:
    """A table a case; the last line has the headline of each."""
    return Report(
        rows, [_tabulate(row) for row in rows], (*NOTES, threads), "; ".join(headline(row) for row in rows)
    )


def _tabulate(row: EdgeRow) -> Table:
    hours = row.one_forward_seconds * row.exact_edges / 3600
    return Table(
        f"{row.shape}: {row.n_edges} edges, prompts of {row.n_tokens} tokens that differ at {row.first_difference}",
        ("", "prompts", "edges", "seconds", "peak MiB", "error"),
        [
            (
                "interp, eap",
                str(row.eap_prompts),
                str(row.n_edges),
                f"{row.eap_p50:.2f} ({row.eap_p20:.2f} to {row.eap_p80:.2f})",
                f"{row.eap_mib:.0f}",
                f"{row.eap_error:.0e}",
            ),
            (
                f"recipe, eap ({row.peer})",
                str(row.eap_prompts),
                str(row.n_edges),
                f"{row.eap_peer_p50:.2f}",
                f"{row.eap_peer_mib:.0f}",
                "",
            ),
            (
                "interp, exact",
                str(row.exact_prompts),
                str(row.exact_edges),
                f"{row.exact_seconds:.1f}",
                "",
                f"{row.exact_error:.0e}",
            ),
            (
                "one forward an edge",
                str(row.exact_prompts),
                f"{row.one_forward_edges} timed",
                f"{row.one_forward_seconds:.3f} each, {hours:.2f} h in all",
                "",
                "",
            ),
        ],
    )


def headline(row: EdgeRow) -> str:
    """The figures of one case in words."""
    return (
        f"edges {row.shape}: eap of {row.n_edges} edges with {row.eap_peer_mib / row.eap_mib:.1f}x less memory and "
        f"{row.eap_peer_over_ours_p50:.1f}x faster than from caches; {row.exact_edges} edges exactly in "
        f"{row.exact_seconds:.0f} s, {row.exact_ratio:.0f}x faster than one forward an edge, "
        f"{row.exact_over_floor:.1f}x over the FLOP floor of {row.floor_tflop:.1f} TFLOP"
    )
