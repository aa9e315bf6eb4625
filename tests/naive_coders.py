"""Losses of sparse coders written out on dense matrices, for autograd to differentiate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Step(torch.autograd.Function):
    """1 above 0, with a window's gradient towards the threshold only."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() / ctx.width < 0.5).to(pre)
        return None, (-window / ctx.width * grad).sum(0), None


def keep_top(scores: Tensor, k: int) -> Tensor:
    """Mask of each row's k largest."""
    return torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)


def keep_top_of_all(scores: Tensor, n: int) -> Tensor:
    """Mask of the matrix' n largest."""
    flat = torch.zeros(scores.numel(), dtype=scores.dtype)
    flat[scores.reshape(-1).topk(n).indices] = 1.0
    return flat.view_as(scores)


def fire(rule: str, w: dict[str, Tensor], x: Tensor, k: int, width: float, grad: Tensor | None) -> Tensor:
    """Latents [row, d_sae] by one of the rules."""
    pre = x @ w["W_enc"].T + w["b_enc"]
    if rule == "standard":
        return pre.relu()
    if rule == "topk":
        return pre.relu() * keep_top(pre.detach(), k)
    if rule in ("batch-topk", "matryoshka"):
        return pre.relu() * keep_top_of_all(pre.detach(), k * len(x))
    if rule == "gradient":
        assert grad is not None
        effect = (pre.relu() * (grad @ w["W_dec"].T).abs()).detach()
        return pre.relu() * keep_top(effect, k)
    if rule == "jumprelu":
        threshold = w["log_threshold"].exp()
        above = (pre > threshold).to(pre).detach()
        # towards the threshold: -threshold / width inside the window
        jump = Step.apply(pre.detach(), threshold, width)
        return pre * above + (jump - jump.detach()) * threshold.detach()
    assert rule == "gated"
    product = x @ w["W_enc"].T
    opened = (pre > 0).to(pre).detach()
    return opened * (product * w["r_mag"].exp() + w["b_mag"]).relu()


def penalty(
    rule: str, w: dict[str, Tensor], x: Tensor, latents: Tensor, norms: Tensor, width: float
) -> Tensor:
    """The sparsity penalty, before its coefficient."""
    pre = x @ w["W_enc"].T + w["b_enc"]
    if rule == "standard":
        return (latents * norms).sum(1).mean()
    if rule == "gated":
        return (pre.relu() * norms.detach()).sum(1).mean()
    assert rule == "jumprelu"
    return Step.apply(pre.detach(), w["log_threshold"].exp(), width).sum(1).mean()


def squared(error: Tensor) -> Tensor:
    """Squared error, summed over outputs, a mean over rows."""
    return error.square().sum(1).mean()


def aux_loss(
    w: dict[str, Tensor], x: Tensor, error: Tensor, dead: Tensor, wanted: int, share: float
) -> Tensor:
    """AuxK of one encoder."""
    pre = x @ w["W_enc"].T + w["b_enc"]
    k = min(wanted, int(dead.sum()))
    kept = keep_top(pre.detach().masked_fill(~dead, -torch.inf), k)
    return share * k / wanted * squared(error - (pre.relu() * kept) @ w["W_dec"])
