"""Activations pooled over tokens while maps act, inside one graph: what maps are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.intervene import intervene
from interp.models.interventions import Intervention, Place
from interp.models.model import Model
from interp.models.sites import in_every_layer
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.steering.contrast import READ_AT
from interp.steering.steering import place_of
from interp.types import PATTERN_COMPONENTS, Site, SiteLike, parse_sites

Map = Callable[[Float[Tensor, "*rest d"]], Float[Tensor, "*rest d"]]
"""From the activations of some tokens (or their mean) to those that they become."""


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Prompts as rows of tokens on the CPU, each without padding."""

    rows: tuple[Int[Tensor, " _"], ...]

    def batch(
        self, chosen: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
        """Some of the rows, or all, padded on the right, and their mask."""
        return pad_prompts(self.rows if chosen is None else [self.rows[number] for number in chosen])


def read_rows(model: Model, prompts: Prompts, name: str, text_column: str = "text") -> PromptRows:
    """All prompts as rows. Raises :class:`SteeringError` for fewer than two: they have no distribution."""
    rows = tuple(row for item in open_items(prompts, text_column) for row in encode_item(model, item))
    if len(rows) < 2:
        raise SteeringError(f"maps are fitted to several prompts a side; got {len(rows)} {name} ones.")
    return PromptRows(rows)


def sites_of_layers(model: Model, sites: SiteLike | Iterable[SiteLike]) -> tuple[Site, ...]:
    """Sites with one layer each; one without a layer is in all. Raises :class:`SteeringError` for one named twice."""
    listed: list[Site] = []
    for site in parse_sites(sites):
        if site.rows is not None:
            raise SteeringError(f"maps are fitted to every prompt; {site} names rows.")
        if site.component in PATTERN_COMPONENTS or site.latents is not None or site.subspace is not None:
            raise SteeringError(
                f"maps are of whole vectors of tokens; {site} is none. Take resid_post, z ..."
            )
        listed += in_every_layer(site, model.traits)
    if len({place_of(site) for site in listed}) < len(listed) or not listed:
        raise SteeringError(
            f"maps need at least one site, each of them once; got {', '.join(map(str, listed)) or 'none'}."
        )
    return tuple(listed)


def pooled_under(
    model: Model,
    maps: Mapping[Site, Map | None],
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"] | None,
) -> dict[Site, Float[Tensor, "batch d"]]:
    """Mean activation of every prompt at every site, while all maps act; ``None`` for a site that is only read.

    The mean is over the site's positions (all tokens where it names none), after the site's own map. Heads stand
    side by side. In single precision at least, and in the graph where gradients are recorded. The sites come in
    the order in which the forward passes them.
    """
    found: dict[Site, Tensor] = {}
    with intervene(model, [map_site(site, one, found) for site, one in maps.items()]):
        model(tokens, mask, keep_columns=torch.tensor([tokens.shape[1] - 1]))
    return found


def map_site(site: Site, one: Map | None, pooled: dict[Site, Tensor] | None = None) -> Intervention:
    """An intervention that maps a site's activations, in the graph; the mean of every prompt goes into ``pooled``."""

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        flat = part.flatten(2) if part.ndim == 4 else part
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        new = wide if one is None else one(wide)
        if pooled is not None:
            chosen = place.columns.select(site if site.positions is not None else site.at(*READ_AT), {})
            empty = (~chosen.any(1)).nonzero()[:10, 0].tolist()
            if empty:
                raise SteeringError(f"{site} chooses no token of the prompts in rows {empty} of the batch.")
            weight = chosen.to(new.device)[..., None]
            # padding may hold NaN, which no weight takes away
            pooled[site] = torch.where(weight, new, 0.0).sum(1) / weight.sum(1)
        return (part if one is None else new.to(part.dtype).reshape(part.shape)), None

    return Intervention(site, "map", change)
