"""Figures of the ground-truth benchmark: one row a suite, architecture and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table
from interp.coders.ground_truth.seeds import estimate_mean
from interp.results import Estimate

CONFIDENCE = 0.95


@dataclass(frozen=True)
class CodersRow:
    """How one coder recovers the features of one suite."""

    suite: str
    architecture: str
    """``random``: a dictionary of random directions, fitted by one gain."""
    seed: int
    """Of directions, rows and the coder."""
    d_in: int
    n_features: int
    d_sae: int
    features_firing: float
    """On a row, on average."""
    tokens: int
    mcc: float
    """Mean |cosine| of features with their latents, matched one-to-one."""
    mmcs: float
    uniqueness: float
    activation_mcc: float
    f1: float
    """Of each feature's best latent, on rows that played no part in choosing it."""
    precision: float
    recall: float
    fvu: float
    l0: float
    absorbed: float
    """Share of rows with an active parent where a child's latent carries it; NaN without parents."""
    seconds: float
    """Of training."""


_COLUMNS = {
    "mcc": "MCC",
    "mmcs": "MMCS",
    "uniqueness": "uniqueness",
    "f1": "F1",
    "fvu": "FVU",
    "l0": "L0",
    "absorbed": "absorbed",
}
NOTES = (
    f"Means over seeds and half the width of {CONFIDENCE:.0%} t intervals. MCC: mean |cosine| of one-to-one matches; "
    "MMCS: mean of each feature's largest cosine; F1: each feature's best latent, on held-out rows.",
    "Every coder is told how many features fire, by k or by the aim of its penalty; on a model nobody knows it.",
)


def report_coders(rows: Sequence[CodersRow], threads: str) -> Report[CodersRow]:
    """A table a suite; the last line says every architecture's MCC on the first one."""
    suites = list(dict.fromkeys(row.suite for row in rows))
    tables = [_tabulate([row for row in rows if row.suite == suite]) for suite in suites]
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def _tabulate(rows: Sequence[CodersRow]) -> Table:
    first = rows[0]
    shown = [name for name in _COLUMNS if not all(math.isnan(getattr(row, name)) for row in rows)]
    cells = [
        [name, *(_write(estimate(rows, name, figure), 1 if figure == "l0" else 3) for figure in shown)]
        for name in dict.fromkeys(row.architecture for row in rows)
    ]
    title = (
        f"{first.suite}: {first.n_features} features in {first.d_in} dimensions, {first.d_sae} latents, "
        f"{len({row.seed for row in rows})} seeds"
    )
    return Table(title, ("architecture", *(_COLUMNS[name] for name in shown)), cells)


def estimate(rows: Sequence[CodersRow], architecture: str, figure: str) -> Estimate:
    """Mean over seeds with its interval, of the rows that have the figure; NaN where none has."""
    values = [getattr(row, figure) for row in rows if row.architecture == architecture]
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return Estimate(math.nan, math.nan, math.nan)
    return estimate_mean(there, "t", CONFIDENCE)


def _write(found: Estimate, digits: int) -> str:
    if math.isnan(found.value):
        return "-"
    half = "" if math.isnan(found.high) else f" ±{found.high - found.value:.{digits}f}"
    return f"{found.value:.{digits}f}{half}"


def headline(rows: Sequence[CodersRow]) -> str:
    """Mean MCC and FVU of every architecture on the first suite, random dictionaries last."""
    suite = rows[0].suite
    own = [row for row in rows if row.suite == suite]
    names = sorted(dict.fromkeys(row.architecture for row in own), key=lambda name: name == "random")
    parts = (
        f"{name} {_write(estimate(own, name, 'mcc'), 3)}/{_write(estimate(own, name, 'fvu'), 3)}"
        for name in names
    )
    return f"MCC/FVU on {suite}: " + ", ".join(parts)
