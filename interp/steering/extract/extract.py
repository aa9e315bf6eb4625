"""From prompts to a steering in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.steering.contrast import Contrast, read_contrast
from interp.steering.dose import calibrate_dose
from interp.steering.extract.directions import find_direction
from interp.steering.extract.judge import judge_direction
from interp.steering.neutral import NeutralText, read_neutral, reads_world
from interp.steering.operations import Add, Operation
from interp.steering.steering import Steering, Step
from interp.types import Position, Site, SiteLike

_FEWEST_TO_JUDGE = 8
_REFITS = 20


def extract_steering(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    site: SiteLike | Iterable[SiteLike],
    method: str = "mean-difference",
    *,
    at: Position | Sequence[Position] | None = None,
    operation: str = "add",
    neutral: Prompts | NeutralText | None = None,
    calibrate: bool = True,
    max_dose: float = 2.0,
    paired: bool | None = None,
    judge: bool = True,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Steering:
    """A steering from prompts that have an attribute and prompts that do not.

    ``site`` is where it is read and acts: its positions are those that are read (the mean over all tokens without
    any; ``@-1`` the last), ``at`` is where it acts (every token, of prompts and generated, if left out). Several sites
    or layers become several steps. ``method`` is one of :data:`interp.steering.extract.DIRECTIONS`; ``pca`` and ``lat``
    want pairs that differ in nothing but the attribute. ``operation`` says how the direction is used, as
    :meth:`Steering.using`. The dose is calibrated on ``neutral`` text up to ``max_dose`` nats: by default text of
    the generated world where the model reads it, else the prompts themselves. ``judge`` puts figures into the
    result: ``auc`` on prompts held out and ``stability`` under resampling, as :func:`judge_direction`; with fewer than
    8 prompts a side there are none.

    Example::

        vector = interp.extract_steering(model, positive, negative, site="resid_post[2]")
        with vector.apply(model, dose=0.5):
            tokens = model.generate("The baker")

    Raises :class:`SteeringError` for prompts, methods and sites from which nothing can be extracted.
    """
    positive, negative = keep_prompts(positive), keep_prompts(negative)
    contrast = read_contrast(
        model, positive, negative, site, paired=paired, batch_size=batch_size, progress=progress
    )
    steering = steering_of(contrast, method, at=at, operation=operation, seed=seed)
    if judge:
        steering = replace(steering, figures=_figures(contrast, method, seed))
    if not calibrate:
        return steering
    return calibrate_on(
        model, steering, positive, negative, neutral, max_dose=max_dose, seed=seed, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip


def keep_prompts(prompts: Prompts) -> Prompts:
    """The same, to be read again: prompts of a contrast may be its neutral text too."""
    return list(prompts) if isinstance(prompts, Iterator) else prompts


def steering_of(
    contrast: Contrast,
    method: str = "mean-difference",
    *,
    at: Position | Sequence[Position] | None = None,
    operation: str = "add",
    seed: int = 0,
) -> Steering:
    """The steering that a method finds in a contrast, a step a site; its dose is not calibrated."""
    operations = {site: Add(find_direction(rows, method, seed)) for site, rows in contrast.rows.items()}
    return build_steering(contrast, operations, method, at, operation)


def build_steering(
    contrast: Contrast,
    operations: Mapping[Site, Operation],
    method: str,
    at: Position | Sequence[Position] | None = None,
    operation: str = "add",
) -> Steering:
    """A step for each site, at these positions, used as ``operation``; it says what contrast it comes from."""
    positions = (
        () if at is None else (at,) if isinstance(at, int | str) or not isinstance(at, Sequence) else at
    )
    steering = Steering(
        tuple(Step(site, one) for site, one in operations.items()),
        method,
        model_digest=contrast.model_digest,
        data=contrast.data,
        provenance=contrast.provenance,
    )
    steering = steering if operation == Add.kind else steering.using(operation)
    return steering.at(*positions) if positions else steering


def _figures(contrast: Contrast, method: str, seed: int) -> dict[str, float]:
    """AUC and stability of every site, named by the site where there are several."""
    found: dict[str, float] = {}
    for site, rows in contrast.rows.items():
        if min(len(rows.positive), len(rows.negative)) < _FEWEST_TO_JUDGE:
            continue
        judged = judge_direction(
            rows, lambda part: find_direction(part, method, seed), n_bootstrap=_REFITS, seed=seed
        )
        name = f" {site}" if len(contrast.rows) > 1 else ""
        found |= {f"auc{name}": judged.auc.value, f"stability{name}": judged.stability.value}
    return found


def calibrate_on(
    model: Model,
    steering: Steering,
    positive: Prompts,
    negative: Prompts,
    neutral: Prompts | NeutralText | None = None,
    *,
    max_dose: float = 2.0,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Steering:
    """The steering with its dose measured on :func:`neutral_of` these prompts."""
    text = neutral_of(model, positive, negative, neutral, seed)
    return calibrate_dose(
        model, steering, text, max_dose=max_dose, seed=seed, batch_size=batch_size, progress=progress
    )


def neutral_of(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    neutral: Prompts | NeutralText | None = None,
    seed: int = 0,
) -> NeutralText:
    """Neutral text as given, or the default: generated text, or for another vocabulary the prompts of both sides."""
    if neutral is not None or reads_world(model):
        return read_neutral(model, neutral, seed=seed)
    sides = [read_neutral(model, side, n=32) for side in (positive, negative)]
    return NeutralText(sides[0].rows + sides[1].rows, "the contrast's own prompts")
