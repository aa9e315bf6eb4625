"""Brute force: every candidate at every dose, at equal KL. What the other searches are judged by."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UnreachedDoseError
from interp.models.model import Model
from interp.steering.dose import find_strength
from interp.steering.neutral import NeutralText
from interp.steering.search.candidates import Candidates
from interp.steering.search.objective import Objective, Rows, measure_objective


def find_strengths(
    model: Model,
    candidates: Candidates,
    doses: Sequence[float],
    text: NeutralText,
    *,
    tolerance: float = 0.02,
    batch_size: int = 32,
    progress: bool = False,
) -> Float[Tensor, "candidate dose"]:
    """The strength of every candidate that has each dose on ``text``; NaN where none reaches it."""
    from tqdm.auto import tqdm

    found = torch.full((len(candidates), len(doses)), torch.nan, dtype=torch.float64)
    for number, candidate in enumerate(tqdm(candidates.every, disable=not progress, desc="equal KL")):
        steering = candidate.add()
        for column, dose in enumerate(doses):
            with contextlib.suppress(UnreachedDoseError):
                found[number, column] = find_strength(
                    model, steering, dose, text, tolerance=tolerance, batch_size=batch_size
                )
    return found


def measure_effects(
    model: Model,
    candidates: Candidates,
    strengths: Float[Tensor, "candidate dose"],
    rows: Rows,
    objective: Objective,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Float[Tensor, "candidate dose prompt"]:
    """How far every candidate moves the objective of every prompt; NaN where there is no strength."""
    from tqdm.auto import tqdm

    base = measure_objective(model, rows, objective, batch_size)
    found = torch.full((*strengths.shape, len(rows)), torch.nan, dtype=torch.float64)
    for number, candidate in enumerate(tqdm(candidates.every, disable=not progress, desc="effects")):
        steering = candidate.add()
        for column, strength in enumerate(strengths[number].tolist()):
            if strength == strength:
                with steering.apply(model, strength=strength):
                    found[number, column] = measure_objective(model, rows, objective, batch_size) - base
    return found
