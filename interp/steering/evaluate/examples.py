"""Examples of what a model writes at several doses, as coloured text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp.errors import SteeringError
from interp.models.model import Model
from interp.results.steered_text import SteeredText
from interp.steering.steering import Steering


def write_examples(
    model: Model,
    steering: Steering,
    prompts: Sequence[str],
    doses: Sequence[float],
    strengths: Sequence[float],
    *,
    new_tokens: int = 24,
) -> SteeredText:
    """Greedy continuations of each prompt at every dose, in one batch: the first prompt's doses, then the next's.

    ``strengths`` are those of ``doses``, as :func:`interp.steering.evaluate.strengths.equal_strengths` finds them;
    0 is unsteered. Raises :class:`SteeringError` without prompts or doses, for a dose without a strength, and a model
    of other weights.
    """
    if isinstance(prompts, str) or not prompts or not doses or len(doses) != len(strengths):
        raise SteeringError(
            f"examples need prompts, doses and a strength for each dose; got {len(prompts)}, {len(doses)} and "
            f"{len(strengths)}{' (one text for prompts)' if isinstance(prompts, str) else ''}."
        )
    missing = [f"{dose:g}" for dose, one in zip(doses, strengths, strict=True) if one != one]
    if missing:
        raise SteeringError(f"no strength reaches {', '.join(missing)} nats; leave these doses out.")
    rows = [prompt for prompt in prompts for _ in doses]
    tokens, mask = model.to_padded_tokens(rows, padding_side="left")
    with steering.apply(model, strength=list(strengths) * len(prompts)) as applied:
        written = model.generate(tokens, new_tokens, mask)
        found = applied.text(written)
    return replace(
        found, asked=torch.tensor(list(doses) * len(prompts), dtype=found.asked.dtype), unit="dose"
    )
