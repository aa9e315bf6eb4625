"""What each input token of each prompt contributes to a metric."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from interp.models.model import Model
from interp.patching.attribution.methods import MethodLike
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.patch import patch
from interp.patching.prepared import check_choice
from interp.patching.readout import Readout
from interp.results import TokenScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Direction

Run = Literal["clean", "corrupted"]
RUNS = get_args(Run)


def attribute_tokens(
    model: Model,
    task: PromptPairs,
    *,
    run: Run = "clean",
    method: MethodLike = "relevance",
    against: Ablation = "zero",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> TokenScores:
    """Score every token of every prompt by what its embedding contributes to the metric.

    A token's score is minus the (estimated, or for ``method="exact"`` true) change of the metric when
    its embedding is replaced: by zeros with ``against="zero"``, where ``attribution`` is gradient
    times input and ``relevance`` layer-wise relevance; by the other prompt's token with ``"source"``;
    by a mean or another prompt's otherwise. Positive speaks for the metric. Position embeddings stay.

    ``run`` says which prompts of the task. ``method`` is any that :func:`interp.patch` takes. The
    result shows itself as coloured text; whether the ranking means anything is for
    :func:`interp.check_masking` to say.

    Example::

        interp.attribute_tokens(model, task)

    Raises as :func:`interp.patch` does.
    """
    check_choice("run", run, RUNS)
    started = time.perf_counter()
    direction: Direction = "noise" if run == "clean" else "denoise"
    scores = patch(
        model,
        task,
        "embed",
        direction=direction,
        method=method,
        ablation=against,
        metric=metric,
        reference=reference,
        seed=seed,
        memory_budget=memory_budget,
        progress=progress,
    )
    found = scores["embed"].per_prompt
    assert found is not None, "patching keeps the scores of single prompts"
    base = _base_metric(found, model, task, run, metric)
    values = base[:, None] - found.T
    inside = torch.arange(values.shape[1])[None] < task.lengths.cpu()[:, None]
    made = replace(
        scores.provenance,
        direction=None,
        seconds=time.perf_counter() - started,
    )
    return TokenScores(
        tokens=_texts(model, task, run),
        values=torch.where(inside, values, torch.nan),
        metric=base,
        run=run,
        provenance=made,
    )


@torch.no_grad()
def _base_metric(
    found: Tensor, model: Model, task: PromptPairs, run: Run, metric: MetricLike | None
) -> Tensor:
    placed = task.to(model.device)
    readout = Readout(placed, resolve_metric(metric, placed))
    readout.take_reference(model)
    tokens = placed.clean if run == "clean" else placed.corrupted
    logits = model(tokens, placed.attention_mask, keep_columns=readout.columns)
    return readout.score(logits, torch.arange(len(placed), device=logits.device)).to(found).cpu()


def _texts(model: Model, task: PromptPairs, run: Run) -> tuple[tuple[str, ...], ...]:
    texts = task.clean_str_tokens if run == "clean" else task.corrupted_str_tokens
    if texts is not None:
        return tuple(tuple(row) for row in texts)
    tokens = task.clean if run == "clean" else task.corrupted
    rows = zip(tokens.cpu(), task.mask.cpu(), strict=True)
    return tuple(tuple(model.to_str_tokens(row[real])) for row, real in rows)
