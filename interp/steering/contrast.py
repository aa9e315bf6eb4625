"""Contrast: activations of positive and negative prompts, read in one pass, that every extraction shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.models.text_digest import describe_data
from interp.results.provenance import Provenance
from interp.steering.prompt_reading import READ_AT as READ_AT
from interp.steering.prompt_reading import Pool, every_layer, plan_readers, read_side
from interp.steering.steering import place_of
from interp.types import Site, SiteLike, parse_site, parse_sites

if TYPE_CHECKING:
    from interp.coders.files import AnyCoder


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
            n_test = round(test_share * len(rows)) if 0 < test_share < 1 else 0
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
    if batch_size < 1:
        raise SteeringError(f"batch_size is at least 1; got {batch_size}.")
    coders = dict(coders or {})
    wanted = [whole for site in parse_sites(sites) for whole in every_layer(model, site)]
    readers = plan_readers(wanted, coders)
    sides = [
        read_side(model, side, list(readers.values()), pool, batch_size, text_column, progress, name)
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
