"""Baked beside hooked: what is left of the difference, in logits and in nats."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.models.weight_edits import hold_edits
from interp.results.baking import BAKE_PAIRS, BakeReport
from interp.results.provenance import Provenance
from interp.steering.bake.baked import Baked
from interp.steering.kl import KLByRow, kl_by_token
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.steering import Steering


def compare_baked(
    model: Model,
    baked: Baked,
    steering: Steering,
    text: Prompts | NeutralText | None = None,
    *,
    dose: float | None = None,
    strength: float | None = None,
    name: str | None = None,
    n: int = 64,
    batch_size: int = 16,
    confidence: float = 0.95,
    seed: int = 0,
) -> BakeReport:
    """Run ``text`` through the model unsteered, steered by hooks and baked, and compare every logit.

    ``dose`` or ``strength`` is that of the hooks. ``text`` is data as for :func:`interp.capture_stream`, its first
    ``n`` rows; text of the generated world if left out. Reports of several bakings become one by
    :meth:`BakeReport.join`. Raises :class:`SteeringError` for weights made from another model.
    """
    begun = time.perf_counter()
    if not 0 < confidence < 1:
        raise SteeringError(f"confidence lies between 0 and 1; got {confidence}.")
    if digest_weights(model) != baked.model_digest:
        raise SteeringError(f"{baked!r} was made from other weights than {model.name!r} has now.")
    rows = read_neutral(model, text, n=n, seed=seed)
    totals = torch.zeros(len(BAKE_PAIRS), len(rows.rows), dtype=torch.float64)
    count = torch.zeros(len(rows.rows), dtype=torch.long)
    largest, summed, same, n_logits = 0.0, 0.0, 0, 0
    for numbers, tokens in rows.batches(batch_size):
        unsteered, hooked, there = _run(model, baked, steering, tokens, dose, strength)
        difference = (there.double() - hooked.double()).abs()
        largest = max(largest, float(difference.max()))
        summed += float(difference.sum())
        n_logits += difference.numel()
        same += int((there.argmax(-1) == hooked.argmax(-1)).sum())
        pairs = ((hooked, there), (unsteered, hooked), (unsteered, there))
        for i, (first, second) in enumerate(pairs):
            totals[i, numbers] = kl_by_token(first, second).sum(1).cpu()
        count[numbers] = tokens.shape[1]
    by_row = KLByRow(totals, count)
    low, high = by_row.intervals(confidence, seed)
    return BakeReport(
        names=(name or baked.method,),
        exact=(baked.exact,),
        largest=torch.tensor([largest]),
        mean=torch.tensor([summed / n_logits]),
        agreement=torch.tensor([same / int(count.sum())]),
        kl=torch.stack([by_row.mean, low, high], dim=-1)[None].float(),
        confidence=confidence,
        n_tokens=int(count.sum()),
        text=rows.describe(),
        provenance=_provenance(model, rows, seed, time.perf_counter() - begun),
    )


def _provenance(model: Model, text: NeutralText, seed: int, seconds: float) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="neutral text",
        n_prompts=len(text.rows),
        seed=seed,
        metric="logits, and KL in nats a token",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
    )


@torch.no_grad()
def _run(
    model: Model, baked: Baked, steering: Steering, tokens: Tensor, dose: float | None, strength: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a batch: unsteered, hooked, baked."""
    unsteered = model(tokens)
    with steering.apply(model, dose, strength=strength):
        hooked = model(tokens)
    with hold_edits(model, baked.edits):
        return unsteered, hooked, model(tokens)
