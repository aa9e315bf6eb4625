"""Patching sets of sites together: sets that are named, all sets of a size, or a greedy chain.

What two sites do together is often not the sum of what each does: one may only read what the other
writes, or stand in for it once it is gone. Every set here is patched and run, nothing is estimated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.members import gather_members, pad_sets
from interp.patching.prepared import check_choice, prepare
from interp.patching.set_runs import SetRuns
from interp.results import SetScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction, Site, SiteLike, parse_sites

SEARCHES = ("exhaustive", "greedy")
MOST_SETS = 2_000_000
"""An exhaustive search over more sets is refused."""


def patch_sets(
    model: Model,
    task: PromptPairs,
    sets: Iterable[SiteLike | Iterable[SiteLike]],
    *,
    direction: Direction = "denoise",
    backend: str = "auto",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> SetScores:
    """Patch the sites of each set together, and each of their cells alone.

    A set is one site or several: ``"z[9.6,9.9]"``, ``["z[9.6]", "resid_pre[2]@END"]``. A site that
    stands for several cells (``"z[2]"``: every head of layer 2) adds all of them to its set; all
    positions are patched together unless a site says which. A single site or string is one set.
    Options are those of :func:`interp.patch`.

    Example::

        scores = interp.patch_sets(model, task, [["z[0.1]", "z[1.0]"], "z[1]"])
        scores.values, scores.interaction

    Raises :class:`SiteError`, :class:`PatchError` or :class:`MetricError` for sites, options and
    metrics that do not fit.
    """
    listed = [sets] if isinstance(sets, str | Site) else list(sets)
    if not listed:
        raise PatchError("no set given; write for example sets=[['z[0.1]', 'z[1.0]']].")
    members, asked = gather_members(model, task, map(parse_sites, listed), direction)
    prepared = prepare(
        model,
        task,
        members.places,
        direction=direction,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
    )
    run = SetRuns(prepared, members, memory_budget, progress)
    rows = pad_sets(asked)
    return run.record(rows, run.score(rows))


def search_sets(
    model: Model,
    task: PromptPairs,
    site: SiteLike | Iterable[SiteLike] = "z",
    size: int = 2,
    *,
    how: str = "exhaustive",
    candidates: int | SiteLike | Iterable[SiteLike] | None = None,
    direction: Direction = "denoise",
    backend: str = "auto",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> SetScores:
    """Patch sets of ``size`` cells of a site together: all pairs of heads, by default.

    ``how="exhaustive"`` runs every set. ``how="greedy"`` begins with the cell of the largest effect
    in magnitude and adds, one at a time, the cell that makes the set's effect largest; every set
    that was tried is returned, and ``path`` numbers those that were kept, the first of one cell.
    Greedy search finds a good chain, not the best set. ``candidates`` narrows the cells to that
    many of the largest effect alone, or to these sites in place of ``site``. Other options are
    those of :func:`interp.patch`; positions are taken together unless the site says which.

    Example::

        scores = interp.search_sets(model, task, "z", candidates=20)
        scores.top(5, by="interaction")

    Raises :class:`PatchError` for a size below 2 or above the number of cells and for an exhaustive
    search over more than 2,000,000 sets, and as :func:`patch_sets` does.
    """
    check_choice("search", how, SEARCHES)
    strongest = candidates if isinstance(candidates, int) else None
    pool = site if candidates is None or isinstance(candidates, int) else candidates
    members, _ = gather_members(model, task, [parse_sites(pool)], direction)
    found = len(members)
    n = found if strongest is None else min(strongest, found)
    _check_size(size, n, found, how)
    prepared = prepare(
        model,
        task,
        members.places,
        direction=direction,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
    )
    run = SetRuns(prepared, members, memory_budget, progress)
    if n < found:
        run.keep_strongest(n)
        run.note(f"candidates: the {n} of {found} cells with the largest effect alone")
    run.note(f"{how} search for sets of {size} among {n} cells")
    if how == "greedy":
        return _grow(run, size)
    rows = _all_sets(n, size)
    return run.record(rows, run.score(rows))


def _grow(run: SetRuns, size: int) -> SetScores:
    """Greedy search: the best single member, then at each step the best one to add."""
    chosen = [run.strongest(run.singles)]
    rows, scores, path = [chosen], [run.singles[chosen]], [0]
    while len(chosen) < size:
        tried = [[*chosen, new] for new in range(len(run.members)) if new not in chosen]
        found = run.score(torch.tensor(tried))
        best = run.strongest(found)
        path.append(len(rows) + best)
        rows += tried
        scores.append(found)
        chosen = tried[best]
    return run.record(pad_sets(rows), torch.cat(scores), path)


def _all_sets(n: int, size: int) -> Int[Tensor, "set size"]:
    flat = itertools.chain.from_iterable(itertools.combinations(range(n), size))
    count = math.comb(n, size) * size
    return torch.from_numpy(np.fromiter(flat, np.int64, count).reshape(-1, size))


def _check_size(size: int, n: int, found: int, how: str) -> None:
    if size < 2:
        raise PatchError(
            f"a set to search for has 2 members or more; got size={size}. Use interp.patch for 1."
        )
    if size > n:
        of = f"{n}" if n == found else f"{n} candidates of {found}"
        raise PatchError(
            f"sets of {size} cannot be drawn from {of} cells; ask for a smaller size or more cells."
        )
    count = math.comb(n, size)
    if how == "exhaustive" and count > MOST_SETS:
        raise PatchError(
            f"{n} cells make {count:,} sets of {size}, more than {MOST_SETS:,}; narrow them with "
            "candidates=20, or search with how='greedy'."
        )
