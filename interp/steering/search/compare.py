"""How well cheap searches choose: their scores against brute force, on prompts that none of them saw."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.steering_search import BRUTE_FORCE, SearchComparison, SteeringSearch
from interp.steering.neutral import NeutralText
from interp.steering.search.agreement import rank_correlations, regrets, top_overlaps, with_interval
from interp.steering.search.brute_force import measure_effects
from interp.steering.search.candidates import Positions, read_candidates
from interp.steering.search.objective import Objective, Rows, read_objective, read_rows
from interp.steering.search.scoring import SEARCHES, neutral_text
from interp.steering.search.search import are_pairs, read_sides, search_steering
from interp.types import SiteLike, parse_sites

_RESAMPLES = 1000


def compare_searches(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    sites: SiteLike | Iterable[SiteLike] = "resid_post",
    positions: Sequence[Positions] = ("all", -1),
    dose: float = 0.3,
    methods: Sequence[str] = tuple(SEARCHES),
    objective: Objective | str | None = None,
    prompts: Prompts | None = None,
    judge_share: float = 0.5,
    k: int = 3,
    neutral: Prompts | NeutralText | None = None,
    n_neutral: int = 32,
    confidence: float = 0.95,
    paired: bool | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> SearchComparison:
    """Search by several methods, and judge what each chooses by its effect at equal KL on other prompts.

    ``prompts`` (by default the negative ones) are parted: searches see some, a share of ``judge_share`` judges.
    Brute force is always among the methods. Regret is 1 minus the effect of the method's choice over that of the
    best candidate; with a rank correlation and the overlap of the first ``k``, it has percentile intervals over
    prompts that judge. The best candidate of a resample is the best there, so intervals of regret lie a little
    high. ``options`` go to :func:`search_steering`.

    Raises :class:`SteeringError` as it does, and for too few prompts to part.
    """
    names = tuple(dict.fromkeys([*methods, BRUTE_FORCE]))
    for name in names:
        if name not in SEARCHES:
            raise SteeringError(unknown_name("search", name, SEARCHES))
    if not 0 < confidence < 1 or k < 1:
        raise SteeringError(f"confidence lies between 0 and 1 and k is at least 1; got {confidence}, {k}.")
    begun = time.perf_counter()
    sites, positions = parse_sites(sites), tuple(positions)  # read by every search
    goal = read_objective(model, objective)
    p, n = read_sides(model, positive, negative)
    paired = are_pairs(positive, p, n) if paired is None else paired
    rows = n if prompts is None else read_rows(model, prompts, "judged")
    searching, judging = _part(rows, judge_share, seed)
    text = neutral_text(model, neutral, (p, n), n_neutral, seed)
    shared: dict[str, Any] = dict(paired=paired, batch_size=batch_size, seed=seed, progress=progress)
    found = {
        name: search_steering(
            model, p, n, sites=sites, positions=positions, doses=(dose,), method=name, objective=goal,
            prompts=searching, neutral=text, **shared, **options,
        )
        for name in names
    }  # fmt: skip
    candidates = read_candidates(model, p, n, sites, positions, **shared, **_reading(options))
    strengths = found[BRUTE_FORCE].strengths[..., 0].reshape(-1, 1)
    judged = measure_effects(
        model, candidates, strengths, judging, goal, batch_size=batch_size, progress=progress
    )[:, 0]
    if not bool(judged.isfinite().any()):
        raise SteeringError(f"no candidate reaches {dose:g} nats; ask for a smaller dose.")
    return _compare(found, judged, dose, k, confidence, seed, objective, time.perf_counter() - begun)


def _part(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Prompts to search with, and a share that judges."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    n_judge = round(share * len(rows))
    if not 0 < n_judge < len(rows):
        raise SteeringError(f"{len(rows)} prompts cannot be parted with a share of {share} that judge.")
    return [rows[i] for i in order[n_judge:]], [rows[i] for i in order[:n_judge]]


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """Those options of a search that say which candidates there are."""
    return {name: options[name] for name in ("at", "act_where_read", "extraction") if name in options}


def _compare(
    found: dict[str, SteeringSearch],
    judged: Float[Tensor, "candidate prompt"],
    dose: float,
    k: int,
    confidence: float,
    seed: int,
    objective: object,
    seconds: float,
) -> SearchComparison:
    first = next(iter(found.values()))
    shape = (len(first.sites), len(first.positions))
    effects = judged.numpy()
    draws = np.random.default_rng(seed).integers(0, effects.shape[1], (_RESAMPLES, effects.shape[1]))
    means = np.concatenate([effects.mean(1)[None], effects[:, draws].mean(-1).T])
    tables = []
    for one in found.values():
        scores, passed = one.scores[..., 0].flatten().double().numpy(), one.passed.flatten().numpy()
        tables.append(
            (
                with_interval(rank_correlations(means, scores), confidence),
                with_interval(regrets(means, np.where(passed, scores, np.nan)), confidence),
                with_interval(top_overlaps(means, np.where(passed, scores, np.nan), k), confidence),
            )
        )
    with np.errstate(invalid="ignore"):
        best = np.nanmax(means, axis=1)
        any_regret = np.where(best > 0, 1 - np.nanmean(means, axis=1) / best, np.nan)
    spearman, regret, overlap = zip(*tables, strict=True)
    return SearchComparison(
        methods=tuple(found),
        sites=first.sites,
        positions=first.positions,
        dose=dose,
        scores=torch.stack([one.scores[..., 0].double() for one in found.values()]),
        passed=torch.stack([one.passed for one in found.values()]),
        judged=judged.reshape(*shape, -1),
        spearman=spearman,
        regret=regret,
        top_overlap=overlap,
        any_regret=with_interval(any_regret, confidence),
        k=min(k, len(effects)),
        forwards=tuple(one.forwards for one in found.values()),
        backwards=tuple(one.backwards for one in found.values()),
        seconds=tuple(float(one.provenance.seconds or 0.0) for one in found.values()),
        confidence=confidence,
        provenance=replace(
            first.provenance,
            task=objective if isinstance(objective, str) else first.provenance.task,
            n_prompts=effects.shape[1],
            method=None,
            seconds=seconds,
        ),
    )
