"""``interp.patch_paths``: what a site does to the metric through chosen receivers alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Cell, plan_sweep
from interp.patching.patch import site_scores
from interp.patching.prepared import check_choice, prepare
from interp.patching.replacement import check_kind
from interp.patching.wavefront import RECEIVERS, Paths
from interp.results import PatchScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction, Site, SiteLike, parse_sites

MLPS = ("frozen", "recomputed")


def patch_paths(
    model: Model,
    task: PromptPairs,
    senders: SiteLike | Iterable[SiteLike],
    receivers: SiteLike | Iterable[SiteLike],
    *,
    mlps: str = "frozen",
    direction: Direction = "denoise",
    backend: str = "auto",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> PatchScores:
    """Patch each sender, but let its change reach the rest of the model through ``receivers`` only.

    ``senders`` are swept over as by :func:`interp.patch` (``"z"``: every head). ``receivers`` are
    what is read from the residual stream: ``q``, ``k``, ``v`` of a head (``"q[9.9]"``; of all heads
    of a layer without a head), ``mlp_pre`` (both branches of a gated MLP), ``resid_pre[L]``, and
    ``resid_post`` of the last layer for the direct path to the logits. All receivers of a call
    receive together, at their own positions, by default everywhere.

    On the way from sender to receivers every attention output is frozen at the base run's; MLPs are
    ``"frozen"`` too (direct paths, as edges of a circuit are) or ``"recomputed"`` (Wang et al. 2023,
    "Interpretability in the Wild", appendix B). From the receivers on all is recomputed. Scores and
    other options are those of :func:`interp.patch`.

    Example::

        scores = interp.patch_paths(model, task, "z", ["q[2.1]@END"])
        scores["z"].values  # [layer, head]

    Raises :class:`PatchError` for receivers that do not read the stream, and as :func:`interp.patch`.
    """
    check_choice("mlps", mlps, MLPS)
    check_kind(task, ablation)
    sweeps = [plan_sweep(model, task, site, direction) for site in parse_sites(senders)]
    ends = Paths(
        tuple(cell for site in parse_sites(receivers) for cell in _receivers(model, task, site, direction)),
        mlps == "recomputed",
    )
    cells = [cell for sweep in sweeps for cell in sweep.cells]
    prepared = prepare(
        model,
        task,
        {(cell.component, cell.layer) for cell in cells},
        direction=direction,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
    )
    scores = prepared.scores_along(cells, ends, memory_budget, progress)
    parts = scores.split([len(sweep.cells) for sweep in sweeps])
    found = {
        str(sweep.site): site_scores(sweep, part, prepared.clean, prepared.corrupted)
        for sweep, part in zip(sweeps, parts, strict=True)
    }
    named = ", ".join(str(site) for site in parse_sites(receivers))
    return PatchScores(found, prepared.provenance("path", (f"received by {named}; MLPs between {mlps}",)))


def _receivers(model: Model, task: PromptPairs, site: Site, direction: Direction) -> list[Cell]:
    """The cells of one receiver, its positions together."""
    if site.component not in RECEIVERS:
        raise PatchError(
            f"{site} does not read the residual stream, so no path ends there; receivers are "
            f"{', '.join(RECEIVERS)}. A head receives through its q, k and v, an MLP through mlp_pre."
        )
    if site.layer is None or site.subspace is not None or site.each_position:
        raise PatchError(
            f"receiver {site} must name one layer, and no subspace; for example q[9.9], v[5.5]@END or "
            f"resid_post[{model.traits.n_layers - 1}] for the logits."
        )
    if site.component == "resid_post" and site.layer < model.traits.n_layers - 1:
        # one place of the stream has one name here
        site = replace(site, component="resid_pre", layer=site.layer + 1)
    held = site if site.positions is not None else site.at("all")
    cells = list(plan_sweep(model, task, held, direction).cells)
    if site.component == "mlp_pre" and model.traits.gated_mlp and site.neurons is None:
        cells += plan_sweep(model, task, replace(held, component="mlp_pre_linear"), direction).cells
    return cells
