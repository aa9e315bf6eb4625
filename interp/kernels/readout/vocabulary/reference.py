"""A summary of the vocabulary, written plainly: all logits, then what is kept of them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.norm import Norm, normalise
from interp.kernels.readout.vocabulary.summary import VocabularySummary, summarise_logits


def summarise_reference(
    resid: Float[Tensor, "row k d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "prompt c"],
    prompts: Int[Tensor, " row"] | None = None,
    b_U: Float[Tensor, " d_vocab"] | None = None,
    norm: Norm | None = None,
    soft_cap: float | None = None,
    reference: Float[Tensor, "prompt k d_vocab"] | None = None,
    others: bool = False,
    argmax: bool = False,
) -> VocabularySummary:
    """See :func:`interp.kernels.readout.summarise_vocabulary`."""
    x = resid if norm is None else normalise(resid, norm)
    if x.dtype in (torch.float16, torch.bfloat16):
        x, W_U, b_U = x.float(), W_U.float(), None if b_U is None else b_U.float()
    logits = x @ W_U if b_U is None else x @ W_U + b_U
    if soft_cap is not None:
        logits = (logits / soft_cap).tanh() * soft_cap
    return summarise_logits(logits, tokens, prompts, reference, others, argmax)
