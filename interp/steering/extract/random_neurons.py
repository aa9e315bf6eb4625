"""Controls for chosen neurons: as many others of the same layer."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import SteeringError


def draw_other_neurons(taken: Int[Tensor, " k"], d_mlp: int, generator: torch.Generator) -> Int[Tensor, " k"]:
    """As many neurons of a layer of ``d_mlp`` that are not ``taken``, rising.

    Raises :class:`SteeringError` where too few are left.
    """
    free = torch.ones(d_mlp, dtype=torch.bool)
    free[taken] = False
    others = free.nonzero()[:, 0]
    if len(others) < len(taken):
        raise SteeringError(
            f"{len(taken)} of {d_mlp} neurons of a layer are chosen, which leaves {len(others)} for a control of as "
            "many; choose fewer."
        )
    return others[torch.randperm(len(others), generator=generator)[: len(taken)]].sort().values
