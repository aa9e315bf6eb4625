"""The search of the refusal-direction work: ablate each candidate, and keep those that cost little and induce.

Arditi et al. 2024 (arXiv 2406.11717, appendix C): of directions read at all layers and positions, take the one
whose ablation lowers the behaviour most on prompts that show it (the bypass score), among those whose ablation
moves harmless prompts by less than 0.1 nats of KL, whose addition makes the behaviour more likely than not (an
inducing score above 0), and which lie in the first 80 % of layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.dose import measure_kl
from interp.steering.extract.compare import STREAM, space_of
from interp.steering.neutral import NeutralText
from interp.steering.operations import ProjectOut
from interp.steering.search.candidates import Candidate, Candidates
from interp.steering.search.objective import Objective, Rows, measure_objective
from interp.steering.steering import Steering, Step
from interp.types import Site

_WRITERS = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class KLFilter:
    """Which candidates pass. The defaults are the paper's. Raises :class:`SteeringError` for bad numbers."""

    max_kl: float = 0.1
    """Nats a token that ablating may move neutral text by."""
    min_inducing: float = 0.0
    """The objective must be above this when the direction is added at strength 1; log-odds of 0 are even odds."""
    relative: bool = False
    """Count the inducing score from the unsteered model's objective, where 0 has no meaning of its own."""
    layers: float = 0.8
    """Share of layers, from the first, that may be chosen."""

    def __post_init__(self) -> None:
        if not self.max_kl > 0 or math.isnan(self.min_inducing) or not 0 < self.layers <= 1:
            raise SteeringError(
                "a filter has max_kl above 0, min_inducing that is a number and layers, a share, in (0, 1]; got "
                f"{self.max_kl}, {self.min_inducing} and {self.layers}."
            )

    def allows_layer(self, layer: int | None, n_layers: int) -> bool:
        """Whether a layer lies in the first part; the embedding does."""
        return layer is None or layer < math.floor(self.layers * n_layers + 1e-9)


@dataclass(frozen=True, eq=False)
class FilterScores:
    """What was measured of every candidate, and which pass."""

    bypass: Float[Tensor, " candidate"]
    """How much ablating lowers the objective on positive prompts."""
    inducing: Float[Tensor, " candidate"]
    """The objective on negative prompts with the direction added, or its rise where the filter is relative."""
    kl: Float[Tensor, " candidate"]
    """Of ablating, on neutral text."""
    passed: Bool[Tensor, " candidate"]


def ablation(model: Model, candidate: Candidate) -> Steering:
    """Take the direction out of all that is written to the residual stream, at every token.

    A direction of another space than the stream's, such as of heads or neurons, is taken out at its own site.
    """
    out = ProjectOut.span(candidate.direction)
    sites = [candidate.place]
    if space_of(candidate.place) == STREAM:
        written = [name for name in _WRITERS if name in model.components]
        layers = range(model.traits.n_layers)
        sites = [Site("resid_pre", layer) for layer in layers]
        sites += [Site(name, layer) for layer in layers for name in written]
    return Steering(tuple(Step(site, out) for site in sites), "ablation")


def score_filter(
    model: Model,
    candidates: Candidates,
    positive: Rows,
    negative: Rows,
    objective: Objective,
    text: NeutralText,
    limits: KLFilter,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> FilterScores:
    """Ablate and add every candidate. ``positive`` prompts show the behaviour, ``negative`` ones do not."""
    from tqdm.auto import tqdm

    base = measure_objective(model, positive, objective, batch_size).mean()
    zero = measure_objective(model, negative, objective, batch_size).mean() if limits.relative else 0.0
    measured = []
    for candidate in tqdm(candidates.every, disable=not progress, desc="kl-filter"):
        without = ablation(model, candidate)
        kl = measure_kl(model, without, [1.0], text, batch_size=batch_size).mean[0]
        with without.apply(model, strength=1.0):
            ablated = measure_objective(model, positive, objective, batch_size).mean()
        with candidate.add().apply(model, strength=1.0):
            induced = measure_objective(model, negative, objective, batch_size).mean()
        measured.append(torch.stack([base - ablated, induced - zero, kl]))
    bypass, inducing, kls = torch.stack(measured).unbind(1)
    early = torch.tensor(
        [limits.allows_layer(one.place.layer, model.traits.n_layers) for one in candidates.every]
    )
    passed = (kls < limits.max_kl) & (inducing > limits.min_inducing) & early
    return FilterScores(bypass, inducing, kls, passed)
