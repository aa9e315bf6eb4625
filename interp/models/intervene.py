"""Intervene: change activations for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InterventionError
from interp.models.capture import head_results, split_heads
from interp.models.hooks import Edit, ForwardTracker, HookEdit, installed_edits, tracked_forwards
from interp.models.interventions import Intervention, Place
from interp.models.model import Model
from interp.models.sites import Tap, expand
from interp.types import Site


@dataclass
class _Count:
    """How many entries one intervention has changed at one tap."""

    intervention: Intervention
    tap: Tap
    touched: int = 0
    fired: bool = False


@contextmanager
def intervene(
    model: Model,
    interventions: Intervention | Sequence[Intervention],
    *,
    labels: Mapping[str, Int[Tensor, "batch"]] | None = None,
) -> Iterator[Model]:
    """Apply ``interventions``, in order, to every forward of ``model`` inside the block.

    They act in plain forwards, under :meth:`Model.generate` with and without a KV cache, with
    gradients, and while the model trains; blocks may be nested, outer ones first. ``labels`` (of a
    task) gives the positions behind names like ``S2``.

    Example::

        with interp.intervene(model, [interp.zero("z[9.6]")]):
            logits = model(tokens)

    Raises :class:`SiteError` for a site this model does not have, and on leaving the block
    :class:`InterventionError` for an intervention that touched nothing.
    """
    if isinstance(interventions, Intervention):
        interventions = [interventions]
    if not interventions:
        raise InterventionError(
            "intervene got no intervention; give at least one, e.g. interp.zero('z[9.6]')."
        )
    counts: list[_Count] = []
    with tracked_forwards(model) as tracker:
        edits: list[HookEdit] = []
        for item in interventions:
            for tap in expand(item.site, model.family, model.traits, model.attached):
                counts.append(_Count(item, tap))
                edits += _edits_for(model, counts[-1], tracker, dict(labels or {}))
        try:
            with installed_edits(model, edits):
                yield model
        finally:
            model.edited_results.clear()
    _refuse_untouched(counts)


def _refuse_untouched(counts: Sequence[_Count]) -> None:
    idle = [count for count in counts if not count.touched]
    if not idle:
        return
    what = ", ".join(sorted({f"{count.intervention} in layer {count.tap.layer}" for count in idle})[:5])
    if not any(count.fired for count in counts):
        raise InterventionError(
            f"no forward pass of the model ran inside the block, so nothing was changed: {what}."
        )
    raise InterventionError(
        f"touched nothing: {what}. Its positions or rows lie outside every prompt that was run; "
        "check them against the prompts' lengths."
    )


def _edits_for(
    model: Model, count: _Count, tracker: ForwardTracker, labels: Mapping[str, Tensor]
) -> list[HookEdit]:
    tap, item = count.tap, count.intervention
    read: dict[str, Tensor] = {}

    def remember(name: str) -> Edit:
        def edit(value: Tensor) -> None:
            read[name] = value

        return edit

    def changed(value: Tensor) -> Tensor:
        count.fired = True
        place = Place(item.site, tap.layer, tracker.columns)
        where = place.columns.select(item.site, labels)
        new, n = change_part(value, item, place, where)
        count.touched += n
        return new

    def direct(value: Tensor) -> Tensor:
        return changed(split_heads(value, tap)).reshape(value.shape)

    def through_attn_out(value: Tensor) -> Tensor:
        base = read.pop("base")
        return attn_out_for(changed(base + value), base, value)

    def begin_result(z: Tensor) -> None:
        model.edited_results.pop(tap.layer, None)
        read["z"] = z

    def through_o(value: Tensor) -> Tensor:
        z = read.pop("z")
        result = model.edited_results.get(tap.layer)
        if result is None:
            result = head_results(model, split_heads(z, tap), tap.layer)
        new = model.edited_results[tap.layer] = changed(result)
        bias = model.weights.layers[tap.layer].b_O
        total = new.sum(dim=2) if bias is None else new.sum(dim=2) + bias
        # the difference keeps the sum of the other heads to the bit; where there are none it is but rounding
        all_changed = (new != result).any(dim=-1).all(dim=2, keepdim=True)
        return torch.where(all_changed, total, value + (new - result).sum(dim=2))

    if tap.how == "through_attn_out":
        assert tap.base is not None
        return [
            HookEdit(tap.base, remember("base"), stage=2),
            HookEdit(tap.write, through_attn_out, tap.stage),
        ]
    if tap.how == "through_o":
        return [HookEdit(tap.read, begin_result, stage=2), HookEdit(tap.write, through_o, tap.stage)]
    return [HookEdit(tap.write, direct, tap.stage)]


def attn_out_for(
    resid_mid: Float[Tensor, "batch pos d_model"],
    resid_pre: Float[Tensor, "batch pos d_model"],
    attn_out: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The attention output that makes the residual stream ``resid_mid``, in value and gradient.

    Unchanged entries stay as they are to the bit, and a zero becomes a zero and no rounding error,
    which the next norm would blow up.
    """
    new = resid_mid - resid_pre
    unchanged = resid_mid == resid_pre + attn_out
    return new + torch.where(unchanged, attn_out - new, 0).detach()


def change_part(value: Tensor, item: Intervention, place: Place, where: Tensor) -> tuple[Tensor, int]:
    """``value`` with the site's part changed where ``where`` [batch, pos] says, and how many
    (row, position) pairs that were."""
    site = item.site
    part = _take(value, site)
    subspace = None if site.subspace is None else site.subspace.to(part)
    if subspace is not None:
        _check_subspace(site, subspace, part)
    coordinates = part if subspace is None else part @ subspace.T
    new, known = item.change(coordinates, place)
    if subspace is not None:
        new = part + (new - coordinates) @ subspace
    where = where.to(value.device)
    if known is not None:
        where = where & known.to(value.device)
    shape = [1] * part.ndim
    shape[0], shape[place.pos_axis] = where.shape
    return _put(value, site, torch.where(where.view(shape), new.to(part.dtype), part)), int(where.sum())


def _check_subspace(site: Site, subspace: Tensor, part: Tensor) -> None:
    if subspace.shape[-1] != part.shape[-1]:
        raise InterventionError(
            f"the subspace of {site} has vectors of {subspace.shape[-1]} entries; the activation has {part.shape[-1]}."
        )


def _head_axis(site: Site) -> int:
    return 1 if "src_pos" in site.axes else 2


def _take(value: Tensor, site: Site) -> Tensor:
    if site.head is not None:
        value = value.select(_head_axis(site), site.head)
    return value[..., list(site.entries)] if site.entries else value


def _put(value: Tensor, site: Site, part: Tensor) -> Tensor:
    if site.head is None and not site.entries:
        return part
    value = value.clone()
    if site.head is not None:
        value.select(_head_axis(site), site.head).copy_(part)
    else:
        value[..., list(site.entries or ())] = part
    return value
