"""What ``interp evaluate-steering`` prints and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.models import Model
from interp.reports import steering_report, write_atomically
from interp.results import OffTarget, SteeringEvaluation
from interp.results.agreement import Estimate
from interp.results.storage import without_nan
from interp.steering import Steering
from interp.steering.evaluate import write_examples


def print_evaluation(console: Console, found: SteeringEvaluation, off_target: OffTarget | None) -> None:
    """A line a condition and dose: the effect, its lead over controls, and what it costs."""
    effect = found.effect
    assert effect is not None
    base = float(found.unsteered[found.measures.index(effect), 0])
    title = f"{found.target}: {effect}, unsteered {base:.2f}; {found.confidence:.0%} bootstrap intervals"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    more = [name for name in ("legal",) if name in found.measures]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("condition", "dose", "effect", "over controls", *more, "loss"):
        is_name = heading == "condition"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name)
    for name in found.conditions:
        for dose in found.doses:
            table.add_row(
                escape(name),
                f"{dose:g}",
                _write(found.at(name, dose, effect)),
                _write(found.at(name, dose, effect, "over_controls")),
                *(_number(found.at(name, dose, measure), ".2f") for measure in more),
                _number(found.at(name, dose, "loss", "shifts"), "+.3f"),
            )
    console.print(table)
    lines = [f"not reached: {one}" for one in found.unreached] + list(found.provenance.notes)
    if off_target is not None:
        lines += off_target.summary().splitlines()
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _write(found: Estimate) -> str:
    return "-" if found.value != found.value else escape(str(found))


def _number(found: Estimate, style: str) -> str:
    return "-" if found.value != found.value else format(found.value, style)


def write_evaluation(
    found: SteeringEvaluation,
    off_target: OffTarget | None,
    model: Model,
    steerings: Mapping[str, Steering],
    prompts: Sequence[str],
    json_path: Path | None,
    csv: Path | None,
    report: Path | None,
) -> list[Path]:
    """Write what was asked for. Raises :class:`~interp.errors.ExportError` when it cannot be written."""
    written = []
    if json_path is not None:
        text = json.dumps(evaluation_to_json(found, off_target), indent=1, allow_nan=False) + "\n"
        written.append(write_atomically(json_path, text))
    if csv is not None:
        written.append(write_atomically(csv, found.to_frame().to_csv(index=False)))
    if report is not None:
        name = found.methods[0]
        row = found.strengths[found.conditions.index(name)].tolist()
        reached = [(dose, one) for dose, one in zip(found.doses, row, strict=True) if one == one]
        texts = {}
        if prompts and reached:
            doses, strengths = zip((0.0, 0.0), *reached, strict=True)
            texts[name] = write_examples(model, steerings[name], prompts, doses, strengths)
        written.append(steering_report(found, report, off_target=off_target, examples=texts))
    return written


def evaluation_to_json(found: SteeringEvaluation, off_target: OffTarget | None) -> dict[str, Any]:
    """All figures as plain values; NaN is ``None``, for JSON has no NaN."""
    document: dict[str, Any] = {
        "provenance": found.provenance.to_dict(),
        "target": found.target,
        "neutral_text": found.text,
        "confidence": found.confidence,
        "unsteered": {name: found.unsteered[number].tolist() for number, name in enumerate(found.measures)},
        "not_reached": list(found.unreached),
        "rows": found.to_frame().to_dict("records"),
    }
    if off_target is not None:
        document["off_target"] = off_target.to_frame().to_dict("records")
    plain: dict[str, Any] = without_nan(document)
    return plain
