"""A planted map: features read in one place, and what each of them writes in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.ground_truth.directions import draw_directions
from interp.coders.ground_truth.planted import PlantedFeatures, PlantedRows, draw_batches
from interp.errors import CoderError


@dataclass(frozen=True, eq=False)
class PlantedTranscoder:
    """Input features with a known sparse map to output features.

    ``target = activations @ map @ output_directions + x @ skip``: input feature f writes the direction
    ``map[f] @ output_directions``, which a transcoder's decoder should find.
    """

    features: PlantedFeatures
    map: Float[Tensor, "feature out_feature"]
    output_directions: Float[Tensor, "out_feature d_out"]
    skip: Float[Tensor, "d_in d_out"] | None = None
    """A linear map beside the features."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.features.name} transcoder"

    @property
    def n_features(self) -> int:
        """Input features."""
        return self.features.n_features

    @property
    def written(self) -> Float[Tensor, "feature d_out"]:
        """What each input feature adds to the target where it fires with 1."""
        return self.map @ self.output_directions

    @property
    def probabilities(self) -> Float[Tensor, " feature"]:
        """Share of rows where each feature fires."""
        return self.features.probabilities

    @property
    def parents(self) -> Int[Tensor, " feature"]:
        """Number of each feature's parent; -1 without one."""
        return self.features.parents

    def draw(self, n: int, generator: torch.Generator) -> PlantedRows:
        """``n`` rows with their targets and activations."""
        x, activations = self.features.sample(n, generator)
        target = activations @ self.written
        if self.skip is not None:
            target = target + x @ self.skip
        return PlantedRows(x, target, activations)

    def batches(self, batch_size: int, *, seed: int = 0, rows: int | None = None) -> Iterator[CoderBatch]:
        """As :meth:`PlantedFeatures.batches`, with the targets."""
        return draw_batches(self, batch_size, seed, rows)


def plant_transcoder(
    features: PlantedFeatures,
    *,
    d_out: int | None = None,
    n_outputs: int = 64,
    fan_out: int = 3,
    skip: float = 0.0,
    seed: int = 0,
) -> PlantedTranscoder:
    """Draw a map in which each input feature writes ``fan_out`` of ``n_outputs`` output features.

    Weights are random signs over ``sqrt(fan_out)``. ``d_out`` is by default as wide as the input; ``skip`` is
    the gain of a random orthogonal-like linear map beside it, 0 for none. Raises :class:`CoderError` for a
    fan-out that is not there.
    """
    if not 1 <= fan_out <= n_outputs:
        raise CoderError(f"fan_out lies between 1 and {n_outputs} outputs; got {fan_out}.")
    d_in = features.config.d_in
    width = d_out or d_in
    generator = torch.Generator().manual_seed(seed)
    outputs = draw_directions(n_outputs, width, "low-coherence", generator)
    chosen = torch.rand(features.n_features, n_outputs, generator=generator).topk(fan_out).indices
    signs = torch.randint(2, chosen.shape, generator=generator) * 2.0 - 1
    weights = torch.zeros(features.n_features, n_outputs).scatter_(1, chosen, signs / fan_out**0.5)
    linear = skip * torch.randn(d_in, width, generator=generator) / d_in**0.5 if skip else None
    return PlantedTranscoder(features, weights, outputs, linear)
