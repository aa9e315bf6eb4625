"""What encoders share: a dense product, a choice of entries, their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.coders.config import CoderConfig
from interp.kernels.coder_step import (
    SparseLatents,
    Workspace,
    attach_encoder,
    pre_activations,
    take_by_latent,
)


@dataclass(frozen=True)
class StepState:
    """What a training step tells the coder: the schedules' values, and which latents are dead."""

    k: int | None = None
    sparsity: float = 0.0
    """Coefficient of the sparsity penalty now."""
    dead: Bool[Tensor, "encoder d_sae"] | None = None
    revival: str = "none"
    """What the loss does for dead latents: ``auxk``, ``ghost`` or ``none``."""
    aux_k: int | None = None
    """Dead latents that rebuild a row's error; by default half the input's width."""
    aux_coefficient: float = 1 / 32


@dataclass(frozen=True)
class Fired:
    """What an encoder made of some rows."""

    latents: SparseLatents
    pre: Float[Tensor, "row d_sae"]
    """Pre-activations of all latents, without gradient; in training they last until the next rows."""
    gates: SparseLatents | None = None
    """Gated coders: the open gates' own values."""
    wider: SparseLatents | None = None
    """Top-k with a second loss: its more numerous latents."""


@dataclass(frozen=True)
class DecoderView:
    """What an encoder may ask of the decoder."""

    norms: Callable[[], Float[Tensor, " d_sae"]]
    """Gives the length of every decoder row (of a crosscoder: summed over sites)."""
    W_dec: Float[Tensor, "d_sae d_out"]
    grad: Float[Tensor, "row d_out"] | None = None
    """Gradient of the language model's loss with respect to the output, where the batch has it."""


class Encoder(nn.Module, ABC):
    """``pre = x W_enc^T + b_enc``, of which some entries fire.

    ``x`` comes centred already. In training mode :meth:`fire` follows the rule of training (a batch's top k,
    say), in evaluation mode that of use; both give gradients.
    """

    name: ClassVar[str]
    default_sparsity: ClassVar[float | None] = None
    """Coefficient of the penalty when none is given; ``None`` where there is no penalty."""

    def __init__(self, d_in: int, config: CoderConfig) -> None:
        super().__init__()
        self.config = config
        self.W_enc = nn.Parameter(torch.zeros(config.d_sae, d_in))
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self._workspace = Workspace()

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    def fire(self, x: Float[Tensor, "row d_in"], decoder: DecoderView, state: StepState) -> Fired:
        """Latents of some rows, with their gradient."""
        pre = self.pre_activations(x)
        entries = attach_encoder(self.choose(pre, decoder, state), x, self.W_enc, self.b_enc)
        return Fired(self.activate(entries), pre)

    def pre_activations(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_sae"]:
        """Pre-activations of all latents, without gradient; in training the next call overwrites them."""
        out = self._workspace.take(len(x), self.d_sae, self.W_enc) if self.training else None
        return pre_activations(x, self.W_enc, self.b_enc, out)

    @abstractmethod
    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        """Entries of ``pre`` that fire."""

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """Values of the chosen entries, from their pre-activations."""
        return entries.with_values(entries.values.relu())

    def penalty(self, fired: Fired, decoder: DecoderView) -> Float[Tensor, ""] | None:
        """Sparsity penalty, a mean over rows, before its coefficient; ``None`` without one."""
        return None

    @torch.no_grad()
    def begin_latents(self, places: Int[Tensor, " latent"]) -> None:
        """Put what some latents have besides their row of ``W_enc`` back to where training begins."""
        self.b_enc[places] = 0

    @torch.no_grad()
    def scale_units(self, inputs: float, outputs: float) -> None:
        """Take scales in: read inputs that are not multiplied by ``inputs`` any more, and give latents
        divided by ``outputs``."""
        self.W_enc.mul_(inputs / outputs)
        self.b_enc.div_(outputs)

    @torch.no_grad()
    def scale_latents(self, factors: Float[Tensor, " d_sae"]) -> None:
        """Multiply every latent by a positive number of its own."""
        self.W_enc.mul_(factors[:, None])
        self.b_enc.mul_(factors)


def l1_penalty(latents: SparseLatents, norms: Float[Tensor, " d_sae"]) -> Float[Tensor, ""]:
    """Sum of latents, each times its decoder row's length, a mean over rows."""
    return (latents.values * take_by_latent(norms, latents)).sum() / max(latents.n_rows, 1)
