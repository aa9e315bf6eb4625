"""Figures of the benchmark of learned maps: one row a target, method, setting and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table
from interp.coders.ground_truth.seeds import estimate_mean
from interp.results import Estimate

CONFIDENCE = 0.95
FITTED, EQUAL, PATH = "as fitted", "equal dose", "sparsity path"


@dataclass(frozen=True)
class SteeringMapsRow:
    """What a model writes after prompts of the other style, and what it costs on neutral text."""

    target: str
    """Attribute and value: ``formality=formal``."""
    method: str
    setting: str
    """``as fitted``: at strength 1; ``equal dose``: at the strength of one KL; ``sparsity path``: at strength 1."""
    seed: int
    """Of the fit's prompts and of those that are continued."""
    n_fit: int
    """Prompts a side that it was fitted to."""
    n_prompts: int
    """Prompts of the source style that were continued."""
    sparsity: float
    kept_share: float
    """Of neurons whose map is not the identity."""
    strength: float
    """NaN where no strength has the dose."""
    target_rate: float
    """Share of the target's words among the written words of the attribute."""
    legal: float
    """Share of legal sentences among those that were written."""
    kl: float
    """KL(unsteered || steered) on neutral text, nats a token."""
    loss_added: float
    """On neutral text, nats a token."""
    fit_loss: float
    """LinEAS: its distance to the target, as a share of the unsteered one; else NaN."""
    fit_seconds: float


NOTES = (
    f"Means over seeds and half the width of {CONFIDENCE:.0%} t intervals. A continuation that ends no sentence counts "
    "as one that is not legal. A dash: no strength reached the dose, or nothing to measure.",
    "The target's words are counted among the words of its attribute: on text of the source style that is the rest "
    "of the model's own changes of style.",
)


def report_steering_maps(rows: Sequence[SteeringMapsRow], threads: str) -> Report[SteeringMapsRow]:
    """A table a target and setting, one of the sparsity path; the last line says LinEAS beside its rivals."""
    tables = [
        _tabulate([row for row in rows if (row.target, row.setting) == key])
        for key in dict.fromkeys((row.target, row.setting) for row in rows if row.setting != PATH)
    ]
    path = [row for row in rows if row.setting == PATH]
    if path:
        tables.append(_tabulate_path(path))
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def _tabulate(rows: Sequence[SteeringMapsRow]) -> Table:
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        digits = {"target_rate": 3, "legal": 3, "kl": 3, "loss_added": 3, "kept_share": 2, "strength": 2}
        cells.append([method, *(_write(estimate(own, name), n) for name, n in digits.items())])
    first = rows[0]
    seeds = len({row.seed for row in rows})
    return Table(
        f"{first.target}, {first.setting}: {first.n_fit} prompts a side, {first.n_prompts} continued, {seeds} seeds",
        ("method", "target rate", "legal", "KL", "loss added", "neurons kept", "strength"),
        cells,
    )


def _tabulate_path(rows: Sequence[SteeringMapsRow]) -> Table:
    cells = [
        [
            row.method,
            f"{row.sparsity:g}",
            f"{row.kept_share:.3f}",
            f"{row.fit_loss:.3f}",
            f"{row.target_rate:.3f}",
            f"{row.legal:.3f}",
        ]
        for row in rows
    ]
    headings = ("method", "lambda", "neurons kept", "distance left", "target rate", "legal")
    return Table(f"{rows[0].target}, sparsity path, seed {rows[0].seed}", headings, cells)


def estimate(rows: Sequence[SteeringMapsRow], figure: str) -> Estimate:
    """Mean over seeds with its interval, of the rows that have the figure; NaN where none has."""
    there = [value for row in rows if not math.isnan(value := float(getattr(row, figure)))]
    return estimate_mean(there, "t", CONFIDENCE) if there else Estimate(math.nan, math.nan, math.nan)


def _write(found: Estimate, digits: int) -> str:
    if math.isnan(found.value):
        return "-"
    half = "" if math.isnan(found.high) else f" ±{found.high - found.value:.{digits}f}"
    return f"{found.value:.{digits}f}{half}"


def headline(rows: Sequence[SteeringMapsRow]) -> str:
    """Target rate and legality of every method at strength 1 towards the first target."""
    own = [row for row in rows if row.target == rows[0].target and row.setting == FITTED]
    parts = []
    for method in dict.fromkeys(row.method for row in own):
        mine = [row for row in own if row.method == method]
        parts.append(
            f"{method} {estimate(mine, 'target_rate').value:.2f}/{estimate(mine, 'legal').value:.2f}"
        )
    return f"target rate/legal on {rows[0].target}: " + ", ".join(parts)
