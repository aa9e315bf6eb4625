"""A top-k dictionary with random weights, and what it makes of prompts that are run one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import interp


class TopK:
    """The k largest positive pre-activations fire. Latent 0 never does."""

    def __init__(
        self, d_in: int, d_sae: int = 24, k: int = 3, *, d_out: int | None = None, site: str = "mlp_out[1]",
        target: str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        draw = torch.Generator().manual_seed(seed)
        self.k, self.d_sae, self.d_in = k, d_sae, d_in
        self.W_enc = torch.randn(d_sae, d_in, generator=draw)
        self.W_dec = torch.randn(d_sae, d_out or d_in, generator=draw)
        self.b_enc = torch.zeros(d_sae)
        self.b_enc[0] = -1e6
        self.sites = (site,)
        self.is_transcoder = target is not None
        self.target_sites = (target or site,)

    def encode(self, x: Tensor) -> Tensor:
        pre = (x.flatten(x.ndim - 1) @ self.W_enc.T + self.b_enc).relu()
        values, places = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, places, values)


@dataclass
class Read:
    """Latents of every prompt as [pos, d_sae], the first position NaN where it is left out."""

    tokens: list[Tensor]
    latents: list[Tensor]

    def rows(self) -> Tensor:
        """Of all tokens that were read."""
        joined = torch.cat(self.latents)
        return joined[joined.isfinite().all(1)]


@torch.no_grad()
def read_one_by_one(model: Any, coder: TopK, prompts: list[Tensor], skip_first: bool = True) -> Read:
    """Each prompt on its own, without padding."""
    found = []
    for prompt in prompts:
        x = interp.capture(model, prompt[None], coder.sites[0])[coder.sites[0]][0]
        latents = coder.encode(x.flatten(1)).clone()
        if skip_first:
            latents[0] = torch.nan
        found.append(latents)
    return Read(prompts, found)


def pad(prompts: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """One batch with its mask, junk under the padding."""
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), 7)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        tokens[row, place], mask[row, place] = prompt, True
    return tokens, mask
