"""From a site to hook points: where a component can be read, and where an edit of it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from interp.errors import SiteError, unknown_name
from interp.models.families.base import Family
from interp.models.traits import Traits
from interp.types import COMPONENT_AXES, LATENTS, Site

How = Literal["direct", "through_attn_out", "through_o"]


@dataclass(frozen=True)
class Tap:
    """Where one component of one layer is read and edited.

    ``direct``: both at ``read``. ``through_attn_out``: some families' resid_mid hook sees only the
    copy that enters the MLP, so the edit is made by changing the attention output that enters the
    sum (``base`` holds resid_pre). ``through_o``: ``result`` is z times W_O, computed from ``read``
    and edited by its difference at the attention output, before edits of that output itself.
    """

    component: str
    layer: int
    read: str
    write: str
    how: How = "direct"
    base: str | None = None
    n_heads: int | None = None
    """Heads to split the last axis into when a hook carries them flat."""
    stage: int = 0
    """Order at one hook point: edits of a later stage see those of an earlier one."""


def available_components(family: Family, traits: Traits) -> tuple[str, ...]:
    """Every component of the site language that this model has."""
    hooks = family.hook_names(traits)
    return tuple(c for c in COMPONENT_AXES if c in hooks or (c == "result" and {"z", "o"} <= set(hooks)))


def tap(family: Family, traits: Traits, component: str, layer: int) -> Tap:
    """The tap of a component at a layer, or of the latents of a coder there (``"mlp_out:latent"``).

    Raises :class:`SiteError` where the model has none.
    """
    if component.endswith(LATENTS):
        hook = latent_hook(component.removesuffix(LATENTS), layer)
        return Tap(component, layer, hook, hook)
    hooks = {name: hook.format(layer=layer) for name, hook in family.hook_names(traits).items()}
    heads = {"head": traits.n_heads, "kv_head": traits.n_kv_heads}
    axis = next((a for a in COMPONENT_AXES[component] if a in heads), None)
    n_heads = heads[axis] if axis is not None and component not in ("pattern", "attn_scores") else None
    if component == "result" and component in available_components(family, traits):
        return Tap(component, layer, hooks["z"], hooks["o"], "through_o", n_heads=traits.n_heads, stage=-1)
    if component not in hooks:
        raise SiteError(_absent(component, family, traits))
    if component == "resid_mid" and not family.resid_mid_acts:
        return Tap(
            component,
            layer,
            hooks["resid_mid"],
            hooks["attn_out"],
            "through_attn_out",
            base=hooks["resid_pre"],
            stage=1,
        )
    return Tap(component, layer, hooks[component], hooks[component], n_heads=n_heads)


def _absent(component: str, family: Family, traits: Traits) -> str:
    known = available_components(family, traits)
    why = ""
    if component == "resid_mid" and traits.parallel_blocks:
        why = " (attention and MLP run in parallel there)"
    elif component.startswith("mlp") and not traits.d_mlp:
        why = " (it is attention-only)"
    elif component == "mlp_pre_linear" and not traits.gated_mlp:
        why = " (its MLP is not gated)"
    return f"a {family.name} model has no {component!r}{why}. It has: {', '.join(known)}."


def in_every_layer(site: Site, traits: Traits) -> list[Site]:
    """The site in every layer, where it names none; else itself."""
    if site.layer is not None or site.component == "embed":
        return [site]
    return [replace(site, layer=layer) for layer in range(traits.n_layers)]


def expand(
    site: Site, family: Family, traits: Traits, attached: Mapping[tuple[str, int], int] | None = None
) -> list[Tap]:
    """All taps a site covers, checked against the model's sizes.

    ``attached`` are the coders attached now, :attr:`Model.attached`: without, no latents are known.
    Raises :class:`SiteError` for a component, layer, head, neuron or latent the model does not have.
    """
    if site.component not in COMPONENT_AXES:
        raise SiteError(unknown_name("component", site.component, COMPONENT_AXES))
    _check_index(site, "layer", site.layer, traits.n_layers, traits)
    if site.latents is not None:
        return _expand_latents(site, family, traits, attached or {})
    if site.head is not None:
        n = traits.n_kv_heads if "kv_head" in site.axes else traits.n_heads
        kind = "kv head" if "kv_head" in site.axes and n != traits.n_heads else "head"
        _check_index(site, kind, site.head, n, traits)
    for neuron in site.neurons or ():
        _check_index(site, "neuron", neuron, traits.d_mlp, traits)
    if site.component == "embed":
        return [tap(family, traits, "embed", 0)]
    layers = range(traits.n_layers) if site.layer is None else [site.layer]
    return [tap(family, traits, site.component, layer) for layer in layers]


def latent_hook(component: str, layer: int) -> str:
    """Hook-point name of the latents of a coder at a component of a layer."""
    return f"latents.{component}.{layer}"


def _expand_latents(
    site: Site, family: Family, traits: Traits, attached: Mapping[tuple[str, int], int]
) -> list[Tap]:
    if site.head is not None or site.neurons is not None:
        raise SiteError(f"site {site} names latents of a head or neuron; a coder has its latents in common.")
    one = site.component == "embed" or site.layer is not None
    layers = [site.layer or 0] if one else list(range(traits.n_layers))
    missing = [layer for layer in layers if (site.component, layer) not in attached]
    if missing:
        known = ", ".join(f"{name}[{layer}]" for name, layer in attached) or "none now"
        raise SiteError(
            f"site {site} names coder latents, and no coder is attached in layer {missing[0]}; a coder must be "
            f"attached there first, by interp.substitute. Attached: {known}."
        )
    sizes = [attached[site.component, layer] for layer in layers]
    if site.latents == () and len(set(sizes)) > 1:
        raise SiteError(
            f"site {site} names all latents of coders of {sizes} latents; name the layers one at a time."
        )
    for latent in site.latents or ():
        if latent >= min(sizes):
            raise SiteError(
                f"site {site} names latent {latent}, but the coder has {min(sizes)} (0 to {min(sizes) - 1})."
            )
    return [tap(family, traits, site.activation, layer) for layer in layers]


def _check_index(site: Site, kind: str, index: int | None, size: int, traits: Traits) -> None:
    if index is not None and index >= size:
        raise SiteError(
            f"site {site} names {kind} {index}, but this {traits.family} model has {size} "
            f"{kind}s (0 to {size - 1})."
        )
