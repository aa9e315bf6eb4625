"""What a steering costs on neutral text: loss, KL to the unsteered model, and entropy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from interp.models.model import Model
from interp.steering.evaluate.instrument import acting
from interp.steering.evaluate.tally import Tally
from interp.steering.kl import as_continued, kl_by_token
from interp.steering.neutral import NeutralText
from interp.steering.steering import Steering


class NeutralSideEffects:
    """Loss of the next token, KL(unsteered || steered) and entropy, in nats a token of neutral text.

    Over all tokens that have a next one. For a steering with steps on generated tokens, three quarters of every row
    count as generated, as for its dose; gates act as they do, where a dose is of a prompt steered in full.
    """

    measures = ("loss", "kl", "entropy")
    along_texts = False

    def __init__(self, text: NeutralText, batch_size: int = 16) -> None:
        self.text, self.batch_size = text, batch_size

    def read(self, model: Model, steering: Steering | None, strength: float) -> Mapping[str, Tally]:
        """Sums over the tokens of each row."""
        sums = torch.zeros(3, len(self.text.rows), dtype=torch.float64)
        counts = torch.zeros(len(self.text.rows), dtype=torch.float64)
        for rows, tokens in self.text.batches(self.batch_size):
            with torch.no_grad(), _continued(model, steering, tokens):
                base = model(tokens) if steering is not None else None
                with acting(model, steering, strength):
                    logits = model(tokens)
            log = logits[:, :-1].double().log_softmax(-1).cpu()
            sums[0, rows] = -log.gather(-1, tokens[:, 1:, None].cpu())[..., 0].sum(1)
            if base is not None:
                sums[1, rows] = kl_by_token(base[:, :-1], logits[:, :-1]).cpu().sum(1)
            sums[2, rows] = -torch.where(log == -torch.inf, 0.0, log.exp() * log).sum((1, 2))
            counts[rows] = float(tokens.shape[1] - 1)
        return {name: Tally.of(sums[i], counts) for i, name in enumerate(self.measures)}


def _continued(model: Model, steering: Steering | None, tokens: Tensor) -> AbstractContextManager[None]:
    return nullcontext() if steering is None else as_continued(model, steering, tokens)
