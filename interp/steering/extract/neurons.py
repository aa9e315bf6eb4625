"""Expert neurons: those whose activation alone ranks positive prompts first, forced to what they do there.

Suau, Zappella & Apostoloff 2022, "Self-Conditioning Pre-Trained Language Models" (arXiv 2110.02802): a neuron's
expertise is its average precision as a detector of the label, and the top k of all layers are set to their
expected value on positive prompts. A prompt's response is the largest over its tokens, as here by default: on the
bundled mix-4l that made the words of every value of four attributes 1.8 to 35 times likelier on neutral text, while
means over tokens, small where a neuron fires on few, raised none by more than a fifth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.steering.contrast import Contrast, read_contrast
from interp.steering.extract.detection import average_precision, order_units, separation
from interp.steering.extract.extract import build_steering, calibrate_on, keep_prompts
from interp.steering.neutral import NeutralText
from interp.steering.operations import SetNeurons
from interp.steering.prompt_reading import Pool
from interp.steering.steering import Steering
from interp.types import NEURON_COMPONENTS, Position, Site, SiteLike

NeuronValue = Literal["mean", "median"]
"""What of the positive prompts a neuron is set to."""
N_EXPERTS = 32


@dataclass(frozen=True, eq=False)
class NeuronExperts:
    """Average precision of every neuron for the label, and what it does on positive prompts."""

    sites: tuple[Site, ...]
    """Of neurons, a layer each."""
    precision: Float[Tensor, "site neuron"]
    """Average precision; ``base`` is chance."""
    value: Float[Tensor, "site neuron"]
    """Mean or median response to positive prompts."""
    gap: Float[Tensor, "site neuron"]
    """Mean on positive prompts minus mean on negative ones, in standard deviations."""
    base: float
    """Share of prompts that are positive."""

    def top(self, k: int) -> Int[Tensor, "k index"]:
        """The ``k`` best of all sites as (site, neuron), in the order of :func:`order_units`.

        Raises :class:`SteeringError` for a number that is not there.
        """
        n = self.precision.numel()
        if not 1 <= k <= n:
            raise SteeringError(f"there are {n} neurons to choose from; got k={k}.")
        order = order_units(self.precision.flatten(), self.gap.flatten())[:k]
        return torch.stack([order // self.precision.shape[1], order % self.precision.shape[1]], dim=1)


def rank_experts(contrast: Contrast, value: NeuronValue = "mean") -> NeuronExperts:
    """Expertise of every neuron at those sites of a contrast that have neurons.

    Raises :class:`SteeringError` where none has, and for an unknown value.
    """
    if value not in get_args(NeuronValue):
        raise SteeringError(unknown_name("value of neurons", value, get_args(NeuronValue)))
    sites = tuple(site for site in contrast.rows if site.component in NEURON_COMPONENTS)
    if not sites:
        raise SteeringError(
            f"neurons are at {', '.join(sorted(NEURON_COMPONENTS))}; the contrast was read at "
            f"{', '.join(map(str, contrast.rows))}."
        )
    rows = [contrast.rows[site] for site in sites]
    precision, gap, values = [], [], []
    for one in rows:
        x, labels = one.stacked()
        precision.append(average_precision(x, labels > 0).float())
        gap.append(separation(x, labels > 0))
        values.append(one.positive.mean(0) if value == "mean" else one.positive.median(0).values)
    base = len(rows[0].positive) / (len(rows[0].positive) + len(rows[0].negative))
    return NeuronExperts(sites, torch.stack(precision), torch.stack(values), torch.stack(gap), base)


def experts_of(
    contrast: Contrast,
    k: int = N_EXPERTS,
    *,
    value: NeuronValue = "mean",
    at: Position | Sequence[Position] | None = None,
) -> Steering:
    """The steering that sets the ``k`` best neurons of a contrast, a step a layer; its dose is not calibrated.

    At strength 1 they have their value; strengths between move them part of the way. Raises as :func:`rank_experts`
    and :meth:`NeuronExperts.top`.
    """
    found = rank_experts(contrast, value)
    top = found.top(k)
    operations = {}
    for number, site in enumerate(found.sites):
        neurons = top[top[:, 0] == number, 1].sort().values
        if len(neurons):
            operations[site] = SetNeurons(neurons, found.value[number, neurons], found.value.shape[1])
    return build_steering(contrast, operations, "expert-neurons", at)


def extract_experts(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    sites: SiteLike | Iterable[SiteLike] = "mlp_post",
    *,
    k: int = N_EXPERTS,
    value: NeuronValue = "mean",
    pool: Pool = "max",
    at: Position | Sequence[Position] | None = None,
    neutral: Prompts | NeutralText | None = None,
    calibrate: bool = True,
    max_dose: float = 2.0,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Steering:
    """A steering that sets the ``k`` neurons that are the best detectors of the attribute (Suau et al. 2022).

    ``sites`` are of neurons, all layers by default; the best of all layers together are taken. A prompt's response is
    the largest over its tokens (``pool="mean"``: the mean), and so is the ``value`` that neurons are set to at
    every token. Its dose has an end, at strength 1. Raises :class:`SteeringError` as :func:`experts_of`.
    """
    positive, negative = keep_prompts(positive), keep_prompts(negative)
    contrast = read_contrast(
        model, positive, negative, sites, pool=pool, paired=False, batch_size=batch_size, progress=progress
    )
    steering = experts_of(contrast, k, value=value, at=at)
    if not calibrate:
        return steering
    return calibrate_on(
        model, steering, positive, negative, neutral, max_dose=max_dose, seed=seed, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
