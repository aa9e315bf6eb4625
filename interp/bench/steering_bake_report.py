"""Figures of the baking benchmark: what abstaining costs, setting by setting, and how far baked is from hooked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.bench.report import Report, Table
from interp.coders.ground_truth.seeds import estimate_mean
from interp.results import Estimate
from interp.results.baking import AbstentionReport
from interp.results.provenance import Provenance

CONFIDENCE = 0.95
UNTOUCHED, ALWAYS_ON, CASAL = "untouched", "always on", "CASAL"


@dataclass(frozen=True)
class BakeRow:
    """One setting of one seed: answers on people that played no part, or the gap of one baking."""

    part: str
    """``abstention`` or ``gap``."""
    model: str
    group: str
    """``untouched``, ``always on``, ``CASAL``; of a gap, the kind of baking."""
    direction: str
    """``abstain``: strangers minus the unseen of the same names; ``ignorance``: unknown minus known; ``random``: as
    long as ``abstain``."""
    layer: int
    submodule: str
    known_target: str
    """Of CASAL: known prompts ``keep`` their place or go ``away``."""
    amount: float
    seed: int
    known_right: float = math.nan
    """About known people who were not fitted on."""
    known_abstained: float = math.nan
    made_up: float = math.nan
    """About unseen people who were not fitted on."""
    unseen_abstained: float = math.nan
    fit_known_right: float = math.nan
    """About the known people that were fitted on."""
    fit_made_up: float = math.nan
    distance_before: float = math.nan
    """Mean squared distance of unknown prompts to their targets."""
    distance_after: float = math.nan
    largest_logit: float = math.nan
    """Of a gap: largest difference of a logit, baked to hooked."""
    kl_to_hooked: float = math.nan
    kl_hooked: float = math.nan
    """KL(unsteered || hooked), nats a token."""
    kl_baked: float = math.nan
    seconds: float = 0.0

    @property
    def setting(self) -> tuple[str, str, int, str, str, float]:
        """All that is the same over seeds."""
        return (self.group, self.direction, self.layer, self.submodule, self.known_target, self.amount)


NOTES = (
    "Answers on people that played no part in the fit: made up, of questions about unseen people, answered as if known "
    f"(less is better); known, answered right. Means over seeds and half the width of {CONFIDENCE:.0%} t intervals.",
    "CASAL learns from prompts told apart by sampling; always on, the same vector acts on every prompt by hooks.",
)


def report_bake(rows: Sequence[BakeRow], threads: str) -> Report[BakeRow]:
    """A table of settings, the best of every group first in the last line, and one of gaps."""
    asked = [row for row in rows if row.part == "abstention"]
    gaps = [row for row in rows if row.part == "gap"]
    tables = [_tabulate(asked), _tabulate_gaps(gaps)]
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def estimate(rows: Sequence[BakeRow], figure: str) -> Estimate:
    """Mean over the seeds of one setting, with its interval (NaN of a single seed)."""
    return estimate_mean([getattr(row, figure) for row in rows], "t", CONFIDENCE)


def by_setting(rows: Sequence[BakeRow]) -> dict[tuple[str, str, int, str, str, float], list[BakeRow]]:
    """Rows of every setting, in the order they came."""
    found: dict[tuple[str, str, int, str, str, float], list[BakeRow]] = {}
    for row in rows:
        found.setdefault(row.setting, []).append(row)
    return found


def _write(found: Estimate) -> str:
    half = "" if math.isnan(found.high) else f" ±{found.high - found.value:.3f}"
    return f"{found.value:.3f}{half}"


def _name(row: BakeRow) -> str:
    if row.group == UNTOUCHED:
        return UNTOUCHED
    trained = f" {row.submodule}, known {row.known_target}" if row.group == CASAL else ""
    return f"{row.group} L{row.layer}{trained}: {row.amount:g} {row.direction}"


def _tabulate(rows: Sequence[BakeRow]) -> Table:
    headings = ("setting", "made up", "known right", "(on the fit)")
    cells = []
    for own in by_setting(rows).values():
        fitted = [estimate(own, figure).value for figure in ("fit_made_up", "fit_known_right")]
        shown = "-" if math.isnan(fitted[0]) else f"{fitted[0]:.2f} / {fitted[1]:.2f}"
        cells.append([_name(own[0]), *(_write(estimate(own, f)) for f in ("made_up", "known_right")), shown])
    people = f"{len({row.seed for row in rows})} seeds, {rows[0].model}" if rows else "none"
    return Table(f"What is made up and what is known: {people}", headings, cells)


def _tabulate_gaps(rows: Sequence[BakeRow]) -> Table:
    figures = ("largest_logit", "kl_to_hooked", "kl_hooked", "kl_baked")
    cells = [
        [_name_gap(own[0]), *(f"{max(getattr(row, f) for row in own):.2g}" for f in figures)]
        for own in by_setting(rows).values()
    ]
    headings = ("baking", "largest logit", "KL to hooked", "KL of hooked", "KL of baked")
    return Table("Baked to hooked: the most over seeds", headings, cells)


def _name_gap(row: BakeRow) -> str:
    trained = f" L{row.layer} {row.submodule}, {row.amount:g}" if row.submodule != "-" else ""
    return f"{row.group}{trained}, {row.model}"


def report_of(rows: Sequence[BakeRow]) -> AbstentionReport:
    """The abstention rows as a record with intervals over seeds, to be drawn and saved.

    Raises :class:`RecordError` where there are none.
    """
    found = by_setting([row for row in rows if row.part == "abstention"])
    ends = {
        figure: torch.tensor(
            [
                [getattr(estimate(own, figure), end) for end in ("value", "low", "high")]
                for own in found.values()
            ]
        ).reshape(-1, 3)
        for figure in ("made_up", "known_right")
    }
    first = next(iter(found.values()))[0] if found else None
    seeds = len({row.seed for row in rows})
    return AbstentionReport(
        names=tuple(_name(own[0]) for own in found.values()),
        groups=tuple(_group(own[0]) for own in found.values()),
        made_up=ends["made_up"],
        known=ends["known_right"],
        interval=f"{CONFIDENCE:.0%} t intervals over {seeds} seeds",
        provenance=Provenance(model=first.model if first else "none", task="facts", method="CASAL"),
    )


def _group(row: BakeRow) -> str:
    return (
        row.group if row.group == UNTOUCHED or row.direction == "abstain" else f"{row.group}, {row.direction}"
    )


def headline(rows: Sequence[BakeRow]) -> str:
    """Made up / known right of the untouched model and of the best setting of every group, and the exact gaps."""
    asked = [row for row in rows if row.part == "abstention"]
    best: dict[str, list[BakeRow]] = {}
    for own in by_setting(asked).values():
        group = _group(own[0])
        if group not in best or _gain(own) > _gain(best[group]):
            best[group] = own
    parts = [
        f"{group} {estimate(own, 'made_up').value:.3f}/{estimate(own, 'known_right').value:.3f}"
        for group, own in best.items()
    ]
    gaps = {
        row.group: row.largest_logit
        for row in rows
        if row.part == "gap" and row.group in ("bias", "orthogonal")
    }
    exact = ", ".join(f"{group} {gap:.1g}" for group, gap in gaps.items())
    return f"made up/known right, best of each: {', '.join(parts)}; logits baked to hooked: {exact}"


def _gain(rows: Sequence[BakeRow]) -> float:
    return estimate(rows, "known_right").value - estimate(rows, "made_up").value
