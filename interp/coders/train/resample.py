"""Resampling: dead latents begin again at inputs that are rebuilt badly.

Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron resampling": an input is drawn with probability
proportional to its squared loss; the latent's decoder row becomes its direction, its encoder row that direction
at 0.2 times the living encoders' mean length, its bias 0, and the optimiser forgets about it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder

_SHARE = 0.2


@torch.no_grad()
def resample_dead(
    coder: Coder,
    batch: CoderBatch,
    error: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, "encoder d_sae"],
    generator: torch.Generator,
) -> None:
    """Begin dead latents again at rows of a batch in training units; ``error`` is the coder's on that batch.

    A latent of an autoencoder writes what it reads; one of a transcoder writes what the row lacks. Then
    :func:`forget_dead` is needed.
    """
    x = batch.x.flatten(1)
    for number, encoder in enumerate(coder.encoder_list):
        places = dead[number].nonzero()[:, 0]
        if not len(places):
            continue
        rest = coder.part_of_output(number, error)
        chance = (rest.square().sum(1).square() + 1e-30).cpu()
        rows = torch.multinomial(chance, len(places), replacement=True, generator=generator).to(x.device)
        inputs = coder.encoder_input(x, number)[rows]
        living = encoder.W_enc[~dead[number]]
        length = living.norm(dim=1).mean() if len(living) else encoder.W_enc.new_ones(())
        direction = _unit(inputs)
        decoder = coder.decoder_weights()[number]
        decoder[places] = _unit(rest[rows]) if coder.is_transcoder else direction
        encoder.W_enc[places] = direction * length * _SHARE
        encoder.begin_latents(places)


@torch.no_grad()
def forget_dead(coder: Coder, optimizer: torch.optim.Optimizer, dead: Bool[Tensor, "encoder d_sae"]) -> None:
    """Let the optimiser know nothing of latents that began again."""
    for number, encoder in enumerate(coder.encoder_list):
        places = dead[number].nonzero()[:, 0]
        for parameter in (coder.decoder_weights()[number], *encoder.parameters()):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # the fast point of schedule-free Adam is where the parameter is, moments are nothing
                    value[places] = parameter[places] if name == "z" else 0


def _unit(rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
