"""Checking an approximate method: exact patching of its top sites and of a random sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.patching.agreement import check_confidence, choose_checked, measure_agreement
from interp.patching.attribution.run import WITHIN
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Sweep, plan_sweep
from interp.patching.prepared import prepare
from interp.results import MethodAgreement, PatchScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import parse_site

_SAME = 1e-3
"""Largest difference of the unpatched metric, as a share of its range, from when scores were made."""


def verify_scores(
    model: Model,
    task: PromptPairs,
    scores: PatchScores,
    *,
    top: int | None = 20,
    sample: int = 20,
    seed: int = 0,
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    patch_seed: int = 0,
    backend: str = "auto",
    confidence: float = 0.95,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> MethodAgreement:
    """Compare approximate scores with exact patching of some of the same sites.

    Checked are the ``top`` sites by the approximation's own ranking and a random ``sample`` of the
    others, drawn by ``seed``; ``top=None`` checks every site. The top ones alone would flatter
    correlations, the random ones alone would miss what matters: both are drawn in the figure. The
    intervals are of resampled sites.

    ``metric``, ``reference`` and ``patch_seed`` are those that the scores were made with; the metric
    is known by its name unless it was a function. :meth:`PatchScores.verify` needs none of them.

    Raises :class:`PatchError` for exact scores, for scores of other prompts or of another model,
    and for sites in a subspace, which a file does not hold.
    """
    made = scores.provenance
    within = [note for note in made.notes if note.startswith(WITHIN)]
    if within:
        raise PatchError(
            f"these scores are {within[0]}; that subspace is not part of the record. Use scores.verify() on the "
            "scores as interp.patch returned them."
        )
    found = metric if metric is not None else made.metric
    sweeps = []
    for key in scores:
        if scores[key].site != key:
            raise PatchError(
                f"scores of {key!r} say they are of {scores[key].site!r}; the record was changed."
            )
        sweep = plan_sweep(model, task, parse_site(key), scores.direction)
        if sweep.shape != tuple(scores[key].raw.shape):
            raise PatchError(
                f"scores of {key!r} have shape {tuple(scores[key].raw.shape)}, but this model and task give "
                f"{sweep.shape}: they were made with another model, other prompts or a subspace."
            )
        sweeps.append(sweep)
    options = {
        "direction": scores.direction,
        "ablation": made.ablation or "source",
        "metric": found,
        "reference": reference,
        "seed": patch_seed,
    }
    return check_against_exact(
        model,
        task,
        sweeps,
        scores,
        top=top,
        sample=sample,
        seed=seed,
        backend=backend,
        confidence=confidence,
        options=options,
        memory_budget=memory_budget,
        progress=progress,
    )


def check_against_exact(
    model: Model,
    task: PromptPairs,
    sweeps: Sequence[Sweep],
    scores: PatchScores,
    *,
    options: Mapping[str, Any],
    top: int | None = 20,
    sample: int = 20,
    seed: int = 0,
    backend: str = "auto",
    confidence: float = 0.95,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> MethodAgreement:
    """As :func:`verify_scores`, with the sweeps and options that the scores were made with."""
    if scores.provenance.method == "exact":
        raise PatchError("these scores are exact; there is nothing to verify.")
    if (top is not None and top < 0) or sample < 0 or top == sample == 0:
        raise PatchError(f"verify needs at least one site to check; got top={top}, sample={sample}.")
    check_confidence(confidence)
    keys = list(scores)
    effects = torch.cat([scores.effects(key).flatten() for key in keys])
    ranking = torch.cat([scores.magnitudes(key).flatten() for key in keys])
    cells = [cell for sweep in sweeps for cell in sweep.cells]
    picked, chosen_as = choose_checked(ranking, top, sample, seed)
    chosen = [cells[i] for i in picked]
    components = {(cell.component, cell.layer) for cell in chosen}
    prepared = prepare(model, task, components, backend=backend, **options)
    exact = prepared.scores([(cell,) for cell in chosen], memory_budget, progress).mean(-1)
    clean, corrupted = prepared.clean, prepared.corrupted
    _refuse_other_prompts(scores, len(task), clean, corrupted)
    base = corrupted if scores.direction == "denoise" else clean
    gap = clean - corrupted
    values = (exact - base) / gap if gap else torch.full_like(exact, float("nan"))
    made = replace(
        scores.provenance,
        backend=prepared.backend,
        backend_reason=prepared.backend_reason,
        notes=(*scores.provenance.notes, f"checked against exact patching ({prepared.backend})"),
    )
    names = _names(scores, keys)
    return measure_agreement(
        [names[i] for i in picked],
        values.cpu(),
        effects[picked],
        made,
        chosen_as=chosen_as,
        ranking=ranking[picked],
        k=top or None,
        n_sites=len(cells),
        confidence=confidence,
        seed=seed,
    )


def _names(scores: PatchScores, keys: Sequence[str]) -> list[str]:
    found = []
    for key in keys:
        part = scores[key]
        for flat in range(part.raw.numel()):
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), part.raw.shape))
            found.append(part.name_at(index))
    return found


def _refuse_other_prompts(scores: PatchScores, n_prompts: int, clean: float, corrupted: float) -> None:
    first = next(iter(scores.values()))
    size = max(abs(clean), abs(corrupted), abs(clean - corrupted), 1e-6)
    if max(abs(first.clean - clean), abs(first.corrupted - corrupted)) > _SAME * size + _half(scores):
        raise PatchError(
            f"these scores were made where the metric was {first.clean:.4g} clean and {first.corrupted:.4g} "
            f"corrupted; here it is {clean:.4g} and {corrupted:.4g}. Give the same model, prompts and metric."
        )

    made = scores.provenance.n_prompts
    if made not in (None, n_prompts):
        raise PatchError(
            f"these scores are of {made} prompt pairs, the task has {n_prompts}; give those that they were made with."
        )


def _half(scores: PatchScores) -> float:
    """Runs in half precision differ by how they are batched."""
    return 0.0 if scores.provenance.dtype in ("float32", "float64") else 0.25
