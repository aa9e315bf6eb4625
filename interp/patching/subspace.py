"""Patching a subspace, and whether its effect may be an illusion.

Makelov, Lange & Nanda, "Is This the Subspace You Are Looking for? An Interpretability Illusion for
Subspace Activation Patching" (2023). A direction ``v`` splits into the part that the next linear
map reads (its row space) and the part it does not (its null space). A patch along ``v`` that does
much more than its row-space part alone, and more than patching everything, works by joining a
direction that varies but is not read to one that is read but does not vary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.models.norms import norm_gain
from interp.models.traits import NormWeights
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.cells import Cell, Sweep, plan_sweep
from interp.patching.prepared import Prepared, prepare
from interp.patching.replacement import Replacement, build_replacement, within_subspace
from interp.results import SubspaceReport
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import PATTERN_COMPONENTS, Direction, Site, SiteLike, parse_site

_RANK_TOLERANCE = 1e-6
"""Directions that a readout shrinks below this share of its largest count as not read."""


@dataclass(frozen=True)
class RowSpace:
    """What the readout of an activation can see: orthonormal directions of the activation."""

    name: str
    basis: Float[Tensor, "rank d"]


def patch_subspace(
    model: Model,
    task: PromptPairs,
    site: SiteLike,
    directions: Float[Tensor, "*k d"] | None = None,
    *,
    direction: Direction = "denoise",
    readout: Float[Tensor, "d m"] | None = None,
    held_out: PromptPairs | None = None,
    metric: MetricLike | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> SubspaceReport:
    """Patch one site within the span of ``directions`` and report whether to believe the effect.

    ``site`` names a layer (and head, for heads); its positions are patched together, all of them
    unless it says which. ``readout`` is the linear map that reads the activation, [d, m]; by
    default W_out for ``mlp_post``, W_O for ``z``, W_in (and W_gate) for ``mlp_in``, and for the residual
    stream everything that later layers and the unembedding read. ``held_out`` repeats the patch on
    other prompts, best of other templates than the directions were found on.

    Raises :class:`PatchError` for a site without a layer or without directions.
    """
    place = parse_site(site)
    if directions is not None:
        place = place.within(directions)
    if place.subspace is None:
        raise PatchError(
            f"patching a subspace of {place} needs directions; give directions=[k, d] or site.within(...)."
        )
    cell = _joint_cell(model, task, place, direction)
    where = {(cell.component, cell.layer)}
    prepared = prepare(model, task, where, direction=direction, metric=metric)
    other = None
    if held_out is not None:
        second = prepare(model, held_out, where, direction=direction, metric=metric)
        other = (second, _joint_cell(model, held_out, place, direction))
    row_space = find_row_space(model, cell, readout)
    return _report(prepared, cell, str(place), row_space, memory_budget, other)


def report_subspaces(
    prepared: Prepared, sweeps: Iterable[Sweep], memory_budget: int
) -> dict[str, SubspaceReport]:
    """A report for each layer (and head) of every sweep within a subspace, its positions together.

    Attention patterns and scores have none: their last axis are positions, not directions.
    """
    found: dict[str, SubspaceReport] = {}
    for sweep in sweeps:
        # what reads a pattern are the values at each position, so nothing of it is dormant
        if sweep.site.subspace is None or sweep.site.component in PATTERN_COMPONENTS:
            continue
        for layer, head in dict.fromkeys((cell.layer, cell.head) for cell in sweep.cells):
            positions = None if sweep.site.each_position else sweep.site.positions
            site = replace(sweep.site, layer=layer, head=head, positions=positions)
            cell = _joint_cell(prepared.model, prepared.task, site, prepared.direction)
            row_space = find_row_space(prepared.model, cell)
            found[str(site)] = _report(prepared, cell, str(site), row_space, memory_budget)
    return found


def _joint_cell(model: Model, task: PromptPairs, site: Site, direction: str) -> Cell:
    """The site as one cell, all its positions patched together."""
    held = site.at("all") if site.positions is None or site.each_position else site
    sweep = plan_sweep(model, task, held, direction)
    if len(sweep.cells) != 1:
        raise PatchError(
            f"a subspace patch is made at one layer (and head); {site} covers {len(sweep.cells)}."
        )
    return sweep.cells[0]


def find_row_space(model: Model, cell: Cell, readout: Float[Tensor, "d m"] | None = None) -> RowSpace:
    """The directions of an activation that what reads it can see.

    With a LayerNorm in between, the mean direction is not seen. Activations that enter a softmax or
    an activation function directly (q, k, mlp_pre ...) are read in full.
    """
    name, maps = ("the given readout", [readout]) if readout is not None else _readers(model, cell)
    if not maps:
        assert cell.subspace is not None
        d = cell.subspace.shape[-1]
        return RowSpace(name, torch.eye(d, dtype=torch.float64))
    gram = torch.stack([_gram(m) for m in maps]).sum(0)
    if cell.component in _RESIDUAL and model.traits.norm == "layernorm":
        centre = torch.eye(len(gram), dtype=gram.dtype) - 1 / len(gram)
        gram = centre @ gram @ centre
    values, vectors = torch.linalg.eigh(gram)
    seen = values > values.max() * _RANK_TOLERANCE**2
    return RowSpace(name, vectors[:, seen].T)


_RESIDUAL = frozenset({"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "result"})


def _gram(weight: Tensor) -> Tensor:
    weight = weight.detach().double().cpu()
    return weight @ weight.T


def _readers(model: Model, cell: Cell) -> tuple[str, list[Tensor]]:
    weights = model.weights
    here = weights.layers[cell.layer]
    if cell.component == "mlp_post" and here.W_out is not None:
        read = here.W_out if cell.neurons is None else here.W_out[list(cell.neurons)]
        return f"W_out of layer {cell.layer}", [read]
    if cell.component == "mlp_in":
        read_by = [weight for weight in (here.W_in, here.W_gate) if weight is not None]
        return f"the MLP of layer {cell.layer}", read_by
    if cell.component == "z" and cell.head is not None:
        return f"W_O of L{cell.layer}H{cell.head}", [here.W_O[cell.head]]
    if cell.component not in _RESIDUAL:
        return f"{cell.component} itself", []
    after = cell.layer + (cell.component in ("resid_post", "mlp_out"))
    own_mlp_only = cell.component in ("resid_mid", "attn_out", "result")
    maps = _scaled(model, weights.ln_final, [weights.W_U])
    for number, layer in enumerate(weights.layers[after:], after):
        if number > cell.layer or not own_mlp_only:
            heads = (layer.W_Q, layer.W_K, layer.W_V)
            maps += _scaled(model, layer.ln1, [w.movedim(1, 0).flatten(1) for w in heads])
        if number > cell.layer or not (own_mlp_only and model.traits.parallel_blocks):
            maps += _scaled(model, layer.ln2, [w for w in (layer.W_in, layer.W_gate) if w is not None])
    if cell.component == "result":
        maps = _scaled(model, here.ln1_post, maps)
    return f"everything read from layer {after} on", maps


def _scaled(model: Model, norm: NormWeights | None, maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps [d, m] that read the activation through a norm, with its gain: a gain of 0 hides a dimension."""
    gain = norm_gain(norm, model.traits)
    return [w if isinstance(gain, float) else gain.to(w)[:, None] * w for w in maps]


def _parts(cell: Cell, row_space: RowSpace) -> list[Cell | None]:
    """The subspace, its row-space part, its null-space part, everything; ``None`` where a part is empty."""
    assert cell.subspace is not None
    basis = cell.subspace.double().cpu()
    inside = basis @ row_space.basis.T @ row_space.basis
    parts = [_span(part) for part in (inside, basis - inside)]
    cells = [None if part is None else replace(cell, subspace=part.to(cell.subspace)) for part in parts]
    return [cell, *cells, replace(cell, subspace=None)]


def _span(directions: Tensor) -> Tensor | None:
    """Orthonormal basis of what ``directions`` span; ``None`` when they vanish."""
    _, sizes, right = torch.linalg.svd(directions, full_matrices=False)
    kept = sizes > 1e-6
    return right[kept] if bool(kept.any()) else None


def _patched(prepared: Prepared, parts: Sequence[Cell | None], memory_budget: int) -> Tensor:
    """Mean metric with each part patched; the base run's where a part is empty."""
    groups = [() if part is None else (part,) for part in parts]
    return prepared.scores(groups, memory_budget, progress=False).mean(1)


def _report(
    prepared: Prepared,
    cell: Cell,
    site: str,
    row_space: RowSpace,
    memory_budget: int,
    held_out: tuple[Prepared, Cell] | None = None,
) -> SubspaceReport:
    assert cell.subspace is not None
    parts = _parts(cell, row_space)
    source, base = _activations(prepared, cell)
    basis = cell.subspace.double().cpu()
    second = None if held_out is None else held_out[0]
    held_raw = None
    if held_out is not None:
        held_raw = _patched(held_out[0], _parts(held_out[1], row_space), memory_budget)
    return SubspaceReport(
        site=site,
        readout=row_space.name,
        dimensions=len(basis),
        raw=_patched(prepared, parts, memory_budget),
        clean=prepared.clean,
        corrupted=prepared.corrupted,
        separability=torch.tensor([_separability(source, base, part) for part in parts]),
        row_space_share=float((basis @ row_space.basis.T).pow(2).sum() / len(basis)),
        readout_z=_readout_z(source, base, basis, row_space),
        provenance=prepared.provenance("exact"),
        held_out_raw=held_raw,
        held_out_clean=None if second is None else second.clean,
        held_out_corrupted=None if second is None else second.corrupted,
    )


def _activations(prepared: Prepared, cell: Cell) -> tuple[Tensor, Tensor]:
    """Activations [n, d] of the source and of the base run at every patched place, in fp64."""
    opposite: Direction = "noise" if prepared.direction == "denoise" else "denoise"
    where = {(cell.component, cell.layer)}
    base_run = build_replacement(prepared.model, prepared.task, where, opposite)

    def at_cell(run: Replacement) -> Tensor:
        value = run.value(cell.component, cell.layer)
        value = value if cell.head is None else value.select(2, cell.head)
        value = value if cell.neurons is None else value[..., list(cell.neurons)]
        return value[cell.where.to(value.device)].double().cpu()

    return at_cell(prepared.replacement), at_cell(base_run)


def _separability(source: Tensor, base: Tensor, part: Cell | None) -> float:
    """Area under the ROC curve of the two runs' activations, projected on the line between their
    means within the part; 0.5 is chance, whichever run is higher."""
    if part is None:
        return float("nan")
    if part.subspace is not None:
        basis = part.subspace.double().cpu()
        source, base = source @ basis.T, base @ basis.T
    line = source.mean(0) - base.mean(0)
    values = torch.cat([source, base]) @ line
    ranks = rankdata(values.numpy())
    n = len(source)
    area = (ranks[:n].sum() - n * (n + 1) / 2) / (n * len(base))
    return float(max(area, 1 - area))


def _readout_z(source: Tensor, base: Tensor, basis: Tensor, row_space: RowSpace) -> float:
    """Mean absolute z-score of the patched activation in the readout's row space, against both
    unpatched runs; directions that do not vary are left out unless the patch moves them."""
    patched = within_subspace(base, source, basis) @ row_space.basis.T
    seen = torch.cat([source, base]) @ row_space.basis.T
    spread = seen.std(0)
    moved = (patched - seen.mean(0)).abs().amax(0) > 1e-9
    kept = (spread > 1e-9) | moved
    z = (patched - seen.mean(0))[:, kept] / spread[kept].clamp(min=1e-9)
    return float(z.abs().mean()) if bool(kept.any()) else 0.0
