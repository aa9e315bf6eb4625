"""Choosing the k largest of every row, known to ``torch.compile``. No gradients pass here."""

import torch
from torch import Tensor

from interp.kernels.coder_step.top.triton import choose_top


@torch.library.custom_op("interp::coder_step_top", mutates_args=())
def top(scores: Tensor, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values and places [row, k]."""
    return choose_top(scores, k, allowed)


@top.register_fake
def _(scores: Tensor, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], k)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.long)
