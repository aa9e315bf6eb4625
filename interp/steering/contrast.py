"""Contrast: activations of positive and negative prompts, read in one pass, that every extraction shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.capture import capture
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.models.text_digest import describe_data
from interp.results.provenance import Provenance
from interp.steering.steering import place_of
from interp.types import Site, SiteLike, parse_site, parse_sites

if TYPE_CHECKING:
    from interp.coders.files import AnyCoder

Pool = Literal["mean", "max"]
"""What becomes of a prompt's tokens: their mean, or the largest value of every entry."""
READ_AT = ("all",)
"""Positions that are read where a site names none: the mean over all tokens. On the bundled model the last token,
a full stop, gave directions that turned the wrong way round in the next layer."""


@dataclass(frozen=True, eq=False)
class ContrastRows:
    """One vector a prompt at one site, of both sides. Raises :class:`SteeringError` for sides that do not fit."""

    positive: Float[Tensor, "n d"]
    negative: Float[Tensor, "m d"]
    paired: bool
    """Whether row i of one side belongs to row i of the other."""

    def __post_init__(self) -> None:
        p, n = self.positive, self.negative
        if p.ndim != 2 or n.ndim != 2 or p.shape[1] != n.shape[1] or not len(p) or not len(n):
            raise SteeringError(
                f"a contrast takes rows [n, d] and [m, d], at least one each; got {list(p.shape)} and {list(n.shape)}."
            )
        if self.paired and len(p) != len(n):
            raise SteeringError(
                f"pairs need as many positive rows as negative ones; got {len(p)} and {len(n)}."
            )
        if not bool(torch.isfinite(p).all() and torch.isfinite(n).all()):
            raise SteeringError("activations hold NaN or infinity; nothing can be extracted from them.")

    @property
    def d(self) -> int:
        return self.positive.shape[1]

    @property
    def mean_difference(self) -> Float[Tensor, " d"]:
        """Mean of the positive rows minus mean of the negative ones."""
        return self.positive.mean(0) - self.negative.mean(0)

    def differences(self, seed: int = 0) -> Float[Tensor, "n d"]:
        """Positive minus negative row of each pair; unpaired rows are paired at random by ``seed``."""
        if self.paired:
            return self.positive - self.negative
        n = min(len(self.positive), len(self.negative))
        generator = torch.Generator().manual_seed(seed)
        p, m = (torch.randperm(len(rows), generator=generator)[:n] for rows in (self.positive, self.negative))
        return self.positive[p] - self.negative[m]

    def stacked(self) -> tuple[Float[Tensor, "row d"], Float[Tensor, " row"]]:
        """All rows, the positive ones first, and their labels 1 and 0."""
        labels = torch.cat([torch.ones(len(self.positive)), torch.zeros(len(self.negative))])
        return torch.cat([self.positive, self.negative]), labels

    def resampled(self, generator: torch.Generator) -> ContrastRows:
        """As many rows of each side drawn with replacement, pairs together."""
        p = torch.randint(len(self.positive), (len(self.positive),), generator=generator)
        n = (
            p
            if self.paired
            else torch.randint(len(self.negative), (len(self.negative),), generator=generator)
        )
        return ContrastRows(self.positive[p], self.negative[n], self.paired)

    def shuffled(self, generator: torch.Generator) -> ContrastRows:
        """The same rows with labels drawn anew: a control. Pairs keep together, each turned round or not."""
        if self.paired:
            turned = torch.rand(len(self.positive), generator=generator)[:, None] < 0.5
            p = torch.where(turned, self.negative, self.positive)
            return ContrastRows(p, torch.where(turned, self.positive, self.negative), True)
        rows, _ = self.stacked()
        order = torch.randperm(len(rows), generator=generator)
        return ContrastRows(rows[order[: len(self.positive)]], rows[order[len(self.positive) :]], False)

    def split(self, test_share: float, seed: int = 0) -> tuple[ContrastRows, ContrastRows]:
        """Rows to extract from and rows to judge on. Raises :class:`SteeringError` where a side stays empty."""
        generator = torch.Generator().manual_seed(seed)
        parts: list[tuple[Tensor, Tensor]] = []
        order: Tensor | None = None
        for rows in (self.positive, self.negative):
            if order is None or not self.paired:
                order = torch.randperm(len(rows), generator=generator)
            n_test = round(test_share * len(rows))
            if not 0 < n_test < len(rows):
                raise SteeringError(
                    f"{len(rows)} rows cannot be parted with a share of {test_share}; give more."
                )
            parts.append((rows[order[n_test:]], rows[order[:n_test]]))
        (p, p_test), (n, n_test_rows) = parts
        return ContrastRows(p, n, self.paired), ContrastRows(p_test, n_test_rows, self.paired)


@dataclass(frozen=True, eq=False)
class Contrast:
    """Rows of both sides at every site, by site without positions, and where they came from."""

    rows: Mapping[Site, ContrastRows]
    model_digest: str
    data: str
    provenance: Provenance
    latents: Mapping[str, ContrastRows] = field(default_factory=dict)
    """Latents [prompt, d_sae] of every coder by its name, pooled over the same tokens."""
    coders: Mapping[str, AnyCoder] = field(default_factory=dict)

    def at(self, site: SiteLike) -> ContrastRows:
        """Rows at a site. Raises :class:`SteeringError` for one that was not read."""
        wanted = place_of(parse_site(site))
        if wanted not in self.rows:
            raise SteeringError(f"{wanted} was not read; there is {', '.join(map(str, self.rows))}.")
        return self.rows[wanted]

    def latents_of(self, name: str) -> ContrastRows:
        """Latents of a coder. Raises :class:`SteeringError` for one that was not read with."""
        if name not in self.latents:
            raise SteeringError(unknown_name("coder", name, self.latents))
        return self.latents[name]


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
class _Reader:
    """One thing that is kept of a prompt: an activation, or a coder's latents of it."""

    site: Site
    """With the positions that are pooled."""
    encode: Callable[[Tensor], Tensor] | None = None


def read_contrast(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    sites: SiteLike | Iterable[SiteLike],
    *,
    coders: Mapping[str, AnyCoder] | None = None,
    pool: Pool = "mean",
    paired: bool | None = None,
    batch_size: int = 32,
    text_column: str = "text",
    progress: bool = False,
) -> Contrast:
    """Activations of both sides at all sites, and latents of ``coders``, in one pass over the prompts.

    A prompt gives one vector a site: the mean over the site's positions (``pool="max"``: the largest of every
    entry), all tokens where it names none (``"resid_post[2]@-1"``: the last token). A site without a layer is read in
    all. Heads stand side by side, [head * d_head]. One vector a prompt and site is kept, in single precision on
    the CPU. Every coder, by a name of your own, reads tokens at its site and is pooled like the site that it writes
    to, which is read too. ``paired`` says that prompt i of one side belongs to prompt i of the other; ``None``
    pairs sides of equal size that are given as lists.

    Raises :class:`SteeringError` for an empty side, sides of unequal size that are paired, sites with rows, and
    coders of several sites.
    """
    if pool not in get_args(Pool):
        raise SteeringError(unknown_name("pool", pool, get_args(Pool)))
    coders = dict(coders or {})
    wanted = [whole for site in parse_sites(sites) for whole in _layers(model, site)]
    readers = _readers(wanted, coders)
    sides = [
        _read_side(model, side, list(readers.values()), pool, batch_size, text_column, progress, name)
        for name, side in (("positive", positive), ("negative", negative))
    ]
    if paired is None:
        paired = isinstance(positive, list | tuple) and len(sides[0][0]) == len(sides[1][0])
    rows = {key: ContrastRows(p, n, paired) for key, p, n in zip(readers, sides[0], sides[1], strict=True)}
    return Contrast(
        {key: found for key, found in rows.items() if isinstance(key, Site)},
        digest_weights(model),
        f"positive: {describe_data(positive)}; negative: {describe_data(negative)}",
        Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task="contrast",
            n_prompts=len(sides[0][0]) + len(sides[1][0]),
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
        ),
        {key: found for key, found in rows.items() if isinstance(key, str)},
        coders,
    )


def _readers(wanted: list[Site], coders: Mapping[str, AnyCoder]) -> dict[Site | str, _Reader]:
    """By site without positions, or by the name of a coder."""
    found: dict[Site | str, _Reader] = {}
    for site in wanted:
        if found.setdefault(place_of(site), _Reader(site)).site != site:
            raise SteeringError(
                f"{place_of(site)} is to be read at two kinds of positions; read one at a time."
            )
    for name, coder in coders.items():
        reads, writes = coder_sites(coder)
        target = found.setdefault(place_of(writes), _Reader(place_of(writes)))
        found[name] = _Reader(replace(place_of(reads), positions=target.site.positions), _encoder(coder))
    return found


def _encoder(coder: AnyCoder) -> Callable[[Tensor], Tensor]:
    return lambda value: coder.encode(value.to(coder.W_dec)).to(value.device)


def _layers(model: Model, site: Site) -> list[Site]:
    if site.rows is not None:
        raise SteeringError(f"extraction reads every prompt; {site} names rows.")
    if site.layer is not None or site.component == "embed":
        return [site]
    return [replace(site, layer=layer) for layer in range(model.traits.n_layers)]


def _read_side(
    model: Model,
    prompts: Prompts,
    readers: list[_Reader],
    pool: Pool,
    batch_size: int,
    text_column: str,
    progress: bool,
    name: str,
) -> list[Tensor]:
    """[prompt, d] of every reader."""
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
    weight = chosen.to(value)[..., None]
    return (value * weight).sum(1) / weight.sum(1)
