"""Reading prompts: one vector a prompt of every site and coder, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.sites import in_every_layer
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.steering.steering import place_of
from interp.types import Site, parse_site

if TYPE_CHECKING:
    from interp.coders.files import AnyCoder

Pool = Literal["mean", "max"]
"""What becomes of a prompt's tokens: their mean, or the largest value of every entry."""
READ_AT = ("all",)
"""Positions that are read where a site names none: the mean over all tokens. On the bundled model the last token,
a full stop, gave directions that turned the wrong way round in the next layer."""


def coder_sites(coder: AnyCoder) -> tuple[Site, Site]:
    """Where a coder reads and where its decoder writes.

    Raises :class:`SteeringError` for a coder of several sites, without any, or that needs gradients to read.
    """
    reads, writes = coder.sites, coder.target_sites
    if len(reads) != 1 or len(writes) != 1 or coder.W_dec.ndim != 2:
        raise SteeringError(
            "directions are taken from coders that read one site and write one; this one reads "
            f"{list(reads)} and writes {list(writes)}. Set coder.sites and coder.target_sites if they are missing."
        )
    config = getattr(coder, "config", None)
    if getattr(config, "firing", None) == "gradient":
        raise SteeringError("a gradient coder's latents need gradients, which a contrast does not read.")
    return parse_site(reads[0]), parse_site(writes[0])


@dataclass(frozen=True, eq=False)
class PromptReader:
    """One thing that is kept of a prompt: an activation, or a coder's latents of it."""

    site: Site
    """With the positions that are pooled."""
    encode: Callable[[Tensor], Tensor] | None = None


def plan_readers(wanted: list[Site], coders: Mapping[str, AnyCoder]) -> dict[Site | str, PromptReader]:
    """What is to be read, by site without positions or by the name of a coder.

    Raises :class:`SteeringError` for one site at two kinds of positions, and as :func:`coder_sites`.
    """
    found: dict[Site | str, PromptReader] = {}
    for site in wanted:
        if found.setdefault(place_of(site), PromptReader(site)).site != site:
            raise SteeringError(
                f"{place_of(site)} is to be read at two kinds of positions; read one at a time."
            )
    for name, coder in coders.items():
        reads, writes = coder_sites(coder)
        target = found.setdefault(place_of(writes), PromptReader(place_of(writes)))
        found[name] = PromptReader(replace(place_of(reads), positions=target.site.positions), _encoder(coder))
    return found


def _encoder(coder: AnyCoder) -> Callable[[Tensor], Tensor]:
    return lambda value: coder.encode(value.to(coder.W_dec)).to(value.device)


def every_layer(model: Model, site: Site) -> list[Site]:
    """The site in every layer, where it names none. Raises :class:`SteeringError` for a site with rows."""
    if site.rows is not None:
        raise SteeringError(f"extraction reads every prompt; {site} names rows.")
    return in_every_layer(site, model.traits)


def read_side(
    model: Model,
    prompts: Prompts,
    readers: list[PromptReader],
    pool: Pool,
    batch_size: int,
    text_column: str,
    progress: bool,
    name: str,
) -> list[Tensor]:
    """[prompt, d] of every reader, in single precision on the CPU.

    ``name`` names the side. Raises :class:`SteeringError` for no prompts, and for a prompt in which a site chooses no
    token.
    """
    from tqdm.auto import tqdm

    found: list[list[Tensor]] = [[] for _ in readers]
    places = list(dict.fromkeys(place_of(reader.site) for reader in readers))
    bar = tqdm(disable=not progress, desc=f"{name} prompts")
    pending: list[Tensor] = []

    def read(rows: list[Tensor]) -> None:
        tokens, mask = pad_prompts(rows)
        with torch.no_grad():
            # whole sites: positions are chosen below, each row's own
            cache = capture(model, tokens, places, attention_mask=mask, unembed=False)
        columns = cache.columns
        for reader, into in zip(readers, found, strict=True):
            site = reader.site
            value = cache[place_of(site)].flatten(2)
            if reader.encode is not None:
                with torch.no_grad():
                    value = reader.encode(value)
            chosen = columns.select(site if site.positions is not None else site.at(*READ_AT), {})
            empty = ~chosen.any(1)
            if bool(empty.any()):
                raise SteeringError(
                    f"{site} chooses no token of a {name} prompt of {int(columns.prompt.lengths[empty][0])} tokens."
                )
            into.append(_pool(value, chosen, pool).cpu())
        bar.update(len(rows))

    with bar:
        for item in open_items(prompts, text_column):
            pending += encode_item(model, item)
            while len(pending) >= batch_size:
                read(pending[:batch_size])
                pending = pending[batch_size:]
        if pending:
            read(pending)
    if not found[0]:
        raise SteeringError(f"there are no {name} prompts; give at least one.")
    return [torch.cat(parts) for parts in found]


def _pool(
    value: Float[Tensor, "batch pos d"], chosen: Bool[Tensor, "batch pos"], pool: Pool
) -> Float[Tensor, "batch d"]:
    # half precision would round the sum of many tokens
    value = value.float()
    if pool == "max":
        return torch.where(chosen[..., None], value, -torch.inf).amax(1)
    # not a product with 0 and 1: padding may hold NaN
    return torch.where(chosen[..., None], value, 0).sum(1) / chosen.sum(1, keepdim=True)
