"""A small ReLU coder, and one step of its training written out.

``h = relu((x - b_dec) W_enc + b_enc)``, ``x' = h W_dec + b_dec``; the loss is the mean over outputs of
``|x' - x|^2 + l1 sum(h)``. Rows of ``W_dec`` have length 1, or the penalty could be escaped by small latents
and long rows (Bricken et al. 2023, "Towards Monosemanticity").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@dataclass(frozen=True)
class DiscreteCoder:
    """Weights of a coder, or their gradients. Training changes the tensors in place."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    """Taken off the input and added to the output."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All four, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def encode(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_sae"]:
        """Latents, none negative."""
        return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()

    def decode(self, latents: Float[Tensor, "*rest d_sae"]) -> Float[Tensor, "*rest d_in"]:
        """The reconstruction."""
        return latents @ self.W_dec + self.b_dec

    def codes(self, x: Float[Tensor, "*rest d_in"]) -> Int[Tensor, "*rest"]:
        """The latent that fires most, the first of equal ones; ``d_sae`` where none fires."""
        strongest, code = self.encode(x).max(dim=-1)
        return torch.where(strongest > 0, code, len(self.b_enc))


def start_coder(mean: Float[Tensor, " d_in"], n_latents: int, generator: torch.Generator) -> DiscreteCoder:
    """Random directions for the decoder, the encoder their transpose, and ``b_dec`` at the data's mean."""
    W_dec = torch.randn(n_latents, len(mean), generator=generator).to(mean)
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    return DiscreteCoder(W_dec.T.contiguous(), mean.new_zeros(n_latents), W_dec, mean.clone())


def loss_and_gradients(
    coder: DiscreteCoder, x: Float[Tensor, "row d_in"], l1: float
) -> tuple[Float[Tensor, ""], DiscreteCoder]:
    """The loss on some outputs, and its gradient with respect to every weight."""
    centred = x - coder.b_dec
    latents = (centred @ coder.W_enc + coder.b_enc).relu()
    error = latents @ coder.W_dec + coder.b_dec - x
    loss = (error.square().sum() + l1 * latents.sum()) / len(x)
    d_out = error * (2 / len(x))
    d_pre = (d_out @ coder.W_dec.T + l1 / len(x)) * (latents > 0)
    d_b_enc = d_pre.sum(0)
    return loss, DiscreteCoder(
        W_enc=centred.T @ d_pre,
        b_enc=d_b_enc,
        W_dec=latents.T @ d_out,
        b_dec=d_out.sum(0) - coder.W_enc @ d_b_enc,
    )


class _Adam:
    """Kingma and Ba 2015, algorithm 1, on the weights of one coder."""

    def __init__(self, coder: DiscreteCoder, learning_rate: float) -> None:
        self._weights = coder.tensors
        self._means = [torch.zeros_like(weight) for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        self._rate, self._n = learning_rate, 0

    def step(self, gradients: DiscreteCoder) -> None:
        self._n += 1
        first, second = (1 - beta**self._n for beta in _BETAS)
        moments = zip(self._weights, self._means, self._squares, gradients.tensors, strict=True)
        for weight, mean, square, gradient in moments:
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.lerp_(gradient.square(), 1 - _BETAS[1])
            weight.sub_(mean / ((square / second).sqrt() + _EPSILON), alpha=self._rate / first)


@torch.no_grad()
def train_coder(
    coder: DiscreteCoder,
    draw: Callable[[], Float[Tensor, "row d_in"]],
    *,
    l1: float,
    steps: int,
    learning_rate: float,
    progress: bool,
) -> None:
    """Train a coder in place, each step on the outputs that ``draw`` gives."""
    optimiser = _Adam(coder, learning_rate)
    for _ in tqdm(range(steps), desc="coder", unit="step", disable=not progress):
        _, gradients = loss_and_gradients(coder, draw(), l1)
        optimiser.step(gradients)
        coder.W_dec.div_(coder.W_dec.norm(dim=1, keepdim=True).clamp(min=_EPSILON))
