"""``interp evaluate-steering``: what steerings bring and cost at equal dose, beside controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import DeviceOption, ModelOption, ProgressOption
from interp.cli.steering_inputs import (
    AttributeOption,
    ExtractOption,
    NegativeOption,
    NeutralOption,
    OperationOption,
    PositiveOption,
    SiteOption,
    SteeringSeedOption,
)

if TYPE_CHECKING:
    from interp.cli.steering_inputs import Sides
    from interp.models import Model
    from interp.results import OffTarget, SteeringEvaluation
    from interp.steering import Steering


def run_evaluate_steering(
    model: ModelOption = "mix-4l",
    attribute: AttributeOption = None,
    positive: PositiveOption = None,
    negative: NegativeOption = None,
    method: Annotated[
        list[str] | None, typer.Option(help="How directions are found, or all; may be repeated.")
    ] = None,
    load: Annotated[
        list[Path] | None, typer.Option(help="A steering that was saved, beside them; may be repeated.")
    ] = None,
    site: SiteOption = None,
    operation: OperationOption = "add",
    dose: Annotated[
        list[float] | None, typer.Option(help="Nats of KL: 0.1, 0.3 and 1 by default; may be repeated.")
    ] = None,
    controls: Annotated[
        str, typer.Option(help="random,orthogonal,shuffled: which controls of the same KL, or none.")
    ] = "random,orthogonal,shuffled",
    draws: Annotated[int, typer.Option(help="Of each kind of control.", min=1)] = 4,
    n: Annotated[int, typer.Option(help="Texts that judge.", min=8)] = 64,
    n_extract: ExtractOption = 128,
    off_target: Annotated[
        bool, typer.Option(help="What each does to every attribute, at the middle dose.")
    ] = True,
    neutral: NeutralOption = None,
    seed: SteeringSeedOption = 0,
    json: Annotated[Path | None, typer.Option(help="Write all figures to a .json file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row a condition and dose to a .csv file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report to an .html file.")] = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Evaluate steerings at equal dose without a judge model: concept, side effects, controls.

    Files of prompts are parted: the first half is extracted from, the second judges.

    interp evaluate-steering --attribute sentiment=positive --method all --report steering.html
    """
    from rich.console import Console

    from interp.cli.inputs import check_device, load_quietly
    from interp.cli.outputs import check_outputs
    from interp.cli.steering_inputs import check_file, check_source, draw_sides

    check_outputs([], json=json, csv=csv, report=report)
    check_source(attribute, positive, negative, judges=bool(load))
    methods, kinds = _check(method, controls)
    _check_names(load or [])
    loaded = {path.stem: check_file(path) for path in load or ()}
    where = load_quietly(model, check_device(device), progress)
    sides = draw_sides(attribute, positive, negative, n_extract, seed)
    options = dict(doses=tuple(dose) if dose else None, controls=kinds, draws=draws, n=n, seed=seed)
    steerings, found = _evaluate(where, sides, methods, loaded, site, operation, neutral, options, progress)
    effects = None
    if off_target and sides.target is not None:
        effects = _measure_off_target(where, sides.target, steerings, found, neutral, draws, seed, progress)

    from interp.cli.steering_tables import print_evaluation, write_evaluation

    console = Console()
    print_evaluation(console, found, effects)
    prompts = _example_prompts(sides)
    for path in write_evaluation(found, effects, where, steerings, prompts, json, csv, report):
        console.print(f"Written: {path.absolute()}", soft_wrap=True, highlight=False, markup=False)


def _check(method: list[str] | None, controls: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Methods and kinds of control. Raises :class:`~interp.errors.SteeringError` for unknown ones."""
    from interp.errors import SteeringError, unknown_name
    from interp.steering.evaluate.places import check_controls
    from interp.steering.extract import DIRECTIONS

    methods = tuple(DIRECTIONS) if method == ["all"] else tuple(dict.fromkeys(method or ["mean-difference"]))
    for name in methods:
        if name not in DIRECTIONS:
            raise SteeringError(unknown_name("extraction method", name, (*DIRECTIONS, "all")))
    asked = [part.strip() for part in controls.split(",") if part.strip() not in ("", "none")]
    return methods, check_controls(asked)


def _check_names(load: list[Path]) -> None:
    """Files are told apart by name. Raises :class:`~interp.errors.SteeringError` where two have one."""
    from interp.errors import SteeringError

    stems = [path.stem for path in load]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SteeringError(f"{twice[0]!r} names two files that --load gives; rename one.")


def _evaluate(
    model: Model,
    sides: Sides,
    methods: tuple[str, ...],
    loaded: dict[str, Steering],
    site: str | None,
    operation: str,
    neutral: Path | None,
    options: dict[str, Any],
    progress: bool,
) -> tuple[dict[str, Steering], SteeringEvaluation]:
    from interp.cli.steering_inputs import default_site, read_lines
    from interp.errors import SteeringError
    from interp.steering.contrast import read_contrast
    from interp.steering.evaluate import evaluate_steering
    from interp.steering.evaluate.evaluate import DOSES
    from interp.steering.extract.extract import steering_of

    sides, judges = _part(sides)
    contrast = read_contrast(
        model, sides.positive, sides.negative, default_site(model, site), paired=False, progress=progress
    )
    found = {name: steering_of(contrast, name, operation=operation, seed=options["seed"]) for name in methods}
    twice = sorted(set(found) & set(loaded))
    if twice:
        raise SteeringError(f"{twice[0]!r} names a method and a file; rename the file.")
    steerings = found | loaded
    text: Any = None
    if neutral is not None:
        text = read_lines(neutral)
    elif sides.target is None:
        from interp.steering.extract.extract import neutral_of

        text = neutral_of(model, sides.positive, sides.negative)
    evaluation = evaluate_steering(
        model,
        steerings,
        sides.target,
        positive=judges.positive if judges is not None else None,
        negative=judges.negative if judges is not None else None,
        neutral=text,
        contrast=contrast if sides.target is None else None,
        progress=progress,
        **{**options, "doses": options["doses"] or DOSES},
    )
    return steerings, evaluation


def _part(sides: Sides) -> tuple[Sides, Sides | None]:
    """Files into prompts that are extracted from and that judge; generated prompts are drawn anew for that.

    Raises :class:`~interp.errors.SteeringError` for fewer than eight lines a file.
    """
    from interp.cli.steering_inputs import Sides
    from interp.errors import SteeringError

    if sides.target is not None:
        return sides, None
    halves = len(sides.positive) // 2, len(sides.negative) // 2
    if min(halves) < 4:
        raise SteeringError(
            f"files of prompts are parted, four lines each way at least; got {len(sides.positive)} positive and "
            f"{len(sides.negative)} negative lines."
        )
    first = Sides(sides.positive[: halves[0]], sides.negative[: halves[1]], None)
    return first, Sides(sides.positive[halves[0] :], sides.negative[halves[1] :], None)


def _measure_off_target(
    model: Model,
    target: str,
    steerings: dict[str, Steering],
    found: SteeringEvaluation,
    neutral: Path | None,
    draws: int,
    seed: int,
    progress: bool,
) -> OffTarget:
    from interp.cli.steering_inputs import read_lines
    from interp.steering.evaluate import measure_off_target

    named = steerings if len(steerings) > 1 else {target: next(iter(steerings.values()))}
    return measure_off_target(
        model,
        named,
        found.doses[len(found.doses) // 2],
        neutral=None if neutral is None else read_lines(neutral),
        draws=draws,
        seed=seed,
        progress=progress,
    )


def _example_prompts(sides: Sides) -> list[str]:
    """Two prompts of the other side: a sentence of the generated world, or lines of the file."""
    if sides.target is None:
        return sides.negative[-2:]
    from interp.steering.world import attributed_texts

    return [one.text for one in attributed_texts(2, 7, without=sides.target, sentences=1)]
