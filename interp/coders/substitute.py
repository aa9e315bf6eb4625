"""Substitute: run a model with activations replaced by what coders make of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.wiring import Coders, Wiring, dtype_of, run_coder, wire
from interp.errors import CoderError
from interp.models.attached import LatentPoint, attached_latents
from interp.models.cache import ActivationCache
from interp.models.hooks import Edit, HookEdit, installed_edits
from interp.models.intervene import intervene
from interp.models.interventions import Change, Intervention, Place, add
from interp.models.model import Model
from interp.models.sites import tap
from interp.types import Position, Site, parse_site

_AFTER_EDITS = 3
"""A coder reads an input as it is after all interventions on it."""


@contextmanager
def substitute(
    model: Model,
    coders: Coders,
    *,
    keep_error: bool = True,
    frozen_error: ActivationCache | None = None,
    positions: str | None = None,
    any_site: bool = False,
) -> Iterator[Model]:
    """Replace activations by coders' outputs in every forward of ``model`` inside the block.

    ``coders`` maps sites to coders (``{"mlp_out[2]": coder}``), or is a coder, or several, that know
    their sites. An autoencoder's site is replaced by its reconstruction; a transcoder reads its input
    in the same forward and replaces its target, skip connection included; a cross-layer transcoder
    replaces its targets layer by layer, each from the latents of all layers read so far. ``z[2]`` is
    all heads side by side.

    With ``keep_error`` what the coder misses, taken anew in every forward, is added back, so nothing
    changes, to the bit, until latents are edited; a changed latent moves the output by its decoder row.
    Gradients are those of the computation as it runs. ``frozen_error``, instead, adds the error of
    another run, a constant: an :class:`ActivationCache` that holds all that the coders read and
    replace, of prompts of the same lengths (Marks et al. 2024, arXiv 2403.19647); generated tokens have none.

    Inside the block a coder's latents are a site, named after what it replaces::

        with interp.substitute(model, {"mlp_out[2]": coder}):
            cache = interp.capture(model, tokens, "mlp_out[2]:latent*")       # [batch, pos, d_sae]
            with interp.intervene(model, interp.zero("mlp_out[2]:latent17")):
                logits = model(tokens)

    Interventions entered before the block act on what a coder replaces, those entered inside on what it
    gave; whatever is done to an input is seen by the coder that reads it. Padding is left alone, and
    with ``positions``, written as in a site (``"1:"`` is all but the first token), all outside them.

    Raises :class:`CoderError` for sites, widths and devices that do not fit, and for a coder at another
    site than it was trained for, or at several, unless ``any_site``.
    """
    wirings = wire(model, coders, any_site)
    if frozen_error is not None and not keep_error:
        raise CoderError("frozen_error= is the error to add; with keep_error=False there is none.")
    sizes = {place: wiring.coder.d_sae for wiring in wirings for place in wiring.places}
    taken = [f"{name}[{layer}]" for name, layer in sizes if (name, layer) in model.attached]
    if taken:
        raise CoderError(f"a coder is attached at {', '.join(taken)} already, by a block around this one.")
    with attached_latents(model, sizes) as points:
        where = None if positions is None else parse_site(f"resid_pre@{positions}").positions
        running = [_Running(model, wiring, points, keep_error, frozen_error) for wiring in wirings]
        reads = [edit for item in running for edit in item.reading_edits()]
        changes = [change for item in running for change in item.interventions(where)]
        with installed_edits(model, reads), intervene(model, changes):
            yield model


class _Running:
    """One coder while it is attached."""

    def __init__(
        self,
        model: Model,
        wiring: Wiring,
        points: dict[tuple[str, int], LatentPoint],
        keep_error: bool,
        frozen: ActivationCache | None,
    ) -> None:
        self.model = model
        self.coder = wiring.coder
        self.by_layer = wiring.by_layer
        self.reads = wiring.reads
        self.writes = wiring.writes
        self.points = [points[place] for place in wiring.places]
        self.keep_error = keep_error
        self.errors = None if frozen is None else _frozen_errors(wiring, frozen)
        self.inputs: dict[int, Tensor] = {}
        self.own: dict[int, Tensor] = {}
        self.edited: dict[int, Tensor] = {}

    @property
    def is_needed(self) -> bool:
        """Whether the coder changes anything: with its error it does so through its latents only."""
        recomputed = self.keep_error and self.errors is None
        return not recomputed or any(point.is_watched for point in self.points)

    def reading_edits(self) -> list[HookEdit]:
        """Edits that take the coder's inputs, where they are not what it replaces."""
        if self.reads == self.writes:
            return []
        taps = [tap(self.model.family, self.model.traits, s.component, s.layer or 0) for s in self.reads]
        return [HookEdit(found.read, self._reader(slot), _AFTER_EDITS) for slot, found in enumerate(taps)]

    def interventions(self, where: tuple[Position, ...] | None) -> list[Intervention]:
        """What is done to the coder's targets, at some positions."""
        return [
            Intervention(replace(site, positions=where), "substitute", self._change(slot, site))
            for slot, site in enumerate(self.writes)
        ]

    def _reader(self, slot: int) -> Edit:
        def edit(value: Tensor) -> None:
            if self.is_needed:
                self._read(slot, _flat(value, self.coder.d_in))

        return edit

    def _read(self, slot: int, x: Float[Tensor, "batch pos d_in"]) -> None:
        x = x.to(dtype_of(self.coder, x))
        self.inputs[slot] = x
        # without anyone at the latents a coder of one site runs its own forward
        if self.by_layer or self.points[slot].is_watched:
            encode = self.coder.encode_layer if self.by_layer else self.coder.encode
            self.own[slot] = encode(x, slot) if self.by_layer else encode(x)
            self.edited[slot] = self.points[slot](self.own[slot])

    def _change(self, slot: int, site: Site) -> Change:
        def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
            if not self.is_needed:
                return part, None
            true = _flat(part, self.coder.d_out)
            if self.reads == self.writes:
                self._read(slot, true)
            new = self._output(slot, site, true)
            new = new.view_as(part)
            return (new if self.errors is None else self._add_error(site, new, place)), None

        return change

    def _output(self, slot: int, site: Site, true: Tensor) -> Tensor:
        if slot not in self.inputs:
            raise CoderError(
                f"{site} came before {self.reads[slot]}, which its coder reads, so it cannot be predicted; give a site "
                "that is computed earlier."
            )
        if self.by_layer:
            new = self.coder.decode_layer(self.edited, slot)
            old = self.coder.decode_layer(self.own, slot) if self._keeps else None
            if slot == len(self.writes) - 1:
                self._forget()
        else:
            x = self.inputs[slot]
            watched = slot in self.edited
            new = self.coder.decode(self.edited[slot], x) if watched else run_coder(self.coder, x)
            old = self.coder.decode(self.own[slot], x) if self._keeps else None
            self._forget()
        # where no latent is edited the difference is zero to the bit
        return new.to(true.dtype) if old is None else true + (new - old).to(true.dtype)

    def _add_error(self, site: Site, new: Tensor, place: Place) -> Tensor:
        """``new`` with the frozen error, in the columns that it is known for."""
        assert self.errors is not None
        whole, known = add(site, self.errors).change(new, place)
        if known is None:
            return whole
        known = known.to(new.device).view(*known.shape, *[1] * (new.ndim - 2))
        return torch.where(known, whole, new)

    @property
    def _keeps(self) -> bool:
        return self.keep_error and self.errors is None

    def _forget(self) -> None:
        for kept in (self.inputs, self.own, self.edited):
            kept.clear()


@torch.no_grad()
def _frozen_errors(wiring: Wiring, cache: ActivationCache) -> ActivationCache:
    """What a coder misses at each of its targets in another run."""
    coder = wiring.coder
    inputs = [_flat(cache[site], coder.d_in) for site in wiring.reads]
    inputs = [x.to(dtype_of(coder, x)) for x in inputs]
    if wiring.by_layer:
        latents = {slot: coder.encode_layer(x, slot) for slot, x in enumerate(inputs)}
        outputs = [coder.decode_layer(latents, slot) for slot in range(len(inputs))]
    else:
        outputs = [run_coder(coder, x) for x in inputs]
    errors = {
        site: cache[site] - out.view_as(cache[site]) for site, out in zip(wiring.writes, outputs, strict=True)
    }
    return ActivationCache(errors, cache.tokens, cache.attention_mask, cache.labels)


def _flat(value: Float[Tensor, "batch pos ..."], width: int) -> Float[Tensor, "batch pos d"]:
    """Heads side by side."""
    return value.reshape(*value.shape[:2], width)
