"""End-to-end fine-tuning: a coder learns from what its model loses when it stands in for an activation.

Karvonen 2025, "Revisiting End-To-End Sparse Autoencoder Training: A Short Finetune Is All You Need",
arXiv 2503.17272: after ordinary training, a short one on KL divergence and reconstruction error, the two
brought to one size at every step. Braun et al. 2024, "Identifying Functionally Important Features with
End-to-End Sparse Dictionary Learning", arXiv 2405.12241, train on the KL divergence from the start.

What it does not do: nested losses of matryoshka coders, revival of dead latents, and firing by gradients
(a gradient coder is tuned as it is used, by its largest activations).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.coders.coder import Coder
from interp.coders.end_to_end_training import EndToEndLoss, EndToEndTraining
from interp.coders.sources.prompts import LongPrompts, PromptReader
from interp.coders.train.config import TrainingConfig
from interp.coders.wiring import wire
from interp.errors import CoderError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts, pad_prompts
from interp.models.text_digest import describe_data
from interp.types import SiteLike

_POOL = 64
"""Batches among which prompts are shuffled."""


def finetune_coder(
    model: Model,
    coder: Coder,
    data: Prompts,
    *,
    loss: EndToEndLoss = "kl",
    mse_weight: float | Literal["balanced"] = "balanced",
    sparsity: float | None = None,
    tokens: int | None = None,
    learning_rate: float | None = None,
    batch_size: int = 16,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    skip_first: bool = True,
    site: SiteLike | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Coder:
    """Train a trained coder further on what ``model`` predicts with the coder's output in place of the activation.

    The coder stands at its own site, or at ``site``: an autoencoder, a transcoder, one of concatenated heads
    (``z``), or a cross-layer transcoder at all of its sites. The loss, in nats a predicted token, is
    ``loss + mse_weight * FVU + sparsity * penalty``: FVU is the squared error as a share of the variance of the
    unchanged model's activations, and with ``"balanced"`` has at every step the weight that makes it as large as
    ``loss``. ``sparsity`` is needed by kinds without a k (standard, gated, jumprelu, discrete): without a penalty
    nothing would keep them sparse. The model is frozen.

    ``data`` is what :func:`interp.evaluate_coder` takes, ``batch_size`` prompts a step, shuffled by ``seed``. It is
    read once, or as often as ``tokens`` (that the coder is applied to) asks for; then the learning rate falls
    linearly to 0. By default it is half that of training, in the same units: activations are scaled to a mean
    norm of ``sqrt(d)`` while it lasts. First tokens and padding take no part, as in :func:`interp.evaluate_coder`.

    Returns a new coder; ``coder`` stays as it is. ``history`` has ``loss``, ``kl``, ``ce``, ``fvu``, ``l0`` over
    tokens, the first row from before the first step; ``metadata["finetuning"]`` says how it was made.

    Raises :class:`CoderError` for a coder that does not fit the model, options out of range, and data without a
    predicted token; :class:`FloatingPointError` for a loss that is not finite.

    Example::

        tuned = interp.finetune_coder(model, coder, dataset, tokens=200_000)
    """
    _check(coder, loss, mse_weight, sparsity, tokens, learning_rate, batch_size)
    own = coder if site is None else {site: coder}
    (wiring,) = wire(model, own)
    reader = PromptReader(model, data, 1, context, long_prompts)
    rate = learning_rate if learning_rate is not None else TrainingConfig().rate_for(coder.d_sae) / 2
    settings = {
        "loss": loss,
        "mse_weight": mse_weight,
        "sparsity": sparsity,
        "learning_rate": rate,
        "batch_size": batch_size,
        "seed": seed,
        "model": model.name,
        "data": describe_data(data),
    }
    run = EndToEndTraining(model, wiring, loss, mse_weight, sparsity or 0.0, rate, tokens, skip_first)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), tqdm(total=tokens, unit="tok", desc="fine-tune", disable=not progress) as bar:
        while run.read_once(_shuffled(reader, batch_size, generator), bar):
            reader.restart()
    return run.finish(coder, settings)


def _check(
    coder: Coder,
    loss: str,
    mse_weight: float | str,
    sparsity: float | None,
    tokens: int | None,
    learning_rate: float | None,
    batch_size: int,
) -> None:
    if not isinstance(coder, Coder):
        raise CoderError(f"finetune_coder takes a trained interp.Coder; got {type(coder).__name__}.")
    if loss not in get_args(EndToEndLoss):
        raise CoderError(unknown_name("end-to-end loss", str(loss), get_args(EndToEndLoss)))
    if isinstance(mse_weight, str) and mse_weight != "balanced":
        raise CoderError(f"mse_weight is a number from 0 on, or 'balanced'; got {mse_weight!r}.")
    numbers = {"mse_weight": mse_weight, "sparsity": sparsity, "learning_rate": learning_rate}
    for name, value in numbers.items():
        if value is None or isinstance(value, str):
            continue
        if not math.isfinite(value) or value < 0 or (name == "learning_rate" and value == 0):
            raise CoderError(f"{name} must be a finite number, not negative; got {value!r}.")
    for name, count in (("tokens", tokens), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise CoderError(f"{name} must be at least 1; got {count}.")
    kind = coder.config.firing
    if coder.encoder_list[0].default_sparsity is None:
        if sparsity is not None:
            raise CoderError(f"a {kind} coder has no sparsity penalty; its k says how sparse it is.")
    elif sparsity is None:
        raise CoderError(
            f"a {kind} coder has no k, so nothing would keep it sparse: give sparsity=..., the weight of its penalty "
            "beside a loss in nats (0.0 for none)."
        )


def _shuffled(
    reader: PromptReader, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]]:
    """Batches of contexts, shuffled within pools, once through the data."""
    pool: list[Tensor] = []
    while True:
        found = reader.read()
        pool += [] if found is None else [found.tokens[0]]
        if found is None or len(pool) == _POOL * batch_size:
            order = torch.randperm(len(pool), generator=generator).tolist()
            for start in range(0, len(pool), batch_size):
                yield pad_prompts([pool[i] for i in order[start : start + batch_size]])
            pool = []
        if found is None:
            return
