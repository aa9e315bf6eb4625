"""Transport and pooling written out: samples repeated to one size, one neuron and one prompt at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

import interp
from interp.models.interventions import apply
from interp.models.model import Model
from interp.types import Site


def naive_distance(source: Tensor, target: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance a neuron: both samples repeated to one size, sorted, compared."""
    size = math.lcm(len(source), len(target))
    found = []
    for x, y in zip(source.T.tolist(), target.T.tolist(), strict=True):
        many_x = sorted(v for v in x for _ in range(size // len(x)))
        many_y = sorted(v for v in y for _ in range(size // len(y)))
        found.append(sum((a - b) ** 2 for a, b in zip(many_x, many_y, strict=True)) / size)
    return torch.tensor(found, dtype=torch.float64)


def naive_pooled(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    maps: Mapping[Site, Callable[[Tensor], Tensor]] | None = None,
) -> dict[Site, Tensor]:
    """Mean activation at every site, one prompt at a time without padding, while maps act at whole sites."""
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for prompt in prompts:
        items = [apply(site, one) for site, one in (maps or {}).items()]
        tokens = torch.tensor([list(prompt)])
        with torch.no_grad():
            if items:
                with interp.intervene(model, items):
                    cache = interp.capture(model, tokens, list(sites))
            else:
                cache = interp.capture(model, tokens, list(sites))
        for site in sites:
            value = cache[site]
            found[site].append(value.reshape(*value.shape[:2], -1)[0].mean(0).double())
    return {site: torch.stack(rows) for site, rows in found.items()}


def random_rows(seed: int, n: int, d_vocab: int = 53, low: int = 3, high: int = 9) -> list[list[int]]:
    """Prompts of unequal lengths."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (n,), generator=draw).tolist()
    return [torch.randint(1, d_vocab, (k,), generator=draw).tolist() for k in lengths]


def numeric_gradient(
    function: Callable[[], float], parameter: Tensor, index: tuple[int, ...], step: float
) -> float:
    """Central difference in one entry of a tensor that is changed in place."""
    with torch.no_grad():
        before = parameter[index].item()
        parameter[index] = before + step
        high = function()
        parameter[index] = before - step
        low = function()
        parameter[index] = before
    return (high - low) / (2 * step)
