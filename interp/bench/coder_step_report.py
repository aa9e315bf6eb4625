"""Figures of the coder-step benchmark: one row an architecture, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class CoderStepRow:
    """One architecture; times in seconds, ``_cpu`` those of all threads together (p50)."""

    architecture: str
    d_in: int
    d_sae: int
    batch_size: int
    k: int
    seed: int
    repeats: int
    gemm_p50: float
    """The encoder's product alone."""
    ours_p20: float
    ours_p50: float
    ours_p80: float
    dense_p50: float
    """Plain PyTorch, with a fused optimiser."""
    peer_p50: float
    """SAELens as it comes."""
    sparse_peer_p50: float
    """SAELens with its sparse activations."""
    gemm_cpu: float
    ours_cpu: float
    dense_cpu: float
    peer_cpu: float
    sparse_peer_cpu: float
    peer_over_ours: float
    """Ratios are of the same repeat, p50."""
    sparse_peer_over_ours: float
    ours_over_gemm: float
    dense_over_ours: float
    max_error: float
    """Of gradients, relative to their length, and of losses."""


NOTES = (
    "A step: loss, gradients, optimiser, unit decoders, firing statistics. SAELens: SAETrainer.step as it "
    "comes, and with use_sparse_activations.",
    "Gate: every gradient against dense autograd, loss and encoder gradient against SAELens on the same weights.",
)


def report_coder_step(rows: Sequence[CoderStepRow], threads: str) -> Report[CoderStepRow]:
    """A table an architecture; the last line has the headline of each."""
    return Report(
        rows, [_tabulate(row) for row in rows], (*NOTES, threads), "; ".join(headline(row) for row in rows)
    )


def _tabulate(row: CoderStepRow) -> Table:
    def line(name: str, seconds: float, cpu: float) -> tuple[str, str, str, str]:
        return name, f"{seconds * 1e3:.0f}", f"{cpu * 1e3:.0f}", f"{seconds / row.gemm_p50:.2f}"

    return Table(
        f"{row.architecture}: d_in {row.d_in}, d_sae {row.d_sae}, batch {row.batch_size}, k {row.k}, error "
        f"{row.max_error:.0e}",
        ("", "ms", "CPU ms", "over the encoder's product"),
        [
            line("encoder's product", row.gemm_p50, row.gemm_cpu),
            line("interp", row.ours_p50, row.ours_cpu),
            line("plain PyTorch", row.dense_p50, row.dense_cpu),
            line("SAELens", row.peer_p50, row.peer_cpu),
            line("SAELens, sparse activations", row.sparse_peer_p50, row.sparse_peer_cpu),
        ],
    )


def headline(row: CoderStepRow) -> str:
    """The figures of one architecture in words."""
    return (
        f"coder-step {row.architecture}: {row.ours_p50 * 1e3:.0f} ms, {row.peer_over_ours:.1f}x faster than SAELens "
        f"({row.sparse_peer_over_ours:.1f}x than with its sparse activations), "
        f"{row.dense_over_ours:.1f}x than plain PyTorch, {row.ours_over_gemm:.2f}x the encoder's product, error "
        f"{row.max_error:.0e}"
    )
