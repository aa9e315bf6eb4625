"""Heads over the training checkpoints of one model: which appear, strengthen, weaken and vanish.

Induction heads appear within a short span of training, and the model's in-context learning with them (Olsson et al.
2022, "In-context Learning and Induction Heads", arXiv 2209.11895); over longer training single heads of a circuit may
be replaced while the algorithm stays (Tigges et al. 2024, "LLM Circuit Analyses Are Consistent Across Training and
Scale", arXiv 2407.10827).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.score import score_edges
from interp.errors import CircuitError
from interp.lenses import score_heads
from interp.models.checkpoints import list_checkpoints, load_checkpoint
from interp.models.load import load_model
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.patch import patch
from interp.patching.readout import Readout
from interp.results import EdgeScores, HeadDevelopment, HeadScores, Provenance
from interp.results.checkpoints import EFFECT
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.tasks.registry import load as load_task
from interp.types import Ablation

Source = Model | str | Path | Callable[[], Model]
"""A loaded model, what :func:`interp.load_model` takes, or a function that loads one when it is asked to."""
Checkpoints = str | Path | Sequence[Source] | Mapping[int, Source]

ROLES = ("previous_token", "duplicate_token", "induction")


def compare_checkpoints(
    checkpoints: Checkpoints,
    task: PromptPairs | str = "induction",
    *,
    n: int = 32,
    roles: Sequence[str] = ROLES,
    edges: str | None = None,
    threshold: float = 0.1,
    role_threshold: float = 0.3,
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> HeadDevelopment:
    """Score every head at every checkpoint of one model, and say what becomes of each.

    ``checkpoints`` is a bundled model or a folder with checkpoints (``"induction-2l"``), or models by their
    training step, where a function is called only when its turn comes, so that one model at a time is in
    memory: ``{1000: lambda: interp.load_model("EleutherAI/pythia-70m", revision="step1000"), ...}``. A sequence is
    numbered 0, 1, 2 ...

    All checkpoints see the same prompts: ``task`` itself, or ``n`` of a task by name. A head's effect is exact: its
    output is replaced by that of the corrupted run (or by ``ablation``), at all positions, and the metric lost is
    given as a share of the largest gap between clean and corrupted at any checkpoint. Roles are those of
    :func:`interp.score_heads`; none are scored with ``roles=()``. ``edges`` is a method of
    :func:`interp.score_edges` to score edges with, too. A head is taken to have an effect from ``threshold``,
    and to play a role from a mean attention of ``role_threshold``: see :class:`HeadDevelopment`.

    Example::

        interp.compare_checkpoints("induction-2l").heads_frame("induction")

    Raises :class:`CircuitError` for fewer than two checkpoints, for steps that do not rise, for models of different
    shapes and for thresholds that are not positive.
    """
    started = time.perf_counter()
    if threshold <= 0 or role_threshold <= 0:
        raise CircuitError(f"thresholds must be above 0; got {threshold} and {role_threshold}.")
    sources = _by_step(checkpoints)
    options: dict[str, Any] = {
        "ablation": ablation,
        "metric": metric,
        "seed": seed,
        "memory_budget": memory_budget,
    }
    found: list[_Scored] = []
    for _, model in _load_in_turn(sources, progress):
        if isinstance(task, str):
            task = load_task(task, model, n=n, seed=seed)
        if found and found[0].shape != (model.traits.n_layers, model.traits.n_heads):
            raise CircuitError(
                f"{model.name!r} has (layers, heads) {(model.traits.n_layers, model.traits.n_heads)}, the checkpoint "
                f"before {found[0].shape}; give checkpoints of one model."
            )
        scored = _score(model, task, roles, edges, options, backend)
        found.append(scored)
        # the next one is loaded into the room of this one
        del model
    return _record(found, tuple(sources), threshold, role_threshold, started)


def _by_step(checkpoints: Checkpoints) -> dict[int, Source]:
    if isinstance(checkpoints, str | Path):
        sources: dict[int, Source] = {
            one.step: partial(load_checkpoint, one) for one in list_checkpoints(checkpoints)
        }
    elif isinstance(checkpoints, Mapping):
        sources = dict(checkpoints)
    else:
        sources = dict(enumerate(checkpoints))
    steps = list(sources)
    if len(steps) < 2 or steps != sorted(steps):
        raise CircuitError(f"give at least two checkpoints, by rising training step; got steps {steps}.")
    return sources


def _load_in_turn(sources: Mapping[int, Source], progress: bool) -> Iterator[tuple[int, Model]]:
    for step, source in tqdm(sources.items(), desc="checkpoints", unit="checkpoint", disable=not progress):
        yield step, source() if callable(source) and not isinstance(source, Model) else load_model(source)
        # a wrapped model refers to itself, so it stays until it is looked for
        gc.collect()


@dataclass(frozen=True)
class _Scored:
    """One checkpoint. Effects are in the metric's units."""

    shape: tuple[int, int]
    clean: float
    corrupted: float
    accuracy: float
    effect: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]
    roles: HeadScores | None
    edges: EdgeScores | None
    provenance: Provenance


def _score(
    model: Model,
    task: PromptPairs,
    roles: Sequence[str],
    edges: str | None,
    options: dict[str, Any],
    backend: str,
) -> _Scored:
    scores = patch(model, task, "z", direction="noise", backend=backend, progress=False, **options)
    patched = scores["z"].per_prompt
    assert patched is not None, "exact patching scores every prompt"
    clean = _score_clean(model, task, options["metric"])
    lost = clean - patched.cpu()
    return _Scored(
        shape=(model.traits.n_layers, model.traits.n_heads),
        clean=scores["z"].clean,
        corrupted=scores["z"].corrupted,
        accuracy=float(_score_clean(model, task, "accuracy").mean()),
        effect=lost.mean(-1),
        error=lost.std(-1) / len(task) ** 0.5,
        roles=score_heads(model, roles=roles, seed=options["seed"]) if roles else None,
        edges=None if edges is None else _score_edges(model, task, edges, options),
        provenance=scores.provenance,
    )


@torch.no_grad()
def _score_clean(model: Model, task: PromptPairs, metric: MetricLike | None) -> Float[Tensor, " prompt"]:
    """The metric of every clean prompt."""
    task = task.to(model.device)
    readout = Readout(task, resolve_metric(metric, task))
    readout.take_reference(model)
    logits = model(task.clean, task.attention_mask, keep_columns=readout.columns)
    return readout.score(logits, torch.arange(len(task), device=model.device)).float().cpu()


def _score_edges(model: Model, task: PromptPairs, method: str, options: dict[str, Any]) -> EdgeScores:
    return score_edges(model, task, method=method, direction="noise", progress=False, **options)


def _record(
    found: Sequence[_Scored],
    steps: tuple[int, ...],
    threshold: float,
    role_threshold: float,
    started: float,
) -> HeadDevelopment:
    gap = max((one.clean - one.corrupted for one in found), key=abs)
    if gap == 0:
        raise CircuitError(
            "the clean and the corrupted metric are equal at every checkpoint: there is no effect to find."
        )
    scores = {EFFECT: torch.stack([one.effect for one in found]) / gap}
    thresholds = {EFFECT: threshold}
    definitions: dict[str, str] = {}
    first = found[0]
    if first.roles is not None:
        for role, what in first.roles.roles.items():
            scores[role] = torch.stack([one.roles[role] for one in found if one.roles is not None])
            thresholds[role] = role_threshold
            definitions[role] = what.definition
    edges = [one.edges for one in found if one.edges is not None]
    last = found[-1].provenance
    return HeadDevelopment(
        steps=torch.tensor(steps),
        clean=torch.tensor([one.clean for one in found]),
        corrupted=torch.tensor([one.corrupted for one in found]),
        accuracy=torch.tensor([one.accuracy for one in found]),
        scores=scores,
        errors=torch.stack([one.error for one in found]) / abs(gap),
        thresholds=thresholds,
        gap=gap,
        provenance=replace(
            last,
            model=last.model.removesuffix(f" step {steps[-1]}"),
            revision=None,
            seconds=time.perf_counter() - started,
            notes=tuple(dict.fromkeys(note for one in found for note in one.provenance.notes)),
        ),
        roles=definitions,
        graph=edges[0].graph if edges else None,
        edges=torch.stack([-one.effects.float().cpu() / gap for one in edges]) if edges else None,
    )
