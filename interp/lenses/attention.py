"""Attention patterns of one prompt, padding left out."""

from __future__ import annotations

import time

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import LensError
from interp.lenses.prompts import Prompts, Run, read_prompts
from interp.lenses.provenance import describe_run
from interp.models.capture import capture
from interp.models.model import Model
from interp.results import AttentionPatterns


@torch.no_grad()
def attention_patterns(
    model: Model,
    prompts: Prompts,
    batch_index: int = 0,
    *,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    run: Run = "clean",
) -> AttentionPatterns:
    """Where every head looks in one prompt: weights [layer, head, dest_pos, src_pos], on the CPU in fp32.

    ``prompts`` is a task (its ``run``), token ids [batch, pos] or [pos], a text or several;
    ``batch_index`` chooses one of them, and only that one is run, without its padding.

    Example::

        interp.attention_patterns(model, "Then, Mary and John").plot()

    Raises :class:`LensError` for a prompt that is not there.
    """
    started = time.perf_counter()
    batch = read_prompts(model, prompts, attention_mask=attention_mask, run=run)
    if not 0 <= batch_index < len(batch):
        raise LensError(f"batch_index must be 0 to {len(batch) - 1}, one of the prompts; got {batch_index}.")
    columns, _ = batch.rows(batch_index, batch_index + 1).chosen_columns(None)
    tokens = batch.tokens[batch_index, columns[0].to(batch.tokens.device)]
    patterns = capture(model, tokens, "pattern", device="cpu")["pattern"][:, 0].float()
    return AttentionPatterns(
        patterns=patterns,
        tokens=tuple(model.to_str_tokens(tokens)),
        layers=tuple(range(model.traits.n_layers)),
        provenance=describe_run(model, batch, "attention patterns", started),
        prompt=batch_index,
    )
