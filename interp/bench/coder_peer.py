"""SAELens' trainer, to be measured beside this package's step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders import Coder


class SAELensPeer:
    """SAELens' training step of the same architecture with the weights of one of our coders.

    Its own defaults, but for what would make it do other work: no rescaling by decoder norms, and no waits for a
    logger. ``sparse`` uses its sparse activations.
    """

    def __init__(self, coder: Coder, batch_size: int, learning_rate: float, sparse: bool) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        kinds = {
            "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
            "batch-topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        }
        sae_kind, config_kind = kinds[coder.config.architecture]
        sae: Any = sae_kind(
            config_kind(
                d_in=coder.d_in,
                d_sae=coder.d_sae,
                k=coder.config.k,
                use_sparse_activations=sparse,
                rescale_acts_by_decoder_norm=False,
                apply_b_dec_to_input=True,
            )
        )
        with torch.no_grad():
            sae.W_enc.copy_(coder.W_enc.T)
            sae.b_enc.copy_(coder.b_enc)
            sae.W_dec.copy_(coder.W_dec)
            sae.b_dec.copy_(coder.b_dec)
        self.sae = sae
        self.trainer: Any = SAETrainer(
            SAETrainerConfig(
                total_training_samples=10**12,
                train_batch_size_samples=batch_size,
                lr=learning_rate,
                lr_end=learning_rate,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae,
            _no_rows(),
        )

    def loss(self, x: Float[Tensor, "row d_in"]) -> tuple[float, Float[Tensor, "d_sae d_in"]]:
        """Its reconstruction loss on a batch, and the gradient of the encoder."""
        from sae_lens.saes.sae import TrainStepInput

        self.sae.train()
        out = self.sae.training_forward_pass(
            TrainStepInput(
                sae_in=x,
                coefficients=self.trainer.get_coefficients(),
                dead_neuron_mask=None,
                n_training_steps=0,
                is_logging_step=False,
            )
        )
        (grad,) = torch.autograd.grad(out.loss, self.sae.W_enc)
        return float(out.losses["mse_loss"].detach()), grad.T

    def step(self, x: Float[Tensor, "row d_in"]) -> None:
        """One step of its trainer: loss, gradients, optimiser, statistics."""
        self.trainer.step(x)
        self.trainer.n_training_steps += 1


def _no_rows() -> Iterator[Tensor]:
    yield from ()
