"""Resampling: dead latents begin again at inputs that are rebuilt badly.

Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron resampling": an input is drawn with probability
proportional to its squared loss; the latent's decoder row becomes its direction, its encoder row that direction
at 0.2 times the living encoders' mean length, its bias 0, and the optimiser forgets about it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder

_SHARE = 0.2


@torch.no_grad()
def resample_dead(
    coder: Coder,
    optimizer: Any,
    batch: CoderBatch,
    error: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, "encoder d_sae"],
    generator: torch.Generator,
) -> int:
    """Begin dead latents again at rows of a batch in training units; returns how many.

    ``error`` is the coder's on that batch.
    """
    x = batch.x.flatten(1)
    for number, encoder in enumerate(coder.encoder_list):
        places = dead[number].nonzero()[:, 0]
        if not len(places):
            continue
        rest = coder.part_of_output(number, error)
        loss = rest.square().sum(1)
        chance = (loss.square() + 1e-30).cpu()
        rows = torch.multinomial(chance, len(places), replacement=True, generator=generator).to(x.device)
        inputs = coder.encoder_input(x, number)[rows]
        living = encoder.W_enc[~dead[number]]
        length = living.norm(dim=1).mean() if len(living) else encoder.W_enc.new_ones(())
        direction = inputs / inputs.norm(dim=1, keepdim=True).clamp(min=1e-12)
        decoder = coder.decoder_weights()[number]
        written = rest[rows] if decoder.shape[1] != direction.shape[1] or coder.is_transcoder else direction
        decoder[places] = written / written.norm(dim=1, keepdim=True).clamp(min=1e-12)
        encoder.W_enc[places] = direction * length * _SHARE
        encoder.b_enc[places] = 0
        for parameter in (decoder, encoder.W_enc, encoder.b_enc):
            _forget(optimizer, parameter, places)
    return int(dead.sum())


def _forget(optimizer: Any, parameter: nn.Parameter, places: Tensor) -> None:
    for name, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # the fast point of schedule-free Adam is where the parameter is, moments are nothing
            value[places] = parameter[places] if name == "z" else 0
