"""Figures of the agreement benchmark: one row a model, task, site and method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class MethodAgreementRow:
    """One method against exact patching of every cell of one site."""

    model: str
    n_layers: int
    task: str
    n_prompts: int
    seed: int
    site: str
    n_cells: int
    method: str
    pearson: float
    pearson_low: float
    """95 % bootstrap interval over cells."""
    pearson_high: float
    spearman: float
    spearman_low: float
    spearman_high: float
    sign_agreement: float
    top_overlap: float
    seconds: float
    """Of the method, all sites in one call."""
    exact_seconds: float
    """Of exact patching, likewise."""


NOTES = (
    "Correlations with exact patching of every cell, 95 % bootstrap intervals over cells; of several draws of "
    "random weights the median and the range. sign: share of equal signs; top: overlap of the first tenth.",
    "Random weights say how methods cope with depth and curvature, not how they do on trained models.",
)


def report_methods(rows: Sequence[MethodAgreementRow], threads: str) -> Report[MethodAgreementRow]:
    """A table a model; the last line counts where relevance beats attribution and where it loses."""
    models = dict.fromkeys(row.model for row in rows)
    tables = [_tabulate(model, [row for row in rows if row.model == model]) for model in models]
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def _tabulate(model: str, rows: Sequence[MethodAgreementRow]) -> Table:
    cells = []
    for task, site in dict.fromkeys((row.task, row.site) for row in rows):
        here = [row for row in rows if (row.task, row.site) == (task, site)]
        for method in dict.fromkeys(row.method for row in here):
            draws = [row for row in here if row.method == method]
            shares = (
                f"{median(getattr(row, name) for row in draws):.2f}"
                for name in ("sign_agreement", "top_overlap")
            )
            cells.append(
                [
                    f"{task}, {site}",
                    method,
                    *(_summarise(draws, name) for name in ("pearson", "spearman")),
                    *shares,
                ]
            )
    return Table(
        f"{model}: agreement with exact patching",
        ("site", "method", "Pearson", "Spearman", "sign", "top"),
        cells,
    )


def _summarise(rows: Sequence[MethodAgreementRow], name: str) -> str:
    found = [getattr(row, name) for row in rows]
    if len(rows) == 1:
        low, high = getattr(rows[0], f"{name}_low"), getattr(rows[0], f"{name}_high")
        return f"{found[0]:.2f} [{low:.2f}, {high:.2f}]"
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def headline(rows: Iterable[MethodAgreementRow]) -> str:
    """How often relevance patching correlates better with exact patching than attribution does, by site."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    by_place: dict[tuple[str, str, int, str], dict[str, float]] = {}
    for row in rows:
        by_place.setdefault((row.model, row.task, row.seed, row.site), {})[row.method] = row.pearson
    for (_, _, _, site), found in by_place.items():
        if {"relevance", "attribution"} <= set(found):
            pairs.setdefault(site, []).append((found["relevance"], found["attribution"]))
    parts = []
    for site, both in pairs.items():
        better = sum(relevance > attribution for relevance, attribution in both)
        medians = (median(pair[i] for pair in both) for i in (0, 1))
        parts.append(
            f"{site}: relevance ahead in {better} of {len(both)} (median {'/'.join(f'{m:.2f}' for m in medians)})"
        )
    return "Pearson of relevance/attribution with exact patching; " + "; ".join(parts)
