"""Which activations of a model a coder reads, and which it is put in place of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CoderError, SiteError
from interp.models.model import Model
from interp.models.sites import expand
from interp.models.traits import Traits
from interp.types import COMPONENT_AXES, PATTERN_COMPONENTS, Site, SiteLike, parse_site, parse_sites

Place = tuple[str, int]
"""A component and its layer."""
Coders = Mapping[SiteLike, Any] | Sequence[Any] | Any
"""Coders by the site that each replaces, or coders that know their sites."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """A coder at its places in a model: entry i of ``writes`` is predicted once ``reads[i]`` is known."""

    coder: Any
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]

    @property
    def by_layer(self) -> bool:
        """Whether latents of each layer are read on their own, as by a cross-layer transcoder."""
        return hasattr(self.coder, "encode_layer")

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the latents are known by name: at what they replace."""
        return tuple((site.component, site.layer or 0) for site in self.writes)


def wire(model: Model, coders: Coders, any_site: bool = False) -> list[Wiring]:
    """Match coders with the sites of a model.

    Raises :class:`CoderError` for no coder, unknown or unfit sites, widths or devices that differ, a coder at
    another site than it was trained for unless ``any_site``, and two coders at one place.
    """
    if isinstance(coders, Mapping):
        pairs = [(key, coder) for key, coder in coders.items()]
    else:
        pairs = [(None, coder) for coder in (coders if isinstance(coders, Sequence) else [coders])]
    if not pairs:
        raise CoderError(
            "no coder was given; give for example {'mlp_out[2]': coder}, or a coder that knows its sites."
        )
    wirings = [_wire_one(key, coder, any_site) for key, coder in pairs]
    for wiring in wirings:
        for site, width in zip(wiring.reads, [wiring.coder.d_in] * len(wiring.reads), strict=True):
            _check_width(model, site, width, "reads")
        for site, width in zip(wiring.writes, [wiring.coder.d_out] * len(wiring.writes), strict=True):
            _check_width(model, site, width, "predicts")
        _check_device(model, wiring.coder)
    _check_once(wirings, any_site)
    return wirings


def _wire_one(key: SiteLike | None, coder: Any, any_site: bool) -> Wiring:
    for name in ("encode", "decode", "d_in", "d_out", "d_sae"):
        if not hasattr(coder, name):
            raise CoderError(
                f"a coder has encode, decode, d_in, d_out and d_sae; got {type(coder).__name__}."
            )
    own_reads = _own_sites(coder, "sites")
    own_writes = _own_sites(coder, "target_sites") or own_reads
    if hasattr(coder, "encode_layer"):
        return _wire_layers(key, coder, own_reads, own_writes)
    if len(own_reads) > 1 or getattr(getattr(coder, "shape", None), "n_inputs", False):
        raise CoderError(
            f"a crosscoder ({', '.join(map(str, own_reads))}) cannot be attached: its latents need every site before "
            "the first of them can be replaced. Substitute coders of single sites or a cross-layer transcoder."
        )
    if key is None:
        if not own_writes:
            raise CoderError("this coder does not know its site; give it as {'mlp_out[2]': coder}.")
        return Wiring(coder, own_reads, own_writes)
    target = _whole(parse_site(key))
    if own_writes and own_writes[0] != target and not any_site:
        raise CoderError(
            f"this coder was trained for {own_writes[0]}, but is given for {target}; to attach it there all the same "
            "pass any_site=True."
        )
    return Wiring(coder, (_read_for(coder, target, own_reads),), (target,))


def _read_for(coder: Any, target: Site, own_reads: tuple[Site, ...]) -> Site:
    """What a coder at ``target`` reads: of a transcoder its own component in the target's layer."""
    if not getattr(coder, "is_transcoder", False):
        return target
    if own_reads:
        return replace(own_reads[0], layer=target.layer)
    if target.component == "mlp_out":
        return Site("mlp_in", target.layer)
    raise CoderError(
        f"this transcoder does not know what it reads for {target}; set coder.sites, e.g. to ('mlp_in[2]',)."
    )


def _wire_layers(
    key: SiteLike | None, coder: Any, own_reads: tuple[Site, ...], own_writes: tuple[Site, ...]
) -> Wiring:
    if not own_reads or len(own_reads) != len(own_writes):
        raise CoderError(
            "a cross-layer transcoder must know the sites it reads and predicts, one each a layer; got "
            f"sites {[str(site) for site in own_reads]} and target_sites {[str(site) for site in own_writes]}."
        )
    names = {site.component for site in own_writes}
    if key is not None and any(
        site.component not in names or site.layer is not None for site in parse_sites(key)
    ):
        raise CoderError(
            f"a cross-layer transcoder replaces all its targets, {', '.join(map(str, own_writes))}; name their "
            f"component alone, {sorted(names)[0]!r}, or give the coder without a site. Got {key!r}."
        )
    return Wiring(coder, own_reads, own_writes)


def _own_sites(coder: Any, name: str) -> tuple[Site, ...]:
    """Sites a coder was trained on, without the positions of its training data."""
    return tuple(replace(parse_site(site), positions=None) for site in getattr(coder, name, ()) or ())


def _whole(site: Site) -> Site:
    """The site, if it is all of one layer's activation. Raises :class:`CoderError` otherwise."""
    narrowed = replace(site, positions=None, rows=None, latents=None, neurons=None, head=None, subspace=None)
    if narrowed != site or (site.layer is None and site.component != "embed"):
        raise CoderError(
            f"a coder replaces all of one layer's activation, e.g. 'mlp_out[2]' or 'z[2]' (heads side by side); got "
            f"{str(site)!r}."
        )
    return site


def width_of(site: Site, traits: Traits) -> int:
    """Numbers of a token's activation at a site, heads side by side.

    Raises :class:`CoderError` where a token has no one vector.
    """
    if site.component in PATTERN_COMPONENTS or site.component == "result":
        raise CoderError(f"{site.component} is not one vector a token, so no coder can replace it.")
    sizes = {"d_model": traits.d_model, "d_mlp": traits.d_mlp, "d_head": traits.d_head}
    sizes |= {"head": traits.n_heads, "kv_head": traits.n_kv_heads, "batch": 1, "pos": 1}
    width = 1
    for axis in COMPONENT_AXES[site.component]:
        width *= sizes[axis]
    return width


def dtype_of(coder: Any, x: Tensor) -> torch.dtype:
    """The coder's own precision; that of the activation where it has no weights."""
    weights = coder.parameters() if hasattr(coder, "parameters") else ()
    return next((weight.dtype for weight in weights if weight.is_floating_point()), x.dtype)


def run_coder(coder: Any, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_out"]:
    """A coder's output, by its own forward where it has one."""
    return coder(x) if callable(coder) else coder.decode(coder.encode(x))


def _check_width(model: Model, site: Site, width: int, verb: str) -> None:
    try:
        expand(site, model.family, model.traits)
    except SiteError as error:
        raise CoderError(f"{model.name!r} has no site {site} that the coder {verb}: {error}") from error
    found = width_of(site, model.traits)
    if found != width:
        raise CoderError(
            f"the coder {verb} activations of width {width}, but {site} of {model.name!r} has {found}; it was trained "
            "on another site or model."
        )


def _check_device(model: Model, coder: Any) -> None:
    weight = getattr(coder, "W_dec", None)
    if weight is not None and weight.device != model.device:
        raise CoderError(
            f"the coder is on {weight.device}, model {model.name!r} on {model.device}; move one, e.g. "
            f"coder.to({str(model.device)!r})."
        )


def _check_once(wirings: Iterable[Wiring], any_site: bool) -> None:
    seen: dict[Place, Any] = {}
    coders: list[Any] = []
    for wiring in wirings:
        for place in wiring.places:
            if place in seen:
                raise CoderError(f"two coders are given for {place[0]}[{place[1]}]; a place takes one.")
            seen[place] = wiring.coder
        if any(wiring.coder is other for other in coders) and not any_site:
            raise CoderError(
                f"one coder is given for several sites, {wiring.writes[0]} among them; if that is meant, pass "
                "any_site=True."
            )
        coders.append(wiring.coder)
