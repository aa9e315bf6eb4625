"""What one coder reads of a forward, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.coders.batch import CoderBatch
from interp.coders.sources.prompts import PromptBatch
from interp.errors import CoderError
from interp.models import Model, capture
from interp.models.positions import Columns, Prompt
from interp.models.sites import expand
from interp.models.traits import Traits
from interp.types import ALL, EACH, PATTERN_COMPONENTS, Position, Site, SiteLike, parse_sites


@dataclass(frozen=True)
class Reading:
    """Sites of the input and of the target, each one layer's; all of a side have one width."""

    sites: tuple[Site, ...]
    target: tuple[Site, ...]
    d_in: int
    d_out: int
    positions: tuple[Position, ...] | None = None
    """Where rows are taken; ``None`` is every token."""

    def sizes(self) -> dict[str, Any]:
        """Fields of a layout."""
        return {
            "d_in": self.d_in,
            "d_out": self.d_out,
            "n_inputs": _count(self.sites),
            "n_outputs": _count(self.target),
            "sites": self.name(self.sites),
            "target_sites": self.name(self.target),
        }

    def name(self, sites: Iterable[Site]) -> tuple[str, ...]:
        """Sites as they are written, with the positions that are read."""
        return tuple(str(replace(site, positions=self.positions)) for site in sites)


def _count(sites: tuple[Site, ...]) -> int:
    return 0 if len(sites) == 1 else len(sites)


@dataclass(frozen=True)
class RowOptions:
    """How rows are made of a forward."""

    gradients: bool = False
    skip_first: bool = True
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None


def plan_reading(
    model: Model, sites: SiteLike | Iterable[SiteLike], target: SiteLike | Iterable[SiteLike] | None = None
) -> Reading:
    """What a coder of these sites reads.

    Raises :class:`SiteError` for a site the model does not have, and :class:`CoderError` for sites that give
    no rows, or not rows of one width and of the same positions.
    """
    inputs = _one_layer_each(model, sites)
    outputs = inputs if target is None else _one_layer_each(model, target)
    positions = {_positions(site) for site in (*inputs, *outputs)}
    if len(positions) > 1:
        raise CoderError(f"all sites must name the same positions; got {_list((*inputs, *outputs))}.")
    plain = [tuple(replace(site, positions=None) for site in side) for side in (inputs, outputs)]
    widths = [_common_width(model.traits, side) for side in plain]
    return Reading(plain[0], plain[1], widths[0], widths[1], positions.pop())


def _one_layer_each(model: Model, sites: SiteLike | Iterable[SiteLike]) -> tuple[Site, ...]:
    found: list[Site] = []
    for site in parse_sites(sites):
        if site.component in PATTERN_COMPONENTS:
            raise CoderError(f"site {site} has no vector a token, so no coder reads it; choose z or q, k, v.")
        if site.rows is not None or site.subspace is not None:
            raise CoderError(
                f"site {site}: a coder reads whole activations of all prompts, no rows or subspaces."
            )
        taps = expand(site, model.family, model.traits)
        if site.component == "embed":
            found.append(site)
        else:
            found += (replace(site, layer=tap.layer, neurons=site.neurons or None) for tap in taps)
    return tuple(found)


def _positions(site: Site) -> tuple[Position, ...] | None:
    return None if site.positions in ((ALL,), (EACH,)) else site.positions


def _common_width(traits: Traits, sites: tuple[Site, ...]) -> int:
    widths = [_width(traits, site) for site in sites]
    if len(set(widths)) > 1:
        listed = ", ".join(f"{site} has {width}" for site, width in zip(sites, widths, strict=True))
        raise CoderError(
            f"several sites of one coder must have one width; {listed}. For several coders from one forward give "
            "sites by name: sites={'a': ..., 'b': ...}."
        )
    return widths[0]


def _width(traits: Traits, site: Site) -> int:
    if site.neurons:
        return len(site.neurons)
    width = int(getattr(traits, site.axes[-1]))
    if site.head is not None:
        return width
    heads = {"head": traits.n_heads, "kv_head": traits.n_kv_heads}
    return width * next((heads[axis] for axis in site.axes if axis in heads), 1)


def _list(sites: Iterable[Site]) -> str:
    return ", ".join(map(str, sites))


def gather_rows(
    model: Model, prompts: PromptBatch, readings: Mapping[str, Reading], options: RowOptions
) -> dict[str, CoderBatch]:
    """Rows of every reading from one forward (and one backward); equal sites share one tensor."""
    tokens = prompts.tokens.to(model.device)
    mask = None if prompts.mask is None else prompts.mask.to(model.device)
    asked = dict.fromkeys(site for r in readings.values() for site in (*r.sites, *r.target))
    loss = sum_next_token_loss(tokens, mask) if options.gradients else None
    with torch.no_grad():
        cache = capture(
            model, tokens, list(asked), attention_mask=mask, gradients_of=loss, unembed=options.gradients
        )
    columns = Columns(Prompt.from_mask(len(tokens), tokens.shape[1], mask), 0, tokens.shape[1])
    keep = _choose_columns(columns, next(iter(readings.values())).positions, options.skip_first)
    made: dict[Any, Tensor] = {}

    def rows(sites: tuple[Site, ...], of: Any) -> Tensor:
        key = (sites, of is cache.grads)
        if key not in made:
            parts = [of.tensors[site][keep].flatten(1) for site in sites]
            whole = parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)
            made[key] = whole.to(options.device, options.dtype)
        return made[key]

    at = {
        "token": prompts.tokens[keep.cpu()].to(options.device or model.device),
        "position": columns.positions[keep.cpu()].to(options.device or model.device),
        "prompt": prompts.prompts[:, None].expand_as(keep)[keep.cpu()].to(options.device or model.device),
    }
    return {
        name: CoderBatch(
            x=rows(reading.sites, cache),
            target=rows(reading.target, cache),
            grad=rows(reading.sites, cache.grads) if options.gradients else None,
            **at,
        )
        for name, reading in readings.items()
    }


def _choose_columns(
    columns: Columns, positions: tuple[Position, ...] | None, skip_first: bool
) -> Bool[Tensor, "batch pos"]:
    if positions is not None:
        return columns.select(Site("embed", positions=positions), {})
    return columns.real & (columns.positions > 0) if skip_first else columns.real


def sum_next_token_loss(
    tokens: Tensor, mask: Tensor | None
) -> Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, ""]]:
    """From logits to the cross-entropy of every next token, in nats, summed over tokens and prompts.

    Prompts do not see each other, so an activation's gradient is that of its own prompt's loss.
    """

    def loss(logits: Tensor) -> Tensor:
        each = cross_entropy(logits[:, :-1].float().transpose(1, 2), tokens[:, 1:], reduction="none")
        return (each if mask is None else each * (mask[:, :-1] & mask[:, 1:])).sum()

    return loss
