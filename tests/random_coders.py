"""Small coders with random weights, for tests that need one and not a good one."""

from __future__ import annotations

from typing import Any

import torch

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape

D_SAE = 29


def random_coder(
    architecture: str,
    d_in: int,
    d_out: int | None = None,
    *,
    sites: tuple[str, ...] = (),
    targets: tuple[str, ...] | None = None,
    seed: int = 0,
    **options: Any,
) -> Coder:
    """A coder none of whose weights is zero; of several sites, a cross-layer transcoder or crosscoder."""
    config = CoderConfig(architecture=architecture, d_sae=D_SAE, **({"k": 4} | options))
    n = len(sites) if len(sites) > 1 else 0
    shape = CoderShape(d_in, d_out or d_in, n, n)
    coder = make_coder(config, shape, sites=sites, target_sites=targets, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    return coder
