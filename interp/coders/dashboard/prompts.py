"""Prompts and the activations that a coder reads on them, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import CoderError
from interp.models.cache import ActivationCache
from interp.models.capture import capture_stream
from interp.models.model import Model
from interp.types import HEAD_COMPONENTS, parse_site

MOST_ENTRIES = 2**24
"""Latents times rows that are encoded at once."""


class Encoder(Protocol):
    """What a dashboard needs of a dictionary: latents of activations, and a decoder direction a latent."""

    @property
    def d_sae(self) -> int:
        """Number of latents."""

    @property
    def W_dec(self) -> Tensor:
        """[d_sae, d_out]; rows of several sites one after another."""

    def encode(self, x: Tensor) -> Tensor:
        """[*rest, d_sae] of [*rest, d_in]."""


@dataclass(frozen=True, eq=False)
class PromptActivations:
    """A batch of prompts that all begin in the first column."""

    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    """Real tokens of each prompt."""
    read: Bool[Tensor, "batch pos"]
    """Where the coder reads: real tokens, but the first ones where they are left out."""
    rows: Float[Tensor, "row *site d_in"]
    """Activations there, in reading order."""
    first: int
    """Number of the first prompt in the data."""


class PromptReader:
    """Reads the same data as often as it is asked to."""

    def __init__(
        self,
        model: Model,
        data: Any,
        sites: Sequence[str],
        *,
        batch_size: int,
        skip_first: bool,
        device: torch.device,
        progress: bool,
    ) -> None:
        if isinstance(data, Iterator):
            raise CoderError(
                f"the data is read twice, and a {type(data).__name__} can be read once; give a tensor, a list or a "
                "data set."
            )
        self.model, self.data, self.sites = model, data, [parse_site(site) for site in sites]
        self.batch_size, self.skip_first = batch_size, skip_first
        self.device, self.progress = device, progress

    def read(self, description: str) -> Iterator[PromptActivations]:
        """Batches from the first prompt on."""
        first = 0
        caches = capture_stream(
            self.model,
            self.data,
            self.sites,
            batch_size=self.batch_size,
            device=self.device,
            progress=False,
        )
        for cache in tqdm(caches, desc=description, disable=not self.progress):
            found = self._align(cache, first)
            first += len(found.tokens)
            yield found

    def _align(self, cache: ActivationCache, first: int) -> PromptActivations:
        tokens = cache.tokens.to(self.device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        if cache.attention_mask is not None:
            mask = cache.attention_mask.to(self.device).bool()
        columns = torch.arange(tokens.shape[1], device=self.device)
        lengths = mask.sum(1)
        moved = (columns + mask.int().argmax(1, keepdim=True)) % tokens.shape[1]
        read = columns < lengths[:, None]
        if self.skip_first:
            read[:, 0] = False
        parts = [_flat(cache[site], site.component) for site in self.sites]
        x = parts[0] if len(parts) == 1 else torch.stack(parts, dim=2)
        row = torch.arange(len(tokens), device=self.device)[:, None]
        return PromptActivations(tokens.gather(1, moved), lengths, read, x[row, moved][read], first)


def _flat(value: Tensor, component: str) -> Tensor:
    """[batch, pos, d]; all heads of a site one after another."""
    return value.flatten(2) if component in HEAD_COMPONENTS and value.ndim == 4 else value


@torch.no_grad()
def encode_rows(coder: Encoder, rows: Float[Tensor, "row *site d_in"]) -> Float[Tensor, "row d_sae"]:
    """Latents, encoded in parts that bound what the coder needs in between.

    Raises :class:`CoderError` where the coder gives another shape.
    """
    parts = rows.split(max(1, MOST_ENTRIES // coder.d_sae))
    latents = torch.cat([coder.encode(part) for part in parts])
    if latents.shape != (len(rows), coder.d_sae):
        raise CoderError(
            f"a dashboard needs latents [row, d_sae={coder.d_sae}]; {type(coder).__name__}.encode gave "
            f"{list(latents.shape)} for {list(rows.shape)}."
        )
    return latents
