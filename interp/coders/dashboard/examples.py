"""The second pass: the examples of chosen latents, kept in memory that does not grow with the data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.dashboard.prompts import PromptActivations

NO_TOKEN = -1


class KeptExamples:
    """For every latent the ``k`` places with the largest keys so far, with a window of text around each."""

    def __init__(self, n: int, k: int, window: int, device: torch.device) -> None:
        self.window = window
        width = 2 * window + 1
        self.keys = torch.full((n, k), -torch.inf, device=device)
        self.prompts = torch.zeros(n, k, dtype=torch.long, device=device)
        self.positions = torch.zeros(n, k, dtype=torch.long, device=device)
        self.tokens = torch.full((n, k, width), NO_TOKEN, dtype=torch.long, device=device)
        self.activations = torch.full((n, k, width), torch.nan, device=device)

    def offer(
        self,
        keys: Float[Tensor, "n candidate"],
        places: Int[Tensor, "n candidate"],
        batch: PromptActivations,
        activations: Float[Tensor, "batch pos n"],
    ) -> None:
        """Take the candidates in that beat what is kept; ``places`` are ``prompt * pos + position``.

        A key of minus infinity is no candidate. Earlier ones win ties.
        """
        k = self.keys.shape[1]
        if keys.shape[1] > k:
            keys, order = keys.topk(k, dim=1)
            places = places.gather(1, order)
        merged, chosen = torch.cat([self.keys, keys], 1).sort(dim=1, descending=True, stable=True)
        self.keys, chosen = merged[:, :k], chosen[:, :k]
        old = chosen.clamp(max=k - 1)
        self.prompts = self.prompts.gather(1, old)
        self.positions = self.positions.gather(1, old)
        wide = old[..., None].expand(-1, -1, self.tokens.shape[2])
        self.tokens, self.activations = self.tokens.gather(1, wide), self.activations.gather(1, wide)
        latent, slot = torch.nonzero((chosen >= k) & self.keys.isfinite(), as_tuple=True)
        self._take(latent, slot, places[latent, chosen[latent, slot] - k], batch, activations)

    def _take(
        self,
        latent: Int[Tensor, " new"],
        slot: Int[Tensor, " new"],
        place: Int[Tensor, " new"],
        batch: PromptActivations,
        activations: Float[Tensor, "batch pos n"],
    ) -> None:
        row, column = place // batch.tokens.shape[1], place % batch.tokens.shape[1]
        self.prompts[latent, slot] = batch.first + row
        self.positions[latent, slot] = column
        around = column[:, None] + torch.arange(-self.window, self.window + 1, device=column.device)
        there = (around >= 0) & (around < batch.lengths[row, None])
        inside = around.clamp(0, batch.tokens.shape[1] - 1)
        text = batch.tokens[row[:, None], inside]
        values = activations[row[:, None], inside, latent[:, None]]
        self.tokens[latent, slot] = torch.where(there, text, NO_TOKEN)
        self.activations[latent, slot] = torch.where(there, values.float(), torch.nan)


class Collector:
    """Gathers the largest examples, random ones from intervals, a histogram, and who fires together."""

    def __init__(
        self,
        chosen: Int[Tensor, " n"],
        bounds: Float[Tensor, "n edge"],
        d_sae: int,
        *,
        n_examples: int,
        n_random: int,
        window: int,
        n_bins: int,
        generator: torch.Generator,
    ) -> None:
        n, device = len(chosen), chosen.device
        self.chosen, self.bounds, self.generator = chosen, bounds, generator
        self.largest = KeptExamples(n, n_examples, window, device)
        self.random = [KeptExamples(n, n_random, window, device) for _ in range(bounds.shape[1] - 1)]
        self.within = torch.zeros(n, bounds.shape[1] - 1, dtype=torch.long, device=device)
        """Firings in each interval."""
        self.counts = torch.zeros(n, n_bins, dtype=torch.long, device=device)
        self.together = torch.zeros(n, d_sae, dtype=torch.int32, device=device)
        """Tokens on which a chosen latent fires and another does."""

    def add(self, batch: PromptActivations, latents: Float[Tensor, "row d_sae"]) -> None:
        """One batch; ``latents`` are those of its rows."""
        kept = latents[:, self.chosen].float()
        fires = (latents > 0).float()
        self.together += (fires[:, self.chosen].T @ fires).round().int()
        self._count(kept)
        activations = kept.new_full((*batch.tokens.shape, kept.shape[1]), torch.nan)
        activations[batch.read] = kept
        found = activations.nan_to_num(nan=0.0).clamp(min=0)
        best, column = found.max(dim=1)
        width = batch.tokens.shape[1]
        place = column + torch.arange(len(column), device=column.device)[:, None] * width
        self.largest.offer(best.where(best > 0, -torch.inf).T, place.T, batch, activations)
        flat = found.flatten(0, 1).T
        keys = torch.rand(flat.shape, generator=self.generator).to(flat)
        places = torch.arange(flat.shape[1], device=flat.device).expand(len(flat), -1)
        for interval, group in enumerate(self.random):
            inside = self._inside(flat, interval)
            self.within[:, interval] += inside.sum(1)
            group.offer(keys.where(inside, -torch.inf), places, batch, activations)

    def _inside(self, values: Float[Tensor, "n place"], interval: int) -> Tensor:
        low, high = self.bounds[:, interval, None], self.bounds[:, interval + 1, None]
        is_last = interval == self.bounds.shape[1] - 2
        return (values > 0) & (values >= low) & ((values <= high) if is_last else (values < high))

    def _count(self, kept: Float[Tensor, "row n"]) -> None:
        n_bins = self.counts.shape[1]
        row, latent = torch.nonzero(kept > 0, as_tuple=True)
        share = kept[row, latent] / self.bounds[latent, -1]
        place = latent * n_bins + (share * n_bins).floor().long().clamp(max=n_bins - 1)
        self.counts.view(-1).index_add_(0, place, torch.ones_like(place))
