"""Interventions: what to do to an activation, apart from any model.

Each function makes one :class:`Intervention`; :func:`interp.intervene` applies a list of them in
order. A site's head, neurons, positions, rows and subspace bound what is changed::

    zero("z[9.6]")                                   ablate a head
    replace("resid_pre[4]@END", clean_cache)         patch from another run
    add("resid_post[2]@gen", vector)                 steer every generated token
    project(site, direction)                         take a direction out
    scale(Site("mlp_out", 3).within(direction), 2)   double one direction
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InterventionError, SiteError
from interp.models.cache import ActivationCache
from interp.models.positions import Columns, Prompt
from interp.types import Site, SiteLike, parse_sites, whole_site


@dataclass(frozen=True)
class Place:
    """Where a change is being made: the model's layer and the columns of this forward."""

    site: Site
    layer: int
    columns: Columns

    @property
    def batch_axis(self) -> int:
        return 0

    @property
    def pos_axis(self) -> int:
        """Axis of the (destination) position in the part that is changed."""
        if "dest_pos" not in self.site.axes:
            return 1
        return 1 if self.site.head is not None else 2


Change = Callable[[Tensor, Place], tuple[Tensor, Tensor | None]]
"""From the part [batch, pos, (head,) d] to its new value and, if it is not known everywhere, a
mask [batch, pos] of where it is."""


@dataclass(frozen=True)
class Intervention:
    """One change at one site; made by the functions of this module."""

    site: Site
    kind: str
    change: Change

    def __str__(self) -> str:
        return f"{self.kind}({self.site})"


Source = Float[Tensor, "..."] | ActivationCache | float


def _one_site(site: SiteLike) -> Site:
    found = parse_sites(site)
    if len(found) != 1:
        raise SiteError(
            f"{site!r} names {len(found)} sites; make one intervention for each, e.g. "
            f"[interp.zero(s) for s in interp.parse_sites({site!r})]."
        )
    return found[0]


def zero(site: SiteLike) -> Intervention:
    """Set the activation to zero."""
    return Intervention(_one_site(site), "zero", lambda part, place: (torch.zeros_like(part), None))


def replace(site: SiteLike, source: Source) -> Intervention:
    """Set the activation to that of another run, a tensor or a number.

    ``source`` is an :class:`ActivationCache` holding the site, of prompts with the same lengths and
    padding row by row, or a tensor that broadcasts to the part, [batch, pos, (head,) d]. Columns
    beyond the source, as of generated tokens, are left alone.
    """
    return Intervention(_one_site(site), "replace", lambda part, place: _read(source, part, place, "replace"))


def add(site: SiteLike, vector: Source, scale: float = 1.0) -> Intervention:
    """Add ``scale * vector``; ``vector`` as for :func:`replace`."""

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        value, known = _read(vector, part, place, "add")
        return part + scale * value, known

    return Intervention(_one_site(site), "add", change)


def scale(site: SiteLike, factor: float) -> Intervention:
    """Multiply by ``factor``."""
    return Intervention(_one_site(site), "scale", lambda part, place: (part * factor, None))


def clamp(site: SiteLike, min: float | None = None, max: float | None = None) -> Intervention:
    """Keep every entry between ``min`` and ``max``; equal bounds pin it.

    Raises :class:`InterventionError` without a bound or with ``min`` over ``max``.
    """
    if min is None and max is None:
        raise InterventionError("clamp needs min, max or both; got neither.")
    if min is not None and max is not None and min > max:
        raise InterventionError(f"clamp got min {min} above max {max}.")
    return Intervention(_one_site(site), "clamp", lambda part, place: (part.clamp(min, max), None))


def project(site: SiteLike, directions: Float[Tensor, "*k d"], keep: bool = False) -> Intervention:
    """Take the span of ``directions`` out of the activation, or ``keep`` only that span."""
    span = Site("resid_pre").within(directions).subspace
    assert span is not None

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        basis = span.to(part)
        if basis.shape[-1] != part.shape[-1]:
            raise InterventionError(
                f"project at {place.site} got directions of {basis.shape[-1]} entries; the activation has "
                f"{part.shape[-1]}."
            )
        inside = part @ basis.T @ basis
        return (inside if keep else part - inside), None

    return Intervention(_one_site(site), "project", change)


def mean(
    site: SiteLike, data: ActivationCache | Float[Tensor, "..."], per_position: bool = False
) -> Intervention:
    """Set the activation to its mean over ``data``.

    From a cache, the mean is over all real tokens of all rows, or with ``per_position`` over the
    rows at each position (positions beyond the data are left alone). A tensor is the mean itself,
    [(head,) d], or [pos, (head,) d] with ``per_position`` (a pattern's: [pos, (head,) src_pos]).
    """
    found: dict[int, Tensor] = {}

    def means_of(place: Place) -> Tensor:
        if isinstance(data, Tensor):
            return data
        if place.layer not in found:
            found[place.layer] = mean_over(data, place.site, place.layer, per_position)
        return found[place.layer]

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        if "src_pos" in place.site.axes and not per_position:
            raise InterventionError(
                f"the mean of {place.site} is taken per position only (source positions must match); "
                "give per_position=True."
            )
        if "src_pos" in place.site.axes and bool(place.columns.prompt.offsets.any()):
            raise InterventionError(
                f"the mean of {place.site} cannot be set in prompts padded on the left (source positions must "
                "match); pad on the right."
            )
        means = _cut(means_of(place).to(part), place.site, per_position)
        if isinstance(data, Tensor):
            means = _in_subspace(means, place.site)
        if not per_position:
            return _fit(means, part, place, "mean").expand_as(part), None
        at = place.columns.positions.to(part.device)
        known = (at >= 0) & (at < len(means))
        value = means[at.clamp(0, len(means) - 1)]
        if place.pos_axis == 2:
            value = value.transpose(1, 2)
        return _fit(_pad_sources(value, part, place), part, place, "mean"), known

    return Intervention(_one_site(site), "mean", change)


def resample(site: SiteLike, data: ActivationCache, seed: int = 0) -> Intervention:
    """Set the activation to that of another row of ``data``, chosen by ``seed``; never the same row.

    ``data`` needs as many rows and columns as the run, all of one length. Raises
    :class:`InterventionError` for a single row.
    """
    other = other_rows(len(data.tokens), seed)

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        _refuse_other_prompts(data.columns.prompt.select(other), place, "resample")
        value = _whole(data, place.site, place.layer)
        return _fit_columns(value[other.to(value.device)], part, place, "resample")

    return Intervention(_one_site(site), "resample", change)


def apply(site: SiteLike, function: Callable[[Tensor], Tensor]) -> Intervention:
    """Set the activation to ``function(part)``; the part is [batch, pos, (head,) d], new columns only.

    Raises :class:`InterventionError` when the result does not broadcast to the part.
    """
    return Intervention(
        _one_site(site),
        "apply",
        lambda part, place: (_fit(function(part), part, place, "apply").expand_as(part), None),
    )


def other_rows(n: int, seed: int) -> Int[Tensor, " n"]:
    """For each of ``n`` rows a different one, each taken once.

    Raises :class:`InterventionError` for fewer than two rows.
    """
    if n < 2:
        raise InterventionError(f"resampling needs at least two rows to choose from; got {n}.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    other = torch.empty(n, dtype=torch.long)
    other[order] = order.roll(1)
    return other


def _whole(cache: ActivationCache, site: Site, layer: int) -> Tensor:
    """A layer's activation from a cache at all positions: all of it, or the site's part of it."""
    whole = whole_site(site.activation, layer)
    if site.subspace is None:
        try:
            return cache[whole]
        except SiteError:
            pass
    named = site.entries or None
    part = with_fields(whole, head=site.head, subspace=site.subspace)
    part = with_fields(part, **({"neurons": named} if site.latents is None else {"latents": named or ()}))
    return cache[part]


def _cut(value: Tensor, site: Site, has_position: bool) -> Tensor:
    """Cut head and neurons out of a tensor [(pos,) (head,) d] where it holds them all."""
    if site.head is not None and value.ndim == 2 + has_position:
        value = value.select(int(has_position), site.head)
    if site.entries and value.shape[-1] > len(site.entries):
        value = value[..., list(site.entries)]
    return value


def _in_subspace(value: Tensor, site: Site) -> Tensor:
    """An activation that was given as a tensor, in the coordinates of the site's subspace.

    Told apart from coordinates by its size here, before it is fitted: a subspace that is the whole
    space has as many.
    """
    basis = site.subspace
    if basis is None or value.shape[-1] != basis.shape[-1]:
        return value
    return value @ basis.T.to(value)


def mean_over(cache: ActivationCache, site: Site, layer: int, per_position: bool) -> Tensor:
    """Mean of one layer's activation over a cache's real tokens: [(head,) d].

    With ``per_position`` over the rows at each position: [pos, (head,) d]; attention patterns are
    [pos, (head,) src_pos]. Where the cache holds only the site's head or neurons, so does the mean.
    """
    value = _whole(cache, site, layer)
    if "src_pos" in site.axes:
        if cache.attention_mask is not None:
            raise InterventionError("the mean of attention patterns needs data without padding.")
        average = value.mean(0)
        return average if average.ndim == 2 else average.transpose(0, 1)
    columns = cache.columns
    real = columns.real.to(value.device)
    if not per_position:
        return value[real].mean(0)
    at, n = columns.positions.to(value.device)[real], int(columns.prompt.lengths.max())
    # a sum of many half-precision numbers would stop growing
    wide = torch.promote_types(value.dtype, torch.float32)
    total = torch.zeros(n, *value.shape[2:], dtype=wide, device=value.device)
    total.index_add_(0, at, value[real].to(wide))
    count = torch.bincount(at, minlength=n).to(total)
    return (total / count.view(-1, *[1] * (total.ndim - 1))).to(value.dtype)


def _read(source: Source, part: Tensor, place: Place, kind: str) -> tuple[Tensor, Tensor | None]:
    """The source's value for these columns, and where it has one."""
    if isinstance(source, ActivationCache):
        try:
            value = _whole(source, place.site, place.layer)
        except SiteError:
            return _read_position(source, part, place, kind), None
        _refuse_other_prompts(source.columns.prompt, place, kind)
        return _fit_columns(value, part, place, kind)
    if not isinstance(source, Tensor):
        return torch.full_like(part, source), None
    value = source.to(part)
    if value.ndim == len(place.site.axes):
        value = _cut_full(value, place.site)
    value = _in_subspace(value, place.site)
    if value.ndim == part.ndim - 1:
        value = value.unsqueeze(0)
    if value.ndim == part.ndim and value.shape[place.pos_axis] > 1:
        return _fit_columns(value, part, place, kind)
    return _fit(value, part, place, kind).expand_as(part), None


def _read_position(source: ActivationCache, part: Tensor, place: Place, kind: str) -> Tensor:
    """From a cache that holds one position only: its value, for wherever the site lies."""
    embed = place.site.component == "embed"
    value = source[with_fields(place.site, layer=None if embed else place.layer, rows=None)].to(part)
    if value.ndim != part.ndim - 1:
        raise InterventionError(
            f"{kind} at {place.site}: the cache holds these positions only; to read several, capture the site "
            f"without positions."
        )
    value = value.repeat_interleave(place.columns.prompt.repeats, 0).unsqueeze(place.pos_axis)
    return _fit(value, part, place, kind).expand_as(part)


def _refuse_other_prompts(source: Prompt, place: Place, kind: str) -> None:
    """A cache is read column by column, so its prompts must lie where those of the run do."""
    run = place.columns.prompt
    if len(source.lengths) not in (1, run.n_prompts):
        raise InterventionError(
            f"{kind} at {place.site}: the source has {len(source.lengths)} rows, the batch {run.n_prompts}; "
            "they must be equal."
        )
    if source.n_columns != run.n_columns:
        raise InterventionError(
            f"{kind} at {place.site}: the source has {source.n_columns} columns, the prompt {run.n_columns}; "
            "they must be equal."
        )
    times = run.repeats if len(source.lengths) > 1 else 1
    lengths, offsets = (x.repeat_interleave(times) for x in (source.lengths, source.offsets))
    wrong = (lengths != run.lengths) | (offsets != run.offsets)
    if bool(wrong.any()):
        row = int(wrong.int().argmax()) // run.repeats
        raise InterventionError(
            f"{kind} at {place.site}: row {row} of the source is a prompt of another length or padding; prompts "
            "must be of equal length row by row, and padded on the same side."
        )


def _fit_columns(value: Tensor, part: Tensor, place: Place, kind: str) -> tuple[Tensor, Tensor]:
    """A value [batch, pos, ...] of whole prompts cut to this forward's columns, and where it has them."""
    value = value.to(part)
    if value.ndim == len(place.site.axes):
        value = _cut_full(value, place.site)
    if place.columns.prompt.repeats > 1 and len(value) == place.columns.prompt.n_prompts:
        value = value.repeat_interleave(place.columns.prompt.repeats, 0)
    value, known = _align_columns(value, part, place, kind)
    return _fit(value, part, place, kind).expand_as(part), known


def _cut_full(value: Tensor, site: Site) -> Tensor:
    if site.head is not None:
        value = value.select(1 if "src_pos" in site.axes else 2, site.head)
    if site.entries and value.shape[-1] > len(site.entries):
        value = value[..., list(site.entries)]
    return value


def _align_columns(value: Tensor, part: Tensor, place: Place, kind: str) -> tuple[Tensor, Tensor]:
    n_source, columns = value.shape[place.pos_axis], place.columns
    if n_source < columns.prompt.n_columns or (columns.start == 0 and n_source > columns.n):
        raise InterventionError(
            f"{kind} at {place.site}: the source has {n_source} columns, the prompt {columns.prompt.n_columns}; "
            "they must be equal."
        )
    whole = columns.whole.to(part.device)
    known = (whole < n_source).expand(columns.batch, -1)
    value = value.index_select(place.pos_axis, whole.clamp(max=n_source - 1))
    return _pad_sources(value, part, place), known


def _pad_sources(value: Tensor, part: Tensor, place: Place) -> Tensor:
    """Give a pattern zeros for keys that came after it was taken."""
    missing = part.shape[-1] - value.shape[-1]
    if "src_pos" not in place.site.axes or missing <= 0:
        return value
    return torch.nn.functional.pad(value, (0, missing))


def _fit(value: Tensor, part: Tensor, place: Place, kind: str) -> Tensor:
    """``value`` if it broadcasts to the part (through the subspace, if the site has one)."""
    subspace = place.site.subspace
    if subspace is not None and value.shape[-1] == subspace.shape[-1] != part.shape[-1]:
        value = value @ subspace.T.to(value)
    try:
        shape = torch.broadcast_shapes(value.shape, part.shape)
    except RuntimeError:
        shape = None
    if shape != part.shape:
        axes = ", ".join(
            a for a in place.site.axes if not (a in ("head", "kv_head") and place.site.head is not None)
        )
        raise InterventionError(
            f"{kind} at {place.site} got a value of shape {tuple(value.shape)}; it must broadcast to "
            f"[{axes}] = {tuple(part.shape)}."
        )
    return value
