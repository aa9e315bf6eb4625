"""Targeted probe perturbation: whether an attribute's latents are its own.

Karvonen et al. 2025, "SAEBench" (arXiv 2503.09532), after Marks et al. 2024 (arXiv 2403.19647): take out the
latents that matter most to one attribute's probe. Its accuracy should fall, that of other probes should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary
from interp.coders.probing.ablation import Ablatable, check_counts
from interp.coders.probing.labels import AttributeData, attribute_of
from interp.coders.probing.logistic import Probe, fit_probe
from interp.coders.probing.quality import balanced_accuracy, check_confidence, draw_weights, with_interval
from interp.errors import CoderError
from interp.results.perturbation import ProbePerturbation


def perturb_probes(
    dictionary: Dictionary,
    data: AttributeData,
    *,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    targets: Sequence[str] | None = None,
    test_share: float = 0.5,
    draws: int = 5,
    seed: int = 0,
    l2: float = 1e-3,
    confidence: float = 0.95,
    name: str | None = None,
    progress: bool = False,
) -> ProbePerturbation:
    """Take out the k latents that matter most to each target's probe, and read every probe again.

    Probes are logistic regressions on whole activations, yes and no weighted alike. A latent matters by the
    difference of its means times what it adds to the probe's log odds, on fitting rows. The score is what
    the own probe loses less the mean loss of probes of other attributes. Figures are balanced accuracies on
    other prompts, intervals of resampled prompts; the control takes out random latents that fire.

    Raises :class:`CoderError` for fewer than two attributes, numbers of latents that are not there, and a
    dictionary that does not write where it reads.
    """
    from tqdm.auto import tqdm

    counts = check_counts(ks, dictionary.d_sae, draws)
    check_confidence(confidence)
    asked = tuple(targets) if targets is not None else data.contrasts
    named = [attribute_of(target) for target in asked]
    if len(set(named)) < 2:
        raise CoderError(f"a targeted perturbation needs two attributes or more; got targets {list(asked)}.")
    test = data.split(test_share, seed)
    positive, counted = data.tables(asked)
    whole = Ablatable.make(dictionary, data.activations)
    probes, order = [], []
    for i in tqdm(range(len(asked)), disable=not progress, desc="probes"):
        rows = counted[:, i] & ~test
        probe = fit_probe(data.activations[rows], positive[rows, i], l2=l2, balanced=True)
        probes.append(probe)
        order.append(whole.rank(probe, positive[:, i], rows)[: counts[-1]])
    judge = _Judge(probes, positive[test], counted[test], draw_weights(data.prompt[test], seed))
    held_out = Ablatable(whole.x[test], whole.latents[test], whole.decoder)
    chosen = torch.stack(order)
    base = judge.read([held_out.x])[:, 0]
    after = np.stack([judge.read([held_out.without(own[:k]) for own in chosen]) for k in counts], axis=1)
    sets = [whole.draw(k, draws, seed) for k in counts]
    random = np.stack([judge.read([held_out.without(one) for one in drawn]) for drawn in sets], axis=1)
    related = torch.tensor([[a == b for b in named] for a in named])
    scores = _score(base[:, None, None] - after, related.numpy())
    # a random set stands in for every target's latents: own and other probes lose alike
    spread = _score(np.repeat((base[:, None] - random.mean(2))[:, :, None], len(asked), 2), related.numpy())
    return ProbePerturbation(
        targets=asked,
        ks=counts,
        base=torch.from_numpy(base[0]).float(),
        after=torch.from_numpy(after[0]).float(),
        random=torch.from_numpy(random[0]).float(),
        related=related,
        chosen=chosen.cpu(),
        scores=with_interval(scores, confidence),
        random_scores=with_interval(spread, confidence),
        confidence=confidence,
        provenance=replace(
            data.provenance,
            method=f"targeted probe perturbation of {name or type(dictionary).__name__}",
            seed=seed,
        ),
    )


@dataclass(frozen=True)
class _Judge:
    """Reads every probe, each on the rows that count for its target."""

    probes: list[Probe]
    positive: Bool[Tensor, "row target"]
    counted: Bool[Tensor, "row target"]
    weights: Float[np.ndarray, "resample row"]

    def read(
        self, versions: Sequence[Float[Tensor, "row d"]]
    ) -> Float[np.ndarray, "resample version target"]:
        """Balanced accuracy of each probe on each version of the activations, in every resample."""
        found = []
        for i, probe in enumerate(self.probes):
            rows = self.counted[:, i]
            said = torch.stack([probe.score(version[rows]) > 0 for version in versions], dim=1)
            weights = self.weights[:, rows.cpu().numpy()]
            found.append(balanced_accuracy(said, self.positive[rows, i], weights))
        return np.stack(found, axis=2)


def _score(
    drops: Float[np.ndarray, "resample k ablated probe"], related: Bool[np.ndarray, "ablated probe"]
) -> Float[np.ndarray, "resample k"]:
    own = np.diagonal(drops, axis1=2, axis2=3).mean(-1)
    others = [drops[:, :, a, ~related[a]].mean(-1) for a in range(len(related)) if not related[a].all()]
    return own - np.stack(others, axis=-1).mean(-1)
