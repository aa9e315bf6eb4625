"""A dictionary against planted features: cosines, correlations, detectors and reconstruction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.ground_truth.detect import choose_detectors, judge_detectors
from interp.coders.ground_truth.dictionary import Dictionary, random_dictionary, reconstruct, unit_rows
from interp.coders.ground_truth.planted import PlantedFeatures
from interp.coders.ground_truth.transcoder import PlantedTranscoder
from interp.errors import CoderError
from interp.results.feature_recovery import FeatureRecovery
from interp.results.provenance import Provenance


def match_features(
    dictionary: Dictionary,
    planted: PlantedFeatures | PlantedTranscoder,
    *,
    n: int = 8192,
    seed: int = 0,
    name: str | None = None,
) -> FeatureRecovery:
    """Hold a dictionary against the features that its data are made of.

    Decoder rows are compared with the directions in the target, activations with the features' own on ``n``
    fresh rows drawn by ``seed``. Detectors are chosen on the first half of them and judged on the second.
    ``name`` is the dictionary's in provenance.

    Raises :class:`CoderError` for a dictionary of another width, and for fewer than 2 rows.
    """
    if n < 2:
        raise CoderError(f"rows are halved to choose and to judge; got n={n}, give at least 2.")
    wide = planted.written.shape[1]
    if dictionary.W_dec.shape[-1] != wide:
        raise CoderError(
            f"the dictionary writes {dictionary.W_dec.shape[-1]} dimensions, {planted.name} has {wide}; give one "
            "trained on these features."
        )
    rows = planted.draw(n, torch.Generator().manual_seed(seed))
    decoder = dictionary.W_dec.detach()
    latents, out = (part.cpu().float() for part in reconstruct(dictionary, rows.x.to(decoder)))
    firing = rows.activations > 0
    half = n // 2
    detectors = choose_detectors(latents[:half], firing[:half])
    quality = judge_detectors(detectors, latents[half:], firing[half:])
    return FeatureRecovery(
        cosines=unit_rows(decoder.cpu().float()) @ unit_rows(planted.written).T,
        correlations=correlate(latents, rows.activations),
        detector=detectors.latent,
        threshold=detectors.threshold,
        per_feature_f1=quality.f1,
        per_feature_precision=quality.precision,
        per_feature_recall=quality.recall,
        firing=firing.float().mean(0),
        fvu=unexplained(rows.target, out),
        l0=float((latents > 0).float().sum(1).mean()),
        provenance=Provenance(
            model=name or type(dictionary).__name__, task=planted.name, n_prompts=n, seed=seed
        ),
    )


def match_random(
    planted: PlantedFeatures | PlantedTranscoder, d_sae: int, k: int, *, n: int = 8192, seed: int = 0
) -> FeatureRecovery:
    """The same of a dictionary of random directions with ``d_sae`` latents, ``k`` of them on a row.

    Its gain and mean are fitted on rows of their own. Raises as :func:`match_features`.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = planted.draw(n, generator)
    target = None if isinstance(planted, PlantedFeatures) else rows.target
    drawn = random_dictionary(rows.x, d_sae, k, generator, target)
    return match_features(drawn, planted, n=n, seed=seed + 1, name="random")


def correlate(
    first: Float[Tensor, "row latent"], second: Float[Tensor, "row feature"]
) -> Float[Tensor, "latent feature"]:
    """Pearson correlation of every two columns; 0 where one of them is constant."""
    a, b = (part.double() - part.double().mean(0) for part in (first, second))
    sizes = a.norm(dim=0)[:, None] * b.norm(dim=0)
    return torch.where(sizes > 0, a.T @ b / sizes.clamp(min=1e-300), 0.0).float()


def unexplained(target: Float[Tensor, "row d"], out: Float[Tensor, "row d"]) -> float:
    """Fraction of variance unexplained: squared error over that of the target's mean."""
    wanted = target.double()
    variance = float((wanted - wanted.mean(0)).square().sum())
    return float((wanted - out.double()).square().sum()) / variance if variance else float("nan")
