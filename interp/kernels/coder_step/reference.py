"""The same operations written plainly, on dense matrices; the truth that the others are tested against."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def encode_reference(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"] | None,
    kept: Bool[Tensor, "row d_sae"],
) -> Float[Tensor, "row d_sae"]:
    """Pre-activations where ``kept``, zero elsewhere."""
    pre = x @ W_enc.T
    if b_enc is not None:
        pre = pre + b_enc
    return torch.where(kept, pre, 0)


def decode_reference(
    latents: Float[Tensor, "row d_sae"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "row d_out"]:
    """``latents @ W_dec``."""
    return latents @ W_dec


def top_reference(scores: Float[Tensor, "row d_sae"], k: int) -> Bool[Tensor, "row d_sae"]:
    """Which entries are among the k largest of their row."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    return kept.scatter(1, scores.topk(k, dim=1).indices, True)


def top_of_all_reference(scores: Float[Tensor, "row d_sae"], n: int) -> Bool[Tensor, "row d_sae"]:
    """Which entries are among the n largest of the matrix."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.reshape(-1).topk(n).indices] = True
    return kept.view_as(scores)
