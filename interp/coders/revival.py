"""Losses that bring dead latents back.

- *AuxK* (Gao et al. 2024, arXiv 2406.04093, appendix A.2): the dead latents with the largest pre-activations
  rebuild what the living leave over. Its gradient reaches encoder and decoder of the dead latents.
- *Ghost gradients* (Jermyn & Templeton, Transformer Circuits updates, January 2024): dead latents, with an
  exponential for their activation, rebuild half the rest; the loss is scaled to the size of the main one.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from interp.coders.encoders.base import Encoder, StepState
from interp.kernels.coder_step import SparseLatents, attach_encoder, select_top, sparse_decode


def revival_loss(
    encoder: Encoder,
    W_dec: Float[Tensor, "d_sae d_out"],
    x: Float[Tensor, "row d_in"],
    pre: Float[Tensor, "row d_sae"],
    error: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, " d_sae"],
    state: StepState,
) -> Float[Tensor, ""] | None:
    """The loss for dead latents, ``None`` if there are none.

    ``x`` is what the encoder reads, ``pre`` its pre-activations and ``error`` what the living leave over,
    without gradient.
    """
    places = dead.nonzero()[:, 0]
    if not len(places):
        return None
    if state.revival == "ghost":
        return _ghost_loss(encoder, W_dec, x, error, places)
    return _aux_loss(encoder, W_dec, x, pre, error, dead, len(places), state)


def _aux_loss(
    encoder: Encoder,
    W_dec: Tensor,
    x: Tensor,
    pre: Tensor,
    error: Tensor,
    dead: Tensor,
    n_dead: int,
    state: StepState,
) -> Tensor:
    wanted = state.aux_k if state.aux_k is not None else max(1, x.shape[1] // 2)
    k = min(wanted, n_dead)
    values, found = select_top(pre, k, allowed=dead)
    chosen = SparseLatents.from_top(values, found, encoder.d_sae)
    entries = attach_encoder(chosen, x, encoder.W_enc, encoder.b_enc)
    rebuilt = sparse_decode(entries.with_values(entries.values.relu()), W_dec)
    # few dead latents cannot rebuild much: they are not pulled at as hard
    scale = state.aux_coefficient * k / wanted
    return scale * (error - rebuilt).square().sum(1).mean()


def _ghost_loss(encoder: Encoder, W_dec: Tensor, x: Tensor, error: Tensor, places: Tensor) -> Tensor:
    ghosts = F.linear(x, encoder.W_enc[places], encoder.b_enc[places]).exp()
    rebuilt = ghosts @ W_dec[places]
    # half the length of the rest, and a loss as large as the main one
    length = error.norm(dim=1, keepdim=True) / (2 * rebuilt.norm(dim=1, keepdim=True).detach() + 1e-6)
    left = (error - rebuilt * length).square().sum(1).mean()
    main = error.square().sum(1).mean()
    return left * (main / (left.detach() + 1e-12))
