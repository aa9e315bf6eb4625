"""What is written into patched runs: the source run's activations, or an ablation made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models.blocks import Stack, Trace, run_trace
from interp.patching.replacement import mean_over_prompts, spread_mean
from interp.types import Ablation

Values = Callable[[str, int], Tensor]
"""The replacing activation of a component and layer for the base prompts, all heads and columns."""
Place = tuple[str, int]
"""A component and its layer."""


def read_places(places: Iterable[Place]) -> set[Place]:
    """What has to be kept of a run for these replacing activations: heads' results are read as z."""
    return {("z" if name == "result" else name, layer) for name, layer in places}


def replacing_values(
    kind: Ablation,
    base: Trace,
    source: Trace | None,
    means: Mapping[Place, Tensor],
    positions: Int[Tensor, "prompt pos"],
) -> Values:
    """The replacing activations of an ablation: ``source`` is the source run, or the resampled one.

    ``positions`` are those of the base prompts' columns, -1 on padding.
    """

    @cache
    def value(component: str, layer: int) -> Tensor:
        if source is not None and kind in ("source", "resample"):
            return source[component, layer]
        own = base[component, layer]
        if kind == "zero":
            return torch.zeros_like(own)
        per_position = kind == "mean-per-position"
        return spread_mean(means[component, layer], own, component, positions, per_position)

    return value


@torch.no_grad()
def mean_activations(
    stack: Stack,
    tokens: Int[Tensor, "prompt pos"],
    mask: Bool[Tensor, "prompt pos"] | None,
    places: Iterable[Place],
    per_position: bool,
) -> dict[Place, Tensor]:
    """Means over the real tokens of reference prompts, run a few at a time.

    With ``per_position`` over the prompts at each position: [position, ...]; patterns are
    [dest_pos, head, src_pos].
    """
    places = read_places(places)

    def run(some: Tensor, real: Tensor | None) -> Trace:
        return run_trace(stack, some, real, places)

    return mean_over_prompts(run, tokens, mask, places, per_position, stack.model.dtype)
