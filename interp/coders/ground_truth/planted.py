"""Data made of features that are known: sparse sums of fixed directions.

A row is ``bias + sum_f a_f d_f + noise``, with unit directions ``d_f`` (more of them than dimensions, where
features are in superposition: Elhage et al. 2022, "Toy Models of Superposition") and activations ``a_f``
that are zero for most features. A dictionary trained on the rows can then be held against the truth (Sharkey
et al. 2022, "Taking features out of superposition with sparse autoencoders").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.ground_truth.directions import DirectionKind, draw_directions
from interp.coders.ground_truth.structure import Correlated, Hierarchy, Independent, Structure
from interp.errors import CoderError, unknown_name


@dataclass(frozen=True)
class PlantedConfig:
    """What planted features are like. Raises :class:`CoderError` for settings that contradict each other."""

    name: str = "superposition"
    """For people."""
    n_features: int = 128
    d_in: int = 64
    l0: float = 4.0
    """Features that fire on a row, on average."""
    zipf: float = 0.0
    """Feature i (from 0) fires in proportion to ``(i + 1) ** -zipf``; 0: all alike."""
    structure: Structure = field(default_factory=Independent)
    directions: DirectionKind = "low-coherence"
    magnitude: tuple[float, float] = (0.5, 1.5)
    """Activations of firing features are uniform between these."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on every coordinate."""
    bias: float = 0.0
    """Length of a constant vector on every row."""
    seed: int = 0
    """Of directions and bias; rows have a seed of their own."""

    def __post_init__(self) -> None:
        low, high = self.magnitude
        if self.n_features < 1 or self.d_in < 1 or not 0 < self.l0 <= self.n_features:
            raise CoderError(
                f"features, dimensions and l0 are positive, l0 at most the features; got {self.n_features}, "
                f"{self.d_in}, {self.l0}."
            )
        if not 0 < low <= high or self.noise < 0 or self.bias < 0:
            raise CoderError(
                f"magnitudes are a positive range, noise and bias at least 0; got {self.magnitude}, "
                f"{self.noise}, {self.bias}."
            )
        self.structure.check(self.n_features)
        largest = float(self.probabilities().max())
        if largest > 1:
            raise CoderError(
                f"one feature would have to fire on {largest:.2f} of all rows; lower l0 or zipf, or plant more."
            )

    def probabilities(self) -> Float[Tensor, " feature"]:
        """How often each feature fires; they sum to ``l0``."""
        weights = torch.arange(1, self.n_features + 1, dtype=torch.float64) ** -self.zipf
        found = self.structure.marginals(weights)
        return (found * (self.l0 / found.sum())).float()


@dataclass(frozen=True, eq=False)
class PlantedRows:
    """Rows and the activations behind them."""

    x: Float[Tensor, "row d_in"]
    target: Float[Tensor, "row d_out"]
    """``x`` itself, but for a transcoder."""
    activations: Float[Tensor, "row feature"]


@dataclass(frozen=True, eq=False)
class PlantedFeatures:
    """Features that data are made of; :func:`plant_features` draws them."""

    config: PlantedConfig
    directions: Float[Tensor, "feature d_in"]
    """Of length 1."""
    bias: Float[Tensor, " d_in"]

    @property
    def name(self) -> str:
        """For people."""
        return f"planted {self.config.name}"

    @property
    def n_features(self) -> int:
        """Features there are."""
        return len(self.directions)

    @property
    def written(self) -> Float[Tensor, "feature d_out"]:
        """The direction in the target that each feature stands for: what a decoder should find."""
        return self.directions

    @property
    def probabilities(self) -> Float[Tensor, " feature"]:
        """Share of rows where each feature fires."""
        return self.config.probabilities()

    @property
    def parents(self) -> Int[Tensor, " feature"]:
        """Number of each feature's parent; -1 without one."""
        return self.config.structure.parents(self.n_features)

    def sample(
        self, n: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row feature"]]:
        """``n`` rows, and each feature's activation on them (0 where it does not fire)."""
        firing = self.config.structure.fire(self.probabilities, n, generator)
        low, high = self.config.magnitude
        sizes = low + (high - low) * torch.rand(firing.shape, generator=generator)
        activations = sizes * firing
        x = activations @ self.directions + self.bias
        if self.config.noise:
            x = x + self.config.noise * torch.randn(x.shape, generator=generator)
        return x, activations

    def draw(self, n: int, generator: torch.Generator) -> PlantedRows:
        """The same as a record."""
        x, activations = self.sample(n, generator)
        return PlantedRows(x, x, activations)

    def batches(self, batch_size: int, *, seed: int = 0, rows: int | None = None) -> Iterator[CoderBatch]:
        """Batches for training, the same for the same seed; endless, or ``rows`` rows in all, the last batch short.

        Raises :class:`CoderError` for a batch of no rows.
        """
        return draw_batches(self, batch_size, seed, rows)


def draw_batches(planted: Any, batch_size: int, seed: int, rows: int | None) -> Iterator[CoderBatch]:
    """Batches of anything with a ``draw`` of :class:`PlantedRows`."""
    if batch_size < 1:
        raise CoderError(f"a batch has at least one row; got {batch_size}.")
    return _draw_batches(planted, batch_size, seed, rows)


def _draw_batches(planted: Any, batch_size: int, seed: int, rows: int | None) -> Iterator[CoderBatch]:
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while rows is None or done < rows:
        n = batch_size if rows is None else min(batch_size, rows - done)
        drawn = planted.draw(n, generator)
        yield CoderBatch(drawn.x, drawn.target)
        done += n


def plant_features(config: PlantedConfig) -> PlantedFeatures:
    """Draw the directions that a config describes, from its seed alone.

    >>> planted = plant_features(PlantedConfig(n_features=6, d_in=4, l0=1.0))
    >>> x, activations = planted.sample(10, torch.Generator().manual_seed(0))
    >>> tuple(x.shape), tuple(activations.shape)
    ((10, 4), (10, 6))
    """
    generator = torch.Generator().manual_seed(config.seed)
    directions = draw_directions(config.n_features, config.d_in, config.directions, generator)
    bias = torch.randn(config.d_in, generator=generator)
    return PlantedFeatures(config, directions, bias * (config.bias / bias.norm()))


SUITES: Mapping[str, PlantedConfig] = MappingProxyType(
    {
        "superposition": PlantedConfig("superposition", zipf=0.5),
        "hierarchy": PlantedConfig(
            "hierarchy", n_features=48, d_in=64, l0=3.0, structure=Hierarchy(n_parents=8, n_children=4)
        ),
        "correlated": PlantedConfig("correlated", zipf=0.5, structure=Correlated(group=4, correlation=0.6)),
    }
)
"""Settings that dictionaries are compared on, by name."""


def load_suite(name: str, *, seed: int = 0) -> PlantedFeatures:
    """Features of a named setting of :data:`SUITES`; ``seed`` draws other directions.

    Raises :class:`CoderError` for an unknown name.
    """
    if name not in SUITES:
        raise CoderError(unknown_name("suite", name, SUITES))
    return plant_features(replace(SUITES[name], seed=seed))
