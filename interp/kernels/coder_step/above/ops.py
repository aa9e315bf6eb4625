"""Entries above a limit, known to ``torch.compile``. No gradients pass here."""

import torch
from torch import Tensor

from interp.kernels.coder_step.above.triton import collect_above


@torch.library.custom_op("interp::coder_step_above", mutates_args=())
def above(scores: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values and columns [entry], and where each row begins [row + 1]."""
    return collect_above(scores, limits)


@above.register_fake
def _(scores: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n = torch.library.get_ctx().new_dynamic_size()
    return (
        scores.new_empty(n),
        scores.new_empty(n, dtype=torch.long),
        scores.new_empty(scores.shape[0] + 1, dtype=torch.long),
    )
