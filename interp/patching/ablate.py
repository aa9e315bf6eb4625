"""Taking several sites away together, and whether that does more than random sets would."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Cell, plan_sweep
from interp.patching.prepared import prepare
from interp.results import AblationCheck, PatchScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Site, SiteLike, parse_site, parse_sites


def check_ablation(
    model: Model,
    task: PromptPairs,
    chosen: PatchScores | SiteLike | Iterable[SiteLike],
    *,
    k: int = 5,
    site: str = "z",
    n_random: int = 50,
    ablation: Ablation = "mean-per-position",
    reference: PromptPairs | Tensor | None = None,
    metric: MetricLike | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> AblationCheck:
    """Ablate chosen sites together in the clean run, beside ``n_random`` sets of as many others.

    ``chosen`` is a patching result, whose ``k`` strongest entries of ``site`` are taken, or sites
    like ``["z[2.0]", "z[3.1]"]``. Random sets are drawn without the chosen ones from the same sweep
    (all heads, for ``z``). If the chosen sites carry the behaviour, the metric falls to the
    corrupted run's and random sets leave it near the clean one's. The mean is over ``reference``,
    by default the task's corrupted prompts.

    Raises :class:`PatchError` when there are not as many other sites to draw from.
    """
    cells, others = (
        _split_by_scores(model, task, chosen, k, site)
        if isinstance(chosen, PatchScores)
        else (_split_by_sites(model, task, parse_sites(chosen)))
    )
    if len(others) < len(cells):
        raise PatchError(
            f"{len(cells)} sites are ablated, but only {len(others)} others are left to draw random sets from; "
            "choose fewer."
        )
    draw = torch.Generator().manual_seed(seed)
    random = [_draw(others, len(cells), draw) for _ in range(n_random)]
    prepared = prepare(
        model,
        task,
        {(cell.component, cell.layer) for cell in (*cells, *others)},
        direction="noise",
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
    )
    scores = prepared.scores([cells, *random], memory_budget, progress).mean(1)
    return AblationCheck(
        names=tuple(map(str, cells)),
        clean=prepared.clean,
        corrupted=prepared.corrupted,
        ablated=float(scores[0]),
        random=scores[1:],
        random_names=tuple(tuple(map(str, group)) for group in random),
        provenance=prepared.provenance(
            "ablation", notes=("random sets are drawn from the sites not chosen",)
        ),
    )


def _split_by_scores(
    model: Model, task: PromptPairs, scores: PatchScores, k: int, site: str
) -> tuple[list[Cell], list[Cell]]:
    """The strongest ``k`` cells of one site's sweep, and the rest of that sweep."""
    swept = plan_sweep(model, task, parse_site(scores[site].site), "noise")
    strong = {row.index for row in scores.top(k, scores[site].site)}
    places = list(itertools.product(*map(range, swept.shape)))
    chosen = [cell for place, cell in zip(places, swept.cells, strict=True) if place in strong]
    return chosen, [cell for place, cell in zip(places, swept.cells, strict=True) if place not in strong]


def _split_by_sites(model: Model, task: PromptPairs, sites: list[Site]) -> tuple[list[Cell], list[Cell]]:
    """The cells of these sites, and all other cells of the same components and positions."""
    cells = [cell for site in sites for cell in plan_sweep(model, task, site, "noise").cells]
    taken = {_identity(cell) for cell in cells}
    wide = {replace(site, layer=None, head=None, neurons=() if site.neurons else None) for site in sites}
    pool = [cell for site in wide for cell in plan_sweep(model, task, site, "noise").cells]
    return cells, [cell for cell in pool if _identity(cell) not in taken]


def _identity(cell: Cell) -> tuple[Cell, bytes]:
    return cell, cell.where.cpu().numpy().tobytes()


def _draw(cells: list[Cell], n: int, generator: torch.Generator) -> list[Cell]:
    return [cells[i] for i in torch.randperm(len(cells), generator=generator)[:n].tolist()]
