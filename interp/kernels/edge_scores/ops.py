"""The kernel as an operator of PyTorch, with its gradients."""

from typing import Any, Optional

import torch
from torch import Tensor

from interp.kernels.edge_scores.triton import multiply_pairs


@torch.library.custom_op("interp::edge_scores", mutates_args=())
def edge_scores(
    changed: Tensor,
    gradient: Tensor,
    base: Optional[Tensor],  # noqa: UP045
    reach: Optional[Tensor],  # noqa: UP045
    segment: Optional[Tensor],  # noqa: UP045
    n_segments: int,
) -> Tensor:
    """Scores [segment, reader, writer] in fp32; ``segment`` [prompt, pos] is -1 where a column counts for nothing.

    Without it a segment is a prompt, or everything if ``n_segments`` is 1.
    """
    return multiply_pairs(changed, gradient, base, reach, segment, n_segments)


@edge_scores.register_fake
def _(
    changed: Tensor,
    gradient: Tensor,
    base: Optional[Tensor],  # noqa: UP045
    reach: Optional[Tensor],  # noqa: UP045
    segment: Optional[Tensor],  # noqa: UP045
    n_segments: int,
) -> Tensor:
    return changed.new_empty(n_segments, gradient.shape[0], changed.shape[0], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])


def _differentiate(ctx: Any, at_scores: Tensor) -> tuple[Optional[Tensor], ...]:  # noqa: UP045
    changed, gradient, base, reach, segment = ctx.saved_tensors
    n_writers, n_prompts = changed.shape[:2]
    if reach is not None:
        is_edge = torch.arange(n_writers, device=reach.device) < reach[:, None]
        at_scores = torch.where(is_edge, at_scores, 0.0)
    if segment is None:
        of, shape = "b" if at_scores.shape[0] == n_prompts else "", at_scores.shape[1:]
        at_scores = at_scores if of else at_scores.reshape(shape)
    else:
        of = "bp"
        counts = (segment >= 0)[:, :, None, None]
        at_scores = torch.where(counts, at_scores[segment.clamp(min=0)], 0.0)
    at_changed = at_gradient = at_base = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        found = torch.einsum(f"{of}rw,rbpd->wbpd", at_scores, gradient.float())
        at_changed = found.to(changed.dtype) if ctx.needs_input_grad[0] else None
        at_base = (-found).to(changed.dtype) if ctx.needs_input_grad[2] else None
    if ctx.needs_input_grad[1]:
        change = changed.float() if base is None else changed.float() - base.float()
        at_gradient = torch.einsum(f"{of}rw,wbpd->rbpd", at_scores, change).to(gradient.dtype)
    return at_changed, at_gradient, at_base, None, None, None


edge_scores.register_autograd(_differentiate, setup_context=_keep)
