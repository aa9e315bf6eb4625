"""What a bundled coder scores on text that it has not seen, as its card reports it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from interp.coders.coder import Coder
from interp.coders.evaluate import evaluate_coder
from interp.coders.head_attribution import attribute_heads
from interp.coders.probing import attribute_data, match_attributes
from interp.models.model import Model
from interp.tasks.templates import Split
from interp.tasks.world import generate_tokens

HELDOUT_SEED = 41_000
"""Seed of the text on the cards."""
SPLITS: Mapping[str, Split] = MappingProxyType({"fresh text": "train", "unseen templates": "heldout"})
"""Fresh text has the templates that model and coder were trained on; the others neither has ever seen."""
LABELLED_TOKENS = 4000


def measure_figures(
    model: Model, coder: Coder, rows: int, split: Split = "train", seed: int = HELDOUT_SEED
) -> dict[str, Any]:
    """Figures of :func:`interp.evaluate_coder` on ``rows`` rows of 64 tokens; shares come with 95 % intervals."""
    tokens = generate_tokens(rows, seed=seed, split=split)
    found = evaluate_coder(model, coder, tokens, batch_size=32, progress=False)
    fit = found.fits[0]
    figures: dict[str, Any] = {
        "l0": fit.l0,
        "fvu": fit.fvu,
        "dead_frac": fit.dead_frac,
        "ce_clean": found.mean("ce_clean"),
        "ce_substituted": found.mean("ce_substituted"),
        "ce_ablated": found.mean("ce_ablated"),
    }
    shares = {"ce_recovered": found.ce_recovered, "kl_recovered": found.kl_recovered}
    figures |= {name: [one.value, one.low, one.high] for name, one in shares.items()}
    return {name: _rounded(value) for name, value in figures.items()}


def match_card_attributes(
    model: Model, coder: Coder, n: int = LABELLED_TOKENS, seed: int = HELDOUT_SEED
) -> dict[str, dict[str, float]]:
    """Best F1 of each attribute by one latent, and by what nobody trained; nothing for a coder of heads.

    Of :func:`interp.match_attributes` at the coder's input; ``always`` is the F1 of saying yes everywhere.
    """
    if coder.sites[0].startswith("z["):
        return {}
    matched = match_attributes(coder, attribute_data(model, coder.sites[0], n=n, seed=seed))
    named = ("latent", "neuron", "component", "random latent")
    sources = ("latents", "neurons", "principal components", "random latents")
    frame = matched.to_frame().pivot(index="target", columns="source", values="f1")
    return {
        target: {
            name: _rounded(frame.loc[target, source]) for name, source in zip(named, sources, strict=True)
        }
        | {"always": _rounded(float(always))}
        for target, always in zip(matched.targets, matched.always, strict=True)
    }


def count_by_head(model: Model, coder: Coder, rows: int, seed: int = HELDOUT_SEED) -> list[int]:
    """Latents of an attention-output coder that fire, by the head which contributes most to each; else nothing."""
    if not coder.sites[0].startswith("z["):
        return []
    found = attribute_heads(coder, model, generate_tokens(rows, seed=seed), progress=False)
    main = found.contribution[found.n_fired > 0].argmax(1)
    return main.bincount(minlength=found.contribution.shape[1]).tolist()


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, list) else round(float(value), 4)
