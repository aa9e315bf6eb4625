"""Logits of a few tokens, written plainly."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.norm import Norm, normalise


def read_tokens_reference(
    resid: Float[Tensor, "row k d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "prompt c"],
    prompts: Int[Tensor, " row"] | None = None,
    b_U: Float[Tensor, " d_vocab"] | None = None,
    norm: Norm | None = None,
    soft_cap: float | None = None,
    wide: bool = False,
) -> Float[Tensor, "row k c"]:
    """See :func:`interp.kernels.readout.read_tokens`."""
    x = resid if norm is None else normalise(resid, norm)
    wanted = (tokens if prompts is None else tokens[prompts]).clamp(min=0)
    directions, bias = W_U.T[wanted], None if b_U is None else b_U[wanted][:, None]
    if wide and x.dtype in (torch.float16, torch.bfloat16):
        x, directions, bias = x.float(), directions.float(), None if bias is None else bias.float()
    logits = torch.einsum("rkd,rcd->rkc", x, directions)
    logits = logits if bias is None else logits + bias
    return logits if soft_cap is None else (logits / soft_cap).tanh() * soft_cap
