"""Figures of coders in a model: one row a coder, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class CoderModelRow:
    """One coder (or several that replace parts together), over all seeds."""

    part: str
    coder: str
    d_sae: int
    k: int
    tokens: int
    seeds: int
    n_prompts: int
    l0: float
    """Latents that fire on a token, a mean over coders where there are several."""
    fvu: float
    ce_recovered: float
    """1: the model's loss is as without the coder; 0: as with the mean in its place. Mean over seeds."""
    ce_low: float
    """95 % t-interval over seeds."""
    ce_high: float
    kl_recovered: float
    gain: float
    """CE recovered less that of the part's first coder in the same seed."""
    gain_low: float
    gain_high: float


NOTES = (
    "CE recovered: 1 as the unchanged model, 0 as with the mean activation in place; without error terms, the first "
    "token of a row left alone. Brackets: 95 % t-interval over seeds (the coder's start, the order of rows).",
    "gain: difference in CE recovered from the first coder of the table, seed by seed.",
    "Gradient coders used with gradients choose by the loss on the very text that is predicted.",
)


def report_coder_models(rows: Sequence[CoderModelRow], threads: str) -> Report[CoderModelRow]:
    """A table a question; the last line has every coder."""
    parts = list(dict.fromkeys(row.part for row in rows))
    tables = [_tabulate([row for row in rows if row.part == part]) for part in parts]
    return Report(rows, tables, (*NOTES, threads), "; ".join(headline(row) for row in rows))


def _tabulate(rows: Sequence[CoderModelRow]) -> Table:
    first = rows[0]
    return Table(
        f"{first.part}: d_sae {first.d_sae}, k {first.k}, {first.tokens:,} rows, {first.seeds} seeds",
        ("", "L0", "FVU", "CE recovered", "KL recovered", "gain"),
        [
            (
                row.coder,
                f"{row.l0:.1f}",
                f"{row.fvu:.3f}",
                f"{row.ce_recovered:.4f} [{row.ce_low:.4f}, {row.ce_high:.4f}]",
                f"{row.kl_recovered:.4f}",
                "" if row is first else f"{row.gain:+.4f} [{row.gain_low:+.4f}, {row.gain_high:+.4f}]",
            )
            for row in rows
        ],
    )


def headline(row: CoderModelRow) -> str:
    """The figure of one coder in words."""
    return (
        f"{row.part}, {row.coder}: CE recovered {row.ce_recovered:.4f} [{row.ce_low:.4f}, {row.ce_high:.4f}]"
    )
