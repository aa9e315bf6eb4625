"""Sparse probing: how much of an attribute a few latents hold.

Gurnee et al. 2023, "Finding Neurons in a Haystack" (arXiv 2305.01610): choose the k units whose mean differs
most between yes and no, fit a probe on them alone, and compare it with a probe on everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary, random_dictionary, reconstruct
from interp.coders.probing.labels import AttributeData
from interp.coders.probing.logistic import fit_probe
from interp.coders.probing.quality import check_confidence, draw_weights, probe_quality, with_interval
from interp.errors import CoderError
from interp.results.probing import SparseProbing


def probe_latents(
    dictionary: Dictionary,
    data: AttributeData,
    *,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    targets: Sequence[str] | None = None,
    test_share: float = 0.5,
    seed: int = 0,
    l2: float = 1e-3,
    confidence: float = 0.95,
    name: str | None = None,
    progress: bool = False,
) -> SparseProbing:
    """Probe each target with the best k latents, beside all of the activation, random latents and a constant.

    Latents are ranked by the absolute difference of their means on fitting rows, in units of their standard
    deviation there. The random dictionary has as many latents and fires as many of them. Figures are of
    prompts that played no part in choosing or fitting, intervals of resampled prompts. ``targets`` are
    those of :attr:`AttributeData.contrasts` by default.

    Raises :class:`CoderError` for numbers of latents that are not there, and unknown targets.
    """
    from tqdm.auto import tqdm

    chosen_ks = tuple(sorted(set(ks)))
    if not chosen_ks or chosen_ks[0] < 1 or chosen_ks[-1] > dictionary.d_sae:
        raise CoderError(f"k lies between 1 and {dictionary.d_sae} latents; got {tuple(ks)}.")
    check_confidence(confidence)
    asked = tuple(targets) if targets is not None else data.contrasts
    if not asked:
        raise CoderError("no attribute has both answers in these data; give more rows.")
    test = data.split(test_share, seed)
    x = data.activations
    latents = reconstruct(dictionary, x)[0].float()
    random = random_latents(x[~test], x, latents, seed)
    run = _Run(data, test, chosen_ks, l2, confidence, seed)
    found = [
        run.probe(target, x, latents, random) for target in tqdm(asked, disable=not progress, desc="probe")
    ]
    return SparseProbing(
        targets=asked,
        ks=chosen_ks,
        latents=torch.stack([one.latents for one in found]),
        random=torch.stack([one.random for one in found]),
        dense=torch.stack([one.dense for one in found]),
        constant=torch.stack([one.constant for one in found]),
        chosen=torch.stack([one.chosen for one in found]),
        confidence=confidence,
        provenance=replace(
            data.provenance, method=f"sparse probing of {name or type(dictionary).__name__}", seed=seed
        ),
    )


def random_latents(
    fitted: Float[Tensor, "some d"],
    x: Float[Tensor, "row d"],
    latents: Float[Tensor, "row latent"],
    seed: int,
) -> Float[Tensor, "row latent"]:
    """Latents of a random dictionary that fires as many a row as these do."""
    d_sae = latents.shape[1]
    k = min(max(1, round(float((latents > 0).float().sum(1).mean()))), d_sae)
    drawn = random_dictionary(fitted, d_sae, k, torch.Generator().manual_seed(seed))
    return drawn.encode(x)


def rank_latents(
    latents: Float[Tensor, "row latent"], answers: Bool[Tensor, " row"]
) -> Int[Tensor, " latent"]:
    """Latents by how far their means differ between yes and no, in standard deviations, the furthest first."""
    gap = latents[answers].mean(0) - latents[~answers].mean(0)
    spread = latents.std(0)
    size = torch.where(spread > 0, gap.abs() / spread.clamp(min=1e-12), 0.0)
    return size.argsort(descending=True, stable=True)


@dataclass(frozen=True)
class _Probed:
    latents: Tensor
    random: Tensor
    dense: Tensor
    constant: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class _Run:
    data: AttributeData
    test: Bool[Tensor, " row"]
    ks: tuple[int, ...]
    l2: float
    confidence: float
    seed: int

    def probe(self, target: str, x: Tensor, latents: Tensor, random: Tensor) -> _Probed:
        answers, counted = self.data.positive(target), self.data.counted(target)
        train, test = counted & ~self.test, counted & self.test
        if not bool(answers[train].any()) or bool(answers[train].all()) or not bool(test.any()):
            raise CoderError(
                f"{target!r} has not both answers among {int(train.sum())} fitting rows; give more."
            )
        weights = draw_weights(self.data.prompt[test], self.seed)

        def judge(columns: Tensor) -> np.ndarray:
            probe = fit_probe(columns[train], answers[train], l2=self.l2)
            return probe_quality(probe.score(columns[test]), answers[test], weights)

        def of(found: np.ndarray) -> Tensor:
            return with_interval(found, self.confidence)

        order = rank_latents(latents[train], answers[train])
        return _Probed(
            latents=self._curve(latents, order, judge),
            random=self._curve(random, rank_latents(random[train], answers[train]), judge),
            dense=of(judge(x)),
            constant=_constant(answers[train], answers[test]),
            chosen=order[: self.ks[-1]],
        )

    def _curve(
        self, columns: Tensor, order: Tensor, judge: Callable[[Tensor], np.ndarray]
    ) -> Float[Tensor, "k metric end"]:
        found = [judge(columns[:, order[:k]]) for k in self.ks]
        return torch.stack([with_interval(one, self.confidence) for one in found])


def _constant(train: Tensor, test: Tensor) -> Float[Tensor, " metric"]:
    """Accuracy of the majority answer of the fitting rows, F1 of always yes, AUC of no ranking."""
    share = float(test.double().mean())
    majority = share if float(train.double().mean()) > 0.5 else 1 - share
    return torch.tensor([majority, 2 * share / (1 + share), 0.5])
