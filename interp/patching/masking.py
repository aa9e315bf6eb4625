"""Testing a ranking: mask what it puts first, what it puts last, and as much at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError, unknown_name
from interp.models.model import Model
from interp.patching.agreement import N_RESAMPLES, check_confidence, estimate_from
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Cell, columns_of, plan_sweep
from interp.patching.prepared import Prepared, prepare
from interp.results import Estimate, MaskingCheck, PatchScores, Provenance, TokenScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction, parse_site

Group = tuple[Cell, ...]


def check_masking(
    model: Model,
    task: PromptPairs,
    scores: TokenScores | PatchScores,
    *,
    fractions: Sequence[float] = (0.1, 0.25, 0.5),
    site: str | None = None,
    mask_with: Ablation | None = None,
    n_random: int = 8,
    seed: int = 0,
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    confidence: float = 0.95,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> MaskingCheck:
    """Mask the places that an attribution ranks first, and those it ranks last, and compare the damage.

    The question of DiffROAR (Shah, Jain and Netrapalli 2021, arXiv 2102.12781, assumption A): does a
    large score mean that the place matters more than one with a small score? Here the model is run
    as it is, not trained again, so masked inputs are off its training distribution for every ranking
    alike; the random draws show how much that alone costs.

    Tokens (:class:`TokenScores`) are ranked within each prompt by the size of their score and masked
    together; sites (:class:`PatchScores`, one ``site`` of them) are ranked by :meth:`PatchScores.top`
    and patched together in every prompt. At least one place is masked at each of ``fractions``.
    ``mask_with`` is an ablation, by default the one the scores were made with. ``metric`` must be
    given again where it was a function.

    Raises :class:`PatchError` for fractions outside (0, 1], for scores of prompts of other lengths or of
    other sites, and where
    no random set is drawn.
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise PatchError(f"fractions must lie above 0 and up to 1; got {list(fractions)}.")
    if n_random < 1:
        raise PatchError(
            f"check_masking compares with random sets; n_random must be at least 1, got {n_random}."
        )
    check_confidence(confidence)
    made = scores.provenance
    draw = torch.Generator().manual_seed(seed)
    direction: Direction
    if isinstance(scores, TokenScores):
        what, direction = "tokens", "noise" if scores.run == "clean" else "denoise"
        triples = [_token_groups(task, scores, fraction, n_random, draw) for fraction in fractions]
    else:
        what, direction = _one_site(scores, site), "noise" if scores.direction == "noise" else "denoise"
        triples = [_site_groups(model, task, scores, what, f, n_random, draw) for f in fractions]
    groups: list[Group] = [group for triple in triples for group in triple]
    prepared = prepare(
        model,
        task,
        {(cell.component, cell.layer) for group in groups for cell in group},
        direction=direction,
        ablation=mask_with or made.ablation or "source",  # type: ignore[arg-type]
        metric=metric if metric is not None else made.metric,
        reference=reference,
        seed=seed,
        backend=backend,
    )
    damage = _damage(prepared, groups, memory_budget, progress).unflatten(0, (len(fractions), -1))
    most, least, random = damage[:, 0], damage[:, 1], damage[:, 2:]
    return MaskingCheck(
        what=what,
        fractions=tuple(float(fraction) for fraction in fractions),
        most=most,
        least=least,
        random=random,
        gaps=tuple(_estimate(gap, confidence, seed) for gap in most - least),
        confidence=confidence,
        provenance=_provenance(prepared, made),
    )


def _one_site(scores: PatchScores, site: str | None) -> str:
    if site is None and len(scores) != 1:
        raise PatchError(f"these scores have several sites ({', '.join(scores)}); say which with site=...")
    key = next(iter(scores)) if site is None else site
    try:
        return scores[key].site
    except KeyError:
        raise PatchError(unknown_name("site in these scores", key, scores.sites)) from None


def _damage(
    prepared: Prepared, groups: list[Group], budget: int, progress: bool
) -> Float[Tensor, "group prompt"]:
    """Absolute change of the metric from the unpatched run, which is patched nowhere."""
    found = prepared.scores([(), *groups], budget, progress).cpu()
    return (found[1:] - found[0]).abs()


def _token_groups(
    task: PromptPairs, scores: TokenScores, fraction: float, n_random: int, draw: torch.Generator
) -> list[Group]:
    lengths = task.lengths.tolist()
    if [len(row) for row in scores.tokens] != lengths:
        raise PatchError(
            f"the scores are of prompts of {[len(row) for row in scores.tokens][:5]} tokens, the task's have "
            f"{lengths[:5]}; give the task that they were made with."
        )
    sizes = [max(1, round(fraction * n)) for n in lengths]
    order = scores.values.abs().nan_to_num(-1.0).argsort(dim=1, descending=True, stable=True)
    picks = [[row[:size] for row, size in zip(order, sizes, strict=True)]]
    picks.append([row[:n].flip(0)[:size] for row, n, size in zip(order, lengths, sizes, strict=True)])
    for _ in range(n_random):
        shuffled = [torch.randperm(n, generator=draw)[:size] for n, size in zip(lengths, sizes, strict=True)]
        picks.append(shuffled)
    at = columns_of(task).positions
    return [(Cell("embed", 0, None, None, _where(at, rows)),) for rows in picks]


def _where(positions: Tensor, rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.isin(at, picked) for at, picked in zip(positions, rows, strict=True)])


def _site_groups(
    model: Model,
    task: PromptPairs,
    scores: PatchScores,
    site: str,
    fraction: float,
    n_random: int,
    draw: torch.Generator,
) -> list[Group]:
    sweep = plan_sweep(model, task, parse_site(site), scores.direction)
    ranking = scores.magnitudes(site).flatten()
    if len(sweep.cells) != len(ranking):
        raise PatchError(
            f"the scores of {site!r} are of {len(ranking)} places, this model and task have {len(sweep.cells)}; "
            "give those that they were made with."
        )
    n = len(ranking)
    size = max(1, round(fraction * n))
    order = torch.where(ranking.isnan(), -1.0, ranking).argsort(descending=True, stable=True)
    picks = [order[:size], order.flip(0)[:size]]
    picks += [torch.randperm(n, generator=draw)[:size] for _ in range(n_random)]
    return [tuple(sweep.cells[i] for i in picked.tolist()) for picked in picks]


def _estimate(gap: Float[Tensor, " prompt"], confidence: float, seed: int) -> Estimate:
    values = gap.double().numpy()
    draw = np.random.default_rng(seed)
    means = values[draw.integers(0, len(values), (N_RESAMPLES, len(values)))].mean(1)
    return estimate_from(values.mean(), means, confidence)


def _provenance(prepared: Prepared, made: Provenance) -> Provenance:
    found = prepared.provenance(made.method or "exact")
    return replace(
        found, notes=(*found.notes, f"ranked by {made.method}, made with {made.ablation} ablation")
    )
