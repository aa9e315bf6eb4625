"""The report of steerings: what they bring at equal dose, what they cost, what else they do, and what is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.reports.page import Cell, Section, Table, write_report
from interp.reports.sections import provenance_section
from interp.results.agreement import Estimate
from interp.results.off_target import OffTarget
from interp.results.steered_text import SteeredText
from interp.results.steering_evaluation import MEASURES, SteeringEvaluation

_UNCHECKED = (
    "Nothing stood beside these steerings: how much of their effect any push of the same KL would have had is not "
    'known. interp.evaluate_steering(..., controls=("random", "orthogonal", "shuffled")) measures it.'
)
_NO_OFF_TARGET = (
    "What these steerings do to other attributes was not measured value by value here; interp.measure_off_target "
    "does so."
)
_EXAMPLES = (
    "Greedy continuations at several doses, the same prompts in each; a token's colour says how strongly the steering "
    "acted on it. A few texts show how it reads; the table has the figures."
)


def steering_report(
    evaluation: SteeringEvaluation,
    path: str | Path,
    *,
    off_target: OffTarget | None = None,
    examples: Mapping[str, SteeredText] | None = None,
    sections: Sequence[Section] = (),
    title: str | None = None,
) -> Path:
    """Write an evaluation as one self-contained HTML file, and return its path.

    It holds the table at the middle dose with intervals, dose-response, figures of every dose, the off-target
    matrix and coloured ``examples`` by name where they are given, the further ``sections``, what every measure is,
    and the provenance. It says so where there are no controls, where off-target effects were not measured, and
    where a dose was not reached. Raises as :func:`write_report`.
    """
    made = evaluation.provenance
    parts = [_summary(evaluation)]
    if not evaluation.controls:
        parts.append(Section("No controls", (_UNCHECKED,)))
    parts.append(
        Section(
            "Dose-response",
            (
                f"Every condition has the same KL on {evaluation.text} at a dose; the grey band is of controls.",
            ),
            figures=(evaluation.plot(),),
        )
    )
    parts.append(_every_dose(evaluation))
    if off_target is None:
        parts.append(Section("Off target: not measured", (_NO_OFF_TARGET,)))
    else:
        parts.append(
            Section("Off target", tuple(off_target.summary().splitlines()), figures=(off_target.plot(),))
        )
    if examples:
        parts += [
            Section(f"Written under {name}", (_EXAMPLES,), prepared=(text.to_html(rows=len(text)),))
            for name, text in examples.items()
        ]
    glossary = Table(("measure", "what it is"), tuple((name, MEASURES[name]) for name in evaluation.measures))
    parts += [*sections, Section("Measures", tables=(glossary,))]
    parts.append(provenance_section(made, [("neutral text", evaluation.text)]))
    return write_report(
        path,
        title or f"Steering {made.model} to {evaluation.target}",
        parts,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _summary(found: SteeringEvaluation) -> Section:
    dose = found.doses[len(found.doses) // 2]
    assert found.effect is not None
    base = float(found.unsteered[found.measures.index(found.effect), 0])
    text = [
        f"At {dose:g} nats of KL to the unsteered model on neutral text. The effect is the {MEASURES[found.effect]}; "
        f"unsteered it is {base:.3f}. Intervals are {found.confidence:.0%} bootstrap intervals over prompts, those of "
        "controls over their draws too."
    ]
    text += [f"Not reached by any strength: {one}." for one in found.unreached]
    shown = [name for name in ("generated", "retention", "legal") if name in found.measures]
    shown = [name for name in shown if name != found.effect]
    columns = ("condition", "draws", "effect", "over controls", "effect per nat", *shown, "rise of loss")
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(found.conditions):
        rows.append(
            (
                name,
                str(found.draws[number]),
                _cell(found.at(name, dose, found.effect)),
                _cell(found.at(name, dose, found.effect, "over_controls"), signed=True),
                found.gain_per_nat(name, dose),
                *(_cell(found.at(name, dose, measure)) for measure in shown),
                _cell(found.at(name, dose, "loss", "shifts"), signed=True),
            )
        )
    return Section("What it brings and what it costs", tuple(text), (Table(columns, tuple(rows)),))


def _every_dose(found: SteeringEvaluation) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(found.conditions):
        for column, dose in enumerate(found.doses):
            values = found.values[number, column, :, 0].tolist()
            rows.append((name, f"{dose:g}", float(found.strengths[number, column]), *values))
    base = ("unsteered", "0", 0.0, *found.unsteered[:, 0].tolist())
    table = Table(("condition", "dose", "strength", *found.measures), (base, *rows))
    text = "Values; their intervals are in the figures' hover and in the record's frame."
    return Section("Every dose", (text,), (table,))


def _cell(found: Estimate, signed: bool = False) -> str:
    if math.isnan(found.value):
        return "–"
    sign = "+" if signed else ""
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]".replace("-", "−")
