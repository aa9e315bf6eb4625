"""``interp.patch``: one call for every sweep over sites."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TypedDict, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.patching.attribution.methods import Method, MethodLike, resolve_method
from interp.patching.attribution.run import attribute
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Sweep, plan_sweep
from interp.patching.prepared import BACKENDS, check_choice, make_provenance, prepare
from interp.patching.replacement import check_kind
from interp.patching.subspace import report_subspaces
from interp.patching.verify import check_against_exact
from interp.results import PatchScores, SiteScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Direction, Site, SiteLike, parse_sites


def patch(
    model: Model,
    task: PromptPairs,
    sites: SiteLike | Iterable[SiteLike] = ("z", "resid_pre"),
    *,
    direction: Direction = "denoise",
    method: MethodLike = "exact",
    backend: str = "auto",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> PatchScores:
    """Replace the activation at each site, one at a time, and score what becomes of the metric.

    ``direction="denoise"`` puts clean activations into the corrupted run, ``"noise"`` corrupted
    ones into the clean run; recovered scores are 0 = corrupted and 1 = clean in both. What a site
    without parts sweeps over: heads over layer x head (all positions together), ``@pos`` adds each
    position; residual and sublayer outputs over layer x position, ``@all`` takes positions
    together; ``mlp_post.n*`` over layer x neuron. A site restricted to a subspace
    (:meth:`Site.within`) comes with a report on whether its effect may be an illusion.

    ``ablation`` replaces the source run's activation by zeros, by a mean over ``reference``
    (default: the source run's own prompts) or by another prompt's. ``metric`` is a name, a
    :class:`Metric` or a function of logits [batch, pos, d_vocab]; by default the task's own, else
    the logit difference at the last position, averaged over prompts.

    ``method="exact"`` runs every patch. The others estimate all of them from a few passes and can be
    checked against exact patching by :meth:`PatchScores.verify`: ``"attribution"`` (first order),
    ``"attribution*"`` (AtP*), ``"ig"`` (integrated gradients), ``"relevance"`` (RelP); see
    :mod:`interp.patching.attribution.methods` for what each is, and for the objects with options
    that may be given instead of a name.

    ``backend="auto"`` takes the wavefront engine (:mod:`interp.patching.wavefront`) where its block
    functions give the model's own logits, and hooks elsewhere; the scores are the same up to rounding,
    and the provenance says which it was and why. ``memory_budget`` bounds the bytes of activations
    held at once, on a CPU or GPU; it changes no number.

    Where prompts are of unequal length, position p is each prompt's own p-th token, and prompts
    that have none keep their base metric there.

    Example::

        scores = interp.patch(model, task, sites=["z", "resid_pre"])
        scores["z"].values

    Raises :class:`SiteError`, :class:`PatchError` or :class:`MetricError` for sites, options and
    metrics that do not fit. An interrupt returns nothing and leaves no hook behind.
    """
    check_choice("direction", direction, get_args(Direction))
    approximation = resolve_method(method)
    check_choice("backend", backend, BACKENDS)
    check_kind(task, ablation)
    sweeps = [plan_sweep(model, task, site, direction) for site in _each_once(parse_sites(sites))]
    options: _Options = {
        "direction": direction,
        "ablation": ablation,
        "metric": metric,
        "reference": reference,
        "seed": seed,
    }
    if approximation is not None:
        if backend != "auto":
            raise PatchError(
                f"backend={backend!r} says how exact patching runs; method={approximation.label!r} has none."
            )
        return _estimate(model, task, sweeps, approximation, options, memory_budget, progress)
    components = {(cell.component, cell.layer) for sweep in sweeps for cell in sweep.cells}
    prepared = prepare(model, task, components, backend=backend, **options)
    groups = [(cell,) for sweep in sweeps for cell in sweep.cells]
    scores = prepared.scores(groups, memory_budget, progress)
    found = {
        str(sweep.site): site_scores(sweep, part, prepared.clean, prepared.corrupted)
        for sweep, part in zip(sweeps, scores.split([len(sweep.cells) for sweep in sweeps]), strict=True)
    }
    reports = report_subspaces(prepared, sweeps, memory_budget)
    return PatchScores(found, prepared.provenance("exact"), reports)


def _each_once(sites: list[Site]) -> list[Site]:
    """The sites without repetition. Raises :class:`PatchError` where two different ones are written alike."""
    different = list(dict.fromkeys(sites))
    written = [str(site) for site in different]
    twice = sorted({text for text in written if written.count(text) > 1})
    if twice:
        raise PatchError(
            f"two different sites are written {twice[0]!r}, for a subspace has no spelling, and their scores would "
            "stand under one name; patch them in two calls."
        )
    return different


class _Options(TypedDict):
    direction: Direction
    ablation: Ablation
    metric: MetricLike | None
    reference: PromptPairs | Tensor | None
    seed: int


def _estimate(
    model: Model,
    task: PromptPairs,
    sweeps: list[Sweep],
    method: Method,
    options: _Options,
    memory_budget: int,
    progress: bool,
) -> PatchScores:
    started = time.perf_counter()
    metric = resolve_metric(options["metric"], task)
    bound = {name: value for name, value in options.items() if name != "metric"}
    found = attribute(
        model,
        task,
        sweeps,
        method,
        metric,
        memory_budget=memory_budget,
        progress=progress,
        **bound,  # type: ignore[arg-type]
    )
    clean, corrupted = float(found.clean.mean()), float(found.corrupted.mean())
    scores: dict[str, SiteScores] = {}
    for index, sweep in enumerate(sweeps):
        part = site_scores(sweep, found.scores[index], clean, corrupted)
        if found.magnitudes is not None:
            size = found.magnitudes[index].mean(-1)
            nothing = torch.full_like(size, float("nan"))
            part = replace(part, magnitude=nothing if clean == corrupted else size / abs(clean - corrupted))
        scores[part.site] = part
    provenance = make_provenance(
        model,
        task,
        (clean, corrupted),
        started=started,
        metric=metric.name,
        method=method.label,
        direction=options["direction"],
        ablation=options["ablation"],
        notes=found.notes,
    )
    exactly = partial(check_against_exact, model, task, sweeps, options=options, memory_budget=memory_budget)
    return PatchScores(scores, provenance, gaps=found.gaps, exactly=exactly)


def site_scores(
    sweep: Sweep, scores: Float[Tensor, "cell prompt"], clean: float, corrupted: float
) -> SiteScores:
    """Scores of a sweep's cells on the axes that the sweep lays them out on."""
    per_prompt = scores.view(*sweep.shape, -1)
    return SiteScores(
        site=str(sweep.site),
        component=sweep.site.component,
        axes=sweep.axes,
        labels=sweep.labels,
        raw=per_prompt.mean(-1),
        clean=clean,
        corrupted=corrupted,
        per_prompt=per_prompt,
    )
