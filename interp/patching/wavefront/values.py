"""What is written into patched runs: the source run's activations, or an ablation made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PatchError
from interp.models.blocks import Stack, Trace, run_trace
from interp.models.blocks.geometry import find_positions
from interp.patching.replacement import spread_mean
from interp.types import PATTERN_COMPONENTS, Ablation

Values = Callable[[str, int], Tensor]
"""The replacing activation of a component and layer for the base prompts, all heads and columns."""
Place = tuple[str, int]
"""A component and its layer."""

REFERENCE_TOKENS = 4096
"""Tokens of the reference prompts that are run at once."""


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
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    if any(name in PATTERN_COMPONENTS for name, _ in places) and not bool(real.all()):
        raise PatchError(
            "the mean of attention patterns needs reference prompts without padding; give prompts of one length "
            "as reference=, or task.select(rows) of one length."
        )
    at = find_positions(real)
    longest = int(real.sum(1).max())
    totals: dict[Place, Tensor] = {}
    count = torch.bincount(at[real], minlength=longest).double()
    size = max(1, REFERENCE_TOKENS // tokens.shape[1])
    for part in torch.arange(len(tokens)).split(size):
        trace = run_trace(stack, tokens[part], None if mask is None else mask[part], places)
        for place in places:
            value = _positions_second(trace[place], place[0]).double()
            total = totals.setdefault(place, value.new_zeros(longest, *value.shape[2:]))
            total.index_add_(0, at[part][real[part]], value[real[part]])
    found = {}
    for place, total in totals.items():
        each = count.view(-1, *[1] * (total.ndim - 1))
        found[place] = (total / each if per_position else total.sum(0) / count.sum()).to(stack.model.dtype)
    return found


def _positions_second(value: Tensor, component: str) -> Tensor:
    return value.transpose(1, 2) if component in PATTERN_COMPONENTS else value
