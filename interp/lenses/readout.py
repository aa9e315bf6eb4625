"""From the residual stream to logits: final norm, unembedding, soft cap, in fp32."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.model import Model
from interp.models.norms import apply_norm, pull_back, widen
from interp.tasks.base import NO_TOKEN


class Readout:
    """What the model does to the last residual stream, as a function of any residual stream."""

    def __init__(self, model: Model) -> None:
        weights = model.weights
        self.traits = model.traits
        self.norm = weights.ln_final
        self.W_U: Float[Tensor, "d_model d_vocab"] = widen(weights.W_U.detach())
        self.b_U: Float[Tensor, " d_vocab"] | None = None
        if weights.b_U is not None:
            self.b_U = widen(weights.b_U.detach())

    def uncapped_logits(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_vocab"]:
        """Logits before the family's final soft cap."""
        logits = apply_norm(resid, self.norm, self.traits) @ self.W_U
        return logits if self.b_U is None else logits + self.b_U

    def logits(self, resid: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_vocab"]:
        """Logits as the model gives them; Gemma 2's are ``cap * tanh(logits / cap)``."""
        logits = self.uncapped_logits(resid)
        cap = self.traits.final_soft_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def unembedding(self, ids: Int[Tensor, "batch k"]) -> Float[Tensor, "batch d_model"]:
        """Mean column of ``W_U`` over each row's tokens, ``NO_TOKEN`` left out."""
        columns = self.W_U.T[ids.clamp(min=0)]
        real = (ids != NO_TOKEN).to(columns)
        return (columns * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    def unembedding_bias(self, ids: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
        """Mean of ``b_U`` over each row's tokens."""
        real = (ids != NO_TOKEN).to(self.W_U)
        if self.b_U is None:
            return torch.zeros_like(real[:, 0])
        return (self.b_U[ids.clamp(min=0)] * real).sum(1) / real.sum(1)

    def direction_in_stream(
        self, unembedding: Float[Tensor, "*rest d_model"], final: Float[Tensor, "*rest d_model"]
    ) -> Float[Tensor, "*rest d_model"]:
        """The direction of the residual stream that ``unembedding`` reads through the final norm.

        The norm's scale is that of ``final``, the last residual stream of the run.
        """
        return pull_back(unembedding, final, self.norm, self.traits)

    def norm_bias(self, unembedding: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest"]:
        """What the final norm's bias adds along ``unembedding``."""
        if self.norm is None or self.norm.b is None:
            return torch.zeros_like(unembedding[..., 0])
        return unembedding @ widen(self.norm.b.detach())
