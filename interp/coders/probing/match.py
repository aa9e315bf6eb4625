"""The best single unit for each attribute: a latent, a random latent, a neuron or a principal component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.detect import choose_detectors
from interp.coders.ground_truth.dictionary import Dictionary, reconstruct
from interp.coders.probing.labels import AttributeData
from interp.coders.probing.quality import check_confidence, draw_weights, weighted_f1, with_interval
from interp.coders.probing.sparse import random_latents
from interp.errors import CoderError
from interp.results.probing import AttributeMatch


def match_attributes(
    dictionary: Dictionary,
    data: AttributeData,
    *,
    targets: Sequence[str] | None = None,
    test_share: float = 0.5,
    seed: int = 0,
    confidence: float = 0.95,
    name: str | None = None,
) -> AttributeMatch:
    """For each target the single latent of best F1, and the same of three kinds of unit that nobody trained.

    Unit, threshold and sign are chosen on some prompts, figures are of the others. Latents say yes where they
    fire strongly; neurons (coordinates of the activation) and its principal components may be read either
    way. F1 of saying yes everywhere stands beside, for with many yes it is high: 0.67 with one half.

    Raises :class:`CoderError` for unknown targets.
    """
    check_confidence(confidence)
    asked = tuple(targets) if targets is not None else data.targets
    if not asked:
        raise CoderError("no attribute has both answers in these data; give more rows.")
    test = data.split(test_share, seed)
    positive, counted = data.tables(asked)
    x = data.activations
    latents = reconstruct(dictionary, x)[0].float()
    _, _, right = torch.linalg.svd(x[~test] - x[~test].mean(0), full_matrices=False)
    components = (x - x[~test].mean(0)) @ right.T
    weights = draw_weights(data.prompt[test], seed)
    columns = [latents, random_latents(x[~test], x, latents, seed), x, components]
    chosen = [
        _choose(one, positive, counted, test, both_ways=number > 1) for number, one in enumerate(columns)
    ]
    f1 = [weighted_f1(one.taken[test] & counted[test], (positive & counted)[test], weights) for one in chosen]
    share = (positive & counted)[test].sum(0).double() / counted[test].sum(0)
    return AttributeMatch(
        targets=asked,
        f1=torch.stack([with_interval(one, confidence) for one in f1]),
        unit=torch.stack([one.unit for one in chosen]),
        threshold=torch.stack([one.threshold for one in chosen]),
        sign=torch.stack([one.sign for one in chosen]),
        always=(2 * share / (1 + share)).float(),
        confidence=confidence,
        provenance=replace(
            data.provenance, method=f"best units of {name or type(dictionary).__name__}", seed=seed
        ),
    )


@dataclass(frozen=True)
class _Chosen:
    unit: Int[Tensor, " target"]
    sign: Float[Tensor, " target"]
    threshold: Float[Tensor, " target"]
    taken: Bool[Tensor, "row target"]


def _choose(
    columns: Float[Tensor, "row unit"],
    positive: Bool[Tensor, "row target"],
    counted: Bool[Tensor, "row target"],
    test: Bool[Tensor, " row"],
    both_ways: bool,
) -> _Chosen:
    n = columns.shape[1]
    signed = torch.cat([columns, -columns], dim=1) if both_ways else columns
    found = choose_detectors(signed[~test], positive[~test], counted[~test], sparse=not both_ways)
    sign = torch.where(found.latent < n, 1.0, -1.0)
    return _Chosen(found.latent % n, sign, found.threshold, found.predict(signed))
