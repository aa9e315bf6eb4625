"""Figures of the gated steering benchmark: one row a task, gate, false-positive rate and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.bench.report import Report, Table
from interp.coders.ground_truth.seeds import estimate_mean
from interp.results import Estimate

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SteeringGateRow:
    """What one gate does on prompts that played no part in fitting or calibrating it."""

    task: str
    gate: str
    """``always on``: none."""
    wanted_fpr: float
    """That the threshold was calibrated to; NaN: without a threshold."""
    seed: int
    dose: float
    """Nats of KL on neutral text, of the steering without a gate."""
    strength: float
    auc: float
    """Of the gate's scores."""
    tpr: float
    """Share of prompts to act on with an open gate."""
    fpr: float
    """Share of prompts to leave alone with an open gate."""
    act_effect: float
    """Nats of log odds of formal against informal words, on prompts to act on."""
    leave_effect: float
    act_kl: float
    """Nats a token, on prompts to act on."""
    leave_kl: float
    act_gate: float
    """Mean factor."""
    leave_gate: float
    n_act: int
    n_leave: int
    seconds: float
    """Of fitting and scoring."""


_RATES = {"auc": ("AUC", 3), "tpr": ("TPR", 3), "fpr": ("FPR", 3)}
_EFFECTS = {
    "act_effect": ("effect: act", 2),
    "leave_effect": ("leave", 2),
    "act_kl": ("KL: act", 3),
    "leave_kl": ("leave", 3),
}
NOTES = (
    f"Means over seeds and half the width of {CONFIDENCE:.0%} t intervals. Effect: nats of log odds of formal words, "
    "KL: nats a token, both on continuations of the unsteered model. act: prompts to act on; leave: to leave alone.",
    "All gates are of one steering at one strength. A rate is that of the calibration; FPR is what came of it on "
    "prompts held out. Without a threshold (-) a controller is never quite closed.",
)


def report_steering_gates(rows: Sequence[SteeringGateRow], threads: str) -> Report[SteeringGateRow]:
    """A table a task; the last line says effects at the first rate of the first task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    own = [[row for row in rows if row.task == task] for task in tasks]
    tables = [table for some in own for table in (_tabulate(some, _RATES), _tabulate(some, _EFFECTS))]
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def select(rows: Sequence[SteeringGateRow], gate: str, wanted_fpr: float) -> list[SteeringGateRow]:
    """Rows of a gate at a rate, NaN for none."""

    def is_wanted(rate: float) -> bool:
        return math.isnan(rate) if math.isnan(wanted_fpr) else rate == wanted_fpr

    return [row for row in rows if row.gate == gate and is_wanted(row.wanted_fpr)]


def estimate(rows: Sequence[SteeringGateRow], figure: str) -> Estimate:
    """Mean over seeds with its interval; NaN where there is none."""
    values = [getattr(row, figure) for row in rows if not math.isnan(getattr(row, figure))]
    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    return estimate_mean(values, "t", CONFIDENCE)


def _write(found: Estimate, digits: int) -> str:
    if math.isnan(found.value):
        return "-"
    half = "" if math.isnan(found.high) else f" ±{found.high - found.value:.{digits}f}"
    return f"{found.value:.{digits}f}{half}"


def _tabulate(rows: Sequence[SteeringGateRow], columns: Mapping[str, tuple[str, int]]) -> Table:
    groups: dict[tuple[str, str], list[SteeringGateRow]] = {}
    for row in rows:
        rate = "-" if math.isnan(row.wanted_fpr) else f"{row.wanted_fpr:g}"
        groups.setdefault((row.gate, rate), []).append(row)
    cells = [
        [gate, rate, *(_write(estimate(group, name), digits) for name, (_, digits) in columns.items())]
        for (gate, rate), group in groups.items()
        # a gate without a threshold has no rates
        if not all(math.isnan(estimate(group, name).value) for name in columns)
    ]
    first = rows[0]
    title = (
        f"{first.task}: formal at {first.dose:g} nats, {first.n_act} prompts to act on and {first.n_leave} to leave "
        f"alone, {len({row.seed for row in rows})} seeds"
    )
    return Table(title, ("gate", "rate", *(title for title, _ in columns.values())), cells)


def headline(rows: Sequence[SteeringGateRow]) -> str:
    """Effect where it should act / should not, of every gate at the first rate of the first task."""
    own = [row for row in rows if row.task == rows[0].task]
    rates = [row.wanted_fpr for row in own if not math.isnan(row.wanted_fpr)]
    rate = rates[0] if rates else math.nan
    parts = []
    for gate in dict.fromkeys(row.gate for row in own):
        group = select(own, gate, math.nan if gate == "always on" else rate)
        parts.append(
            f"{gate} {_write(estimate(group, 'act_effect'), 2)}/{_write(estimate(group, 'leave_effect'), 2)}"
        )
    return f"effect act/leave on {rows[0].task} at FPR {rate:g}: " + ", ".join(parts)
