"""Taking latents out of activations, and which ones matter to a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary, reconstruct
from interp.coders.probing.logistic import Probe
from interp.errors import CoderError


@dataclass(frozen=True, eq=False)
class Ablatable:
    """Activations and their latents, ready to take some out.

    What the dictionary does not reconstruct stays: only ``latent * W_dec`` is subtracted.
    """

    x: Float[Tensor, "row d"]
    latents: Float[Tensor, "row latent"]
    decoder: Float[Tensor, "latent d"]

    @classmethod
    def make(cls, dictionary: Dictionary, x: Float[Tensor, "row d"]) -> Self:
        """Encode ``x``. Raises :class:`CoderError` for a dictionary that writes elsewhere than it reads."""
        decoder = dictionary.W_dec.detach()
        if decoder.ndim != 2 or decoder.shape[1] != x.shape[1]:
            raise CoderError(
                f"latents are taken out of what they are read from, {x.shape[1]} dimensions; this dictionary writes "
                f"{list(decoder.shape[1:])}. A transcoder's latents cannot be."
            )
        return cls(x, reconstruct(dictionary, x.to(decoder))[0].to(x), decoder.to(x))

    def without(self, chosen: Int[Tensor, " some"]) -> Float[Tensor, "row d"]:
        """Activations with these latents at 0."""
        return self.x - self.latents[:, chosen] @ self.decoder[chosen]

    def rank(
        self, probe: Probe, answers: Bool[Tensor, " row"], rows: Bool[Tensor, " row"]
    ) -> Int[Tensor, " latent"]:
        """Latents by what they do for a probe: difference of means between yes and no, times what a latent of 1
        adds to the probe's log odds; the largest first.
        """
        yes, no = self.latents[rows & answers].mean(0), self.latents[rows & ~answers].mean(0)
        return ((yes - no) * probe.score_direction(self.decoder)).argsort(descending=True, stable=True)

    def draw(self, k: int, draws: int, seed: int) -> list[Int[Tensor, " k"]]:
        """Random sets of ``k`` latents among those that fire; all of these where there are fewer."""
        firing = (self.latents > 0).any(0).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(firing), generator=generator) for _ in range(draws)]
        return [firing[order[:k].to(firing.device)] for order in orders]


def check_counts(ks: Sequence[int], d_sae: int, draws: int) -> tuple[int, ...]:
    """Numbers of latents, rising. Raises :class:`CoderError` for ones that are not there, and for no draws."""
    found = tuple(sorted(set(ks)))
    if not found or found[0] < 1 or found[-1] > d_sae:
        raise CoderError(f"latents to take out number 1 to {d_sae}; got {tuple(ks)}.")
    if draws < 1:
        raise CoderError(f"the control needs at least one random draw; got {draws}.")
    return found
