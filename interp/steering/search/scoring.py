"""Scoring: every candidate by one of the searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.steering_search import BRUTE_FORCE
from interp.steering.neutral import NeutralText, read_neutral, reads_world
from interp.steering.search.brute_force import find_strengths, measure_effects
from interp.steering.search.candidates import Candidates
from interp.steering.search.divergence import score_divergence
from interp.steering.search.gradient import score_gradient
from interp.steering.search.kl_filter import KLFilter, score_filter
from interp.steering.search.objective import Objective, Rows

SEARCHES: Mapping[str, str] = {
    "js": "Jensen-Shannon divergence, nats",
    "gradient": "predicted rise of the objective",
    "kl-filter": "fall of the objective when ablated",
    BRUTE_FORCE: "measured rise of the objective",
}
"""Name of a search -> what its scores are."""


@dataclass(frozen=True, eq=False)
class SearchInputs:
    """What searches score candidates on."""

    model: Model
    positive: Rows
    negative: Rows
    rows: Rows
    """Prompts on which the objective is raised."""
    objective: Objective | None
    text: NeutralText | None
    limits: KLFilter
    batch_size: int
    seed: int


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of candidates by one search; fields as of :class:`SteeringSearch`, candidates in a row."""

    scores: Float[Tensor, "candidate dose"]
    strengths: Float[Tensor, "candidate dose"]
    passed: Bool[Tensor, " candidate"]
    backwards: int = 0
    figures: Mapping[str, Float[Tensor, " candidate"]] = field(default_factory=dict)
    effects: Float[Tensor, "candidate dose prompt"] | None = None


def score_candidates(
    method: str, candidates: Candidates, doses: Sequence[float], inputs: SearchInputs, progress: bool = False
) -> Scored:
    """Score candidates by a search of :data:`SEARCHES`."""
    model, goal, text = inputs.model, inputs.objective, inputs.text
    n, size = len(candidates), inputs.batch_size
    unknown = torch.full((n, len(doses)), torch.nan, dtype=torch.float64)
    everyone = torch.ones(n, dtype=torch.bool)
    if method == "js":
        found = score_divergence(candidates, inputs.seed)
        return Scored(found[:, None].repeat(1, len(doses)), unknown, everyone)
    assert goal is not None and text is not None
    if method == "gradient":
        guess = score_gradient(model, candidates, inputs.rows, goal, text, batch_size=size, seed=inputs.seed)
        figures = {"slope": guess.slopes, "curvature": guess.curvature}
        return Scored(guess.effects(doses), guess.strengths(doses), everyone, guess.backwards, figures)
    if method == "kl-filter":
        filtered = score_filter(
            model,
            candidates,
            inputs.positive,
            inputs.rows,
            goal,
            text,
            inputs.limits,
            batch_size=size,
            progress=progress,
        )
        figures = {"kl": filtered.kl, "inducing": filtered.inducing}
        return Scored(
            filtered.bypass[:, None].repeat(1, len(doses)), unknown, filtered.passed, figures=figures
        )
    strengths = find_strengths(model, candidates, doses, text, batch_size=size, progress=progress)
    effects = measure_effects(
        model, candidates, strengths, inputs.rows, goal, batch_size=size, progress=progress
    )
    return Scored(effects.mean(-1), strengths, everyone, effects=effects)


def neutral_text(
    model: Model,
    neutral: Prompts | NeutralText | None,
    sides: Sequence[Rows],
    n: int,
    seed: int,
) -> NeutralText:
    """Neutral text as given, of the generated world, or for another vocabulary the prompts of both sides."""
    if neutral is not None or reads_world(model):
        return read_neutral(model, neutral, n=n, seed=seed)
    rows = tuple(row for side in sides for row in side[: max(1, n // 2)] if len(row) > 1)
    return NeutralText(rows, "the contrast's own prompts")
