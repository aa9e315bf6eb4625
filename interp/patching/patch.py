"""``interp.patch``: one call for every sweep over sites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Sweep, plan_sweep
from interp.patching.prepared import BACKENDS, check_choice, prepare
from interp.patching.replacement import check_kind
from interp.patching.subspace import report_subspaces
from interp.results import PatchScores, SiteScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction, SiteLike, parse_sites

METHODS = ("exact",)


def patch(
    model: Model,
    task: PromptPairs,
    sites: SiteLike | Iterable[SiteLike] = ("z", "resid_pre"),
    *,
    direction: Direction = "denoise",
    method: str = "exact",
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
    check_choice("method", method, METHODS)
    check_choice("backend", backend, BACKENDS)
    check_kind(task, ablation)
    sweeps = [plan_sweep(model, task, site, direction) for site in parse_sites(sites)]
    components = {(cell.component, cell.layer) for sweep in sweeps for cell in sweep.cells}
    prepared = prepare(
        model,
        task,
        components,
        direction=direction,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
    )
    groups = [(cell,) for sweep in sweeps for cell in sweep.cells]
    scores = prepared.scores(groups, memory_budget, progress)
    found = {
        str(sweep.site): site_scores(sweep, part, prepared.clean, prepared.corrupted)
        for sweep, part in zip(sweeps, scores.split([len(sweep.cells) for sweep in sweeps]), strict=True)
    }
    reports = report_subspaces(prepared, sweeps, memory_budget)
    return PatchScores(found, prepared.provenance(method), reports)


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
