"""Figures of the steering benchmark: one row a target, seed, condition and dose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table
from interp.coders.ground_truth.seeds import estimate_mean
from interp.results import Estimate

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SteeringRow:
    """One method or kind of control at one dose; ends are bootstrap intervals over prompts (and draws)."""

    target: str
    seed: int
    condition: str
    kind: str
    """``method``, or the kind of control."""
    place: str
    draws: int
    dose: float
    """Nats a token of neutral text."""
    strength: float
    """NaN where no strength reaches the dose."""
    concept: float
    """Share of the target's words in the mass on words of its attribute, in texts of other values."""
    concept_low: float
    concept_high: float
    concept_unsteered: float
    over_controls: float
    """Concept less the mean of the controls of the same place; NaN for controls."""
    over_controls_low: float
    over_controls_high: float
    generated: float
    """The same share among written words."""
    generated_unsteered: float
    log_odds: float
    """Of a held-out probe."""
    log_odds_unsteered: float
    attribute_words: float
    """Mass on words of the attribute where the unsteered model has half."""
    retention: float
    """Share of the text's own values in the mass on words of other attributes."""
    retention_unsteered: float
    generated_retention: float
    generated_retention_unsteered: float
    legal: float
    """Share of written sentences that the grammar allows."""
    legal_unsteered: float
    loss: float
    """Rise on neutral text, nats a token."""
    kl: float
    """On neutral text without the last token of rows."""
    entropy: float
    """Rise on neutral text."""
    calibrate_seconds: float
    """Of one calibration, the first method's, on the same text."""
    generate_seconds: float
    """Of 16 rows of 16 new tokens, unsteered."""
    steered_seconds: float


NOTES = (
    f"Means over seeds (of prompts, neutral text and controls) and half the width of {CONFIDENCE:.0%} t intervals; "
    "bootstrap intervals over prompts and draws of each seed are in the rows. All conditions of a dose have the same "
    "KL on neutral text.",
    "concept: share of the target's words in the mass on words of its attribute, texts of other values; written: among "
    "sampled words; kept: share of the text's own values among other attributes; legal: sentences written; loss: "
    "rise on neutral text. over controls: concept less the mean of random, orthogonal and shuffled-label directions.",
)
_COLUMNS = {
    "concept": "concept",
    "over_controls": "over controls",
    "generated": "written",
}
_COSTS = {
    "retention": "kept",
    "generated_retention": "kept, written",
    "legal": "legal",
    "loss": "loss",
}


def report_steering(rows: Sequence[SteeringRow], threads: str) -> Report[SteeringRow]:
    """A table of all figures a target at the middle dose, and one of gain against loss at every dose."""
    targets, doses = _names(rows, "target"), sorted({row.dose for row in rows})
    middle = doses[len(doses) // 2]
    tables = [
        _tabulate([row for row in rows if row.target == target], middle, columns)
        for target in targets
        for columns in (_COLUMNS, _COSTS)
    ]
    tables.append(_tabulate_gain(rows, doses))
    return Report(rows, tables, (*NOTES, describe_costs(rows), threads), headline(rows))


def _names(rows: Sequence[SteeringRow], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def _tabulate(rows: Sequence[SteeringRow], dose: float, columns: Mapping[str, str]) -> Table:
    own = [row for row in rows if row.dose == dose]
    first = own[0]
    cells = [
        [
            name,
            *(_write(_estimate([r for r in own if r.condition == name], field)) for field in columns),
        ]
        for name in _names(own, "condition")
    ]
    seeds = len({row.seed for row in own})
    base = [
        _write(_estimate(own, f"{field}_unsteered")) if hasattr(first, f"{field}_unsteered") else "-"
        for field in columns
    ]
    title = f"{first.target} at {dose:g} nats, {seeds} seeds"
    return Table(title, ("condition", *columns.values()), [["unsteered", *base], *cells])


def _tabulate_gain(rows: Sequence[SteeringRow], doses: Sequence[float]) -> Table:
    """Concept gain and rise of loss at every dose, means over targets, seeds as the unit."""
    cells = []
    for name in _names(rows, "condition"):
        line = [name]
        for dose in doses:
            own = [row for row in rows if row.condition == name and row.dose == dose]
            line += [_write(_mean_over_targets(own, gain_of)), _write(_mean_over_targets(own, _loss_of))]
        cells.append(line)
    heads = [head for dose in doses for head in (f"gain at {dose:g}", f"loss at {dose:g}")]
    targets = len(_names(rows, "target"))
    return Table(
        f"concept gain against loss on neutral text, mean over {targets} targets",
        ("condition", *heads),
        cells,
    )


def gain_of(row: SteeringRow) -> float:
    """Rise of the concept's share."""
    return row.concept - row.concept_unsteered


def _loss_of(row: SteeringRow) -> float:
    return row.loss


def _mean_over_targets(rows: Sequence[SteeringRow], figure: Callable[[SteeringRow], float]) -> Estimate:
    """Each seed's mean over targets; NaN where a seed lacks one."""
    seeds = {row.seed for row in rows}
    values = []
    for seed in sorted(seeds):
        own = [figure(row) for row in rows if row.seed == seed]
        values.append(sum(own) / len(own))
    return _interval(values)


def _estimate(rows: Sequence[SteeringRow], field: str) -> Estimate:
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(getattr(row, field))
    return _interval([sum(values) / len(values) for values in by_seed.values()])


def _interval(values: Sequence[float]) -> Estimate:
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return Estimate(math.nan, math.nan, math.nan)
    return estimate_mean(there, "t", CONFIDENCE)


def _write(found: Estimate) -> str:
    if math.isnan(found.value):
        return "-"
    half = "" if math.isnan(found.high) else f" ±{found.high - found.value:.2f}"
    return f"{found.value:.2f}{half}"


def describe_costs(rows: Sequence[SteeringRow]) -> str:
    """Seconds of a calibration and of generation, means over seeds and targets."""
    count = len(rows)
    calibrate, plain, steered = (
        sum(getattr(row, f"{name}_seconds") for row in rows) / count
        for name in ("calibrate", "generate", "steered")
    )
    return (
        f"One calibration takes {calibrate:.2f} s; 16 rows of 16 new tokens {plain:.3f} s unsteered and "
        f"{steered:.3f} s steered (x{steered / plain:.2f})."
    )


def headline(rows: Sequence[SteeringRow]) -> str:
    """Mean gain of every condition over targets at the middle dose, and its rise of loss; controls last."""
    doses = sorted({row.dose for row in rows})
    dose = doses[len(doses) // 2]
    own = [row for row in rows if row.dose == dose]
    names = sorted(
        _names(own, "condition"),
        key=lambda name: next(row.kind for row in own if row.condition == name) != "method",
    )
    parts = []
    for name in names:
        part = [row for row in own if row.condition == name]
        gain, loss = _mean_over_targets(part, gain_of), _mean_over_targets(part, _loss_of)
        parts.append(f"{name} {_write(gain)}/{_write(loss)}")
    return f"concept gain/loss at {dose:g} nats: " + ", ".join(parts)
