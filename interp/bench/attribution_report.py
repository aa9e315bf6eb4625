"""Figures of the attribution benchmark: one row a case, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class AttributionRow:
    """One case; times in seconds, memory in MiB of tensors alive at once beside the weights."""

    shape: str
    n_heads: int
    d_vocab: int
    n_prompts: int
    n_tokens: int
    seed: int
    n_nodes: int
    """Scored at once."""
    repeats: int
    passes_p50: float
    """Two forwards and one backward of the same model, and nothing else."""
    ours_p20: float
    ours_p50: float
    ours_p80: float
    relevance_p50: float
    peer: str
    peer_p50: float
    over_passes_p20: float
    """Ours over the passes in the same repeat."""
    over_passes_p50: float
    over_passes_p80: float
    relevance_over_passes_p50: float
    peer_over_ours_p50: float
    passes_mib: float
    ours_mib: float
    relevance_mib: float
    peer_mib: float
    max_error: float
    """Largest difference from the peer's scores, as a share of the range of the estimates."""


NOTES = (
    "passes: two forwards and one backward to the embeddings of the same model, parameters frozen and only the "
    "read logits unembedded. Ratios are of the same repeat; n repeats, median and p20 to p80.",
    "recipe: TransformerLens' attribution patching demo, every activation and gradient cached.",
    "Memory: bytes of tensors alive at once, weights not counted, counted at every operation (on a GPU by the "
    "allocator).",
)


def report_attribution(rows: Sequence[AttributionRow], threads: str) -> Report[AttributionRow]:
    """A table a case; the last line has the headline of each."""
    return Report(
        rows, [_tabulate(row) for row in rows], (*NOTES, threads), "; ".join(headline(row) for row in rows)
    )


def _tabulate(row: AttributionRow) -> Table:
    return Table(
        f"{row.shape}: {row.n_nodes} nodes at once, {row.n_prompts} prompts of {row.n_tokens} tokens, error "
        f"{row.max_error:.0e}",
        ("", "seconds", "over the passes", "peak MiB"),
        [
            ("2 forwards, 1 backward", f"{row.passes_p50:.3f}", "1", f"{row.passes_mib:.0f}"),
            (
                "interp, attribution",
                f"{row.ours_p50:.3f}",
                f"{row.over_passes_p50:.2f} ({row.over_passes_p20:.2f} to {row.over_passes_p80:.2f})",
                f"{row.ours_mib:.0f}",
            ),
            (
                "interp, relevance",
                f"{row.relevance_p50:.3f}",
                f"{row.relevance_over_passes_p50:.2f}",
                f"{row.relevance_mib:.0f}",
            ),
            (
                f"recipe ({row.peer})",
                f"{row.peer_p50:.3f}",
                f"{row.peer_over_ours_p50 * row.over_passes_p50:.2f}",
                f"{row.peer_mib:.0f}",
            ),
        ],
    )


def headline(row: AttributionRow) -> str:
    """The figures of one case in words."""
    return (
        f"attribution {row.shape}: {row.n_nodes} nodes in {row.over_passes_p50:.2f}x the time of 2 forwards and 1 "
        f"backward, {row.peer_over_ours_p50:.1f}x faster than TransformerLens' recipe with "
        f"{row.peer_mib / row.ours_mib:.1f}x less memory, error {row.max_error:.0e}"
    )
