"""Spurious correlation removal: whether latents let a shortcut be taken out of a biased probe.

Karvonen et al. 2025, "SAEBench" (arXiv 2503.09532), after SHIFT (Marks et al. 2024, arXiv 2403.19647): a probe
is fitted on data where its target always goes with another attribute, the shortcut. Taking out the
shortcut's latents should make it right where the two are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary
from interp.coders.probing.ablation import Ablatable, check_counts
from interp.coders.probing.labels import AttributeData, attribute_of
from interp.coders.probing.logistic import fit_probe
from interp.coders.probing.quality import balanced_accuracy, check_confidence, draw_weights, with_interval
from interp.errors import CoderError
from interp.results.perturbation import ShortcutRemoval

LEAST_ROWS = 10
"""In each combination of target and shortcut, on either side of the split."""


def remove_shortcuts(
    dictionary: Dictionary,
    data: AttributeData,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    test_share: float = 0.5,
    draws: int = 5,
    seed: int = 0,
    l2: float = 1e-3,
    confidence: float = 0.95,
    name: str | None = None,
    progress: bool = False,
) -> ShortcutRemoval:
    """Fit probes where target and shortcut always agree, then take out the k latents of the shortcut.

    Latents of the shortcut are those that matter most to a probe for it, fitted where both are independent;
    the same rows give the oracle, a probe for the target. Every figure is of other prompts where all four
    combinations are equally frequent. ``pairs`` are (target, shortcut); by default every ordered pair of
    attributes that occur together, with one target each. The control takes out random latents that fire.

    Raises :class:`CoderError` where a combination has fewer than 10 rows on either side, for pairs of one
    attribute, and as :func:`perturb_probes`.
    """
    from tqdm.auto import tqdm

    counts = check_counts(ks, dictionary.d_sae, draws)
    check_confidence(confidence)
    test = data.split(test_share, seed)
    asked = tuple(pairs) if pairs is not None else _pairs_together(data, test)
    if not asked:
        raise CoderError(
            "no two attributes occur together in these data often enough; name pairs or give more rows."
        )
    whole = Ablatable.make(dictionary, data.activations)
    run = _Run(data, whole, test, counts, draws, seed, l2, confidence)
    found = [run.remove(*pair) for pair in tqdm(asked, disable=not progress, desc="shortcuts")]
    return ShortcutRemoval(
        pairs=asked,
        ks=counts,
        biased=torch.tensor([one.biased for one in found]),
        oracle=torch.tensor([one.oracle for one in found]),
        on_shortcut=torch.tensor([one.on_shortcut for one in found]),
        after=torch.stack([one.after for one in found]),
        random=torch.stack([one.random for one in found]),
        chosen=torch.stack([one.chosen for one in found]),
        confidence=confidence,
        provenance=replace(
            data.provenance,
            method=f"shortcut removal by {name or type(dictionary).__name__}",
            seed=seed,
        ),
    )


@dataclass(frozen=True)
class _Removed:
    biased: float
    oracle: float
    on_shortcut: float
    after: Float[Tensor, "k end"]
    random: Float[Tensor, " k"]
    chosen: Int[Tensor, " rank"]


@dataclass(frozen=True)
class _Run:
    data: AttributeData
    whole: Ablatable
    test: Bool[Tensor, " row"]
    ks: tuple[int, ...]
    draws: int
    seed: int
    l2: float
    confidence: float

    def remove(self, target: str, shortcut: str) -> _Removed:
        if attribute_of(target) == attribute_of(shortcut):
            raise CoderError(f"target {target!r} and shortcut {shortcut!r} are of one attribute.")
        a, b = self.data.positive(target), self.data.positive(shortcut)
        cells = _cells(self.data, target, shortcut)
        train = self._balance([cell & ~self.test for cell in cells], target, shortcut)
        held_out = self._balance([cell & self.test for cell in cells], target, shortcut)
        # the first and last combination are those where both agree
        together = self._balance([cells[0] & ~self.test, cells[3] & ~self.test], target, shortcut)
        biased = fit_probe(self.whole.x[together], a[together], l2=self.l2, balanced=True)
        oracle = fit_probe(self.whole.x[train], a[train], l2=self.l2, balanced=True)
        spurious = fit_probe(self.whole.x[train], b[train], l2=self.l2, balanced=True)
        rows = torch.zeros_like(self.test)
        rows[train] = True
        chosen = self.whole.rank(spurious, b, rows)[: self.ks[-1]]
        part = Ablatable(self.whole.x[held_out], self.whole.latents[held_out], self.whole.decoder)
        weights = draw_weights(self.data.prompt[held_out], self.seed)

        def read(versions: Sequence[Tensor], answers: Tensor) -> np.ndarray:
            said = torch.stack([biased.score(version) > 0 for version in versions], dim=1)
            return balanced_accuracy(said, answers[held_out], weights)

        after = read([part.without(chosen[:k]) for k in self.ks], a)
        sets = [self.whole.draw(k, self.draws, self.seed) for k in self.ks]
        random = [read([part.without(one) for one in drawn], a)[0].mean() for drawn in sets]
        best = balanced_accuracy(oracle.score(part.x) > 0, a[held_out], weights)
        return _Removed(
            biased=float(read([part.x], a)[0, 0]),
            oracle=float(best[0]),
            on_shortcut=float(read([part.x], b)[0, 0]),
            after=with_interval(after, self.confidence),
            random=torch.tensor(random).float(),
            chosen=chosen.cpu(),
        )

    def _balance(self, cells: Sequence[Tensor], target: str, shortcut: str) -> Int[Tensor, " row"]:
        """As many rows of each combination, drawn at random; in the data's order."""
        sizes = [int(cell.sum()) for cell in cells]
        if min(sizes) < LEAST_ROWS:
            raise CoderError(
                f"{target!r} with and without {shortcut!r} needs {LEAST_ROWS} rows of each combination on either side "
                f"of the split; got {sizes}. Give more rows, or other pairs."
            )
        generator = torch.Generator().manual_seed(self.seed)
        picked = []
        for cell in cells:
            rows = cell.nonzero()[:, 0]
            picked.append(rows[torch.randperm(len(rows), generator=generator)[: min(sizes)].to(rows.device)])
        return torch.cat(picked).sort().values


def _cells(data: AttributeData, target: str, shortcut: str) -> list[Bool[Tensor, " row"]]:
    """Rows of each combination: both, target alone, shortcut alone, neither."""
    a, b = data.positive(target), data.positive(shortcut)
    counted = data.counted(target) & data.counted(shortcut)
    return [counted & left & right for left in (a, ~a) for right in (b, ~b)]


def _pairs_together(data: AttributeData, test: Bool[Tensor, " row"]) -> tuple[tuple[str, str], ...]:
    first: dict[str, str] = {}
    for target in data.contrasts:
        first.setdefault(attribute_of(target), target)
    ordered = [(a, b) for a in first.values() for b in first.values() if a != b]
    sides = (test, ~test)
    return tuple(
        pair
        for pair in ordered
        if all(int((cell & side).sum()) >= LEAST_ROWS for cell in _cells(data, *pair) for side in sides)
    )
