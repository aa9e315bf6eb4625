"""Records of discrete codes with made-up codes, and a model that is named like markup."""

from __future__ import annotations

from typing import Any

import torch

from interp.results import CoderFit, DiscreteCircuit, Provenance


def make_discrete(
    n_layers: int = 3, n_heads: int = 4, n: int = 12, n_latents: int = 9, **changes: Any
) -> DiscreteCircuit:
    """Random codes of ``n`` prompts a side, every third held out; of the p-values one is small and one smaller."""
    draw = torch.Generator().manual_seed(3)
    shape = (n_layers, n_heads)
    codes = torch.randint(0, n_latents + 1, (2 * n, *shape), generator=draw, dtype=torch.int32)
    p = torch.full(shape, 0.5)
    p[0, 1], p[-1, 2] = 0.04, 0.001
    known: dict[str, Any] = dict(
        codes=codes,
        positive=torch.arange(2 * n) < n,
        held_out=torch.arange(n).repeat(2) % 3 == 0,
        n_latents=n_latents,
        normalised=False,
        paired=True,
        p_values=p,
        family_p_values=(10 * p).clamp(max=1),
        null_means=torch.rand(shape, generator=draw),
        n_shuffles=500,
        fit=CoderFit(0.1, 0.2, 3.5),
        provenance=Provenance("mix<4>l & co", task="ioi", n_prompts=32, method="discrete coder"),
    )
    return DiscreteCircuit(**known | changes)


def discrete_gallery() -> dict[str, DiscreteCircuit]:
    """In the sizes that break layouts."""
    silent = torch.full((24, 2, 3), 9, dtype=torch.int32)
    return {
        "discrete": make_discrete(),
        "discrete one layer": make_discrete(n_layers=1),
        "discrete many": make_discrete(12, 20, 40, 500, normalised=True),
        "discrete silent": make_discrete(2, 3, codes=silent),
    }
