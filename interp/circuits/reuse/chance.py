"""How many items two sets share that are drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.results import Graph

_NEGLIGIBLE = 1e-30
"""Probabilities at the ends of a distribution that are left out, so that it stays short."""


@dataclass(frozen=True)
class Shared:
    """The distribution of how many items two random sets share: ``chances[i]`` is that of ``first + i``."""

    first: int
    chances: np.ndarray

    def at_least(self, observed: int) -> float:
        """The probability of as many as were observed, or more."""
        # summed from the small end, so that tiny probabilities keep their digits
        return float(min(1.0, self.chances[max(0, observed - self.first) :][::-1].sum()))

    def quantile(self, share: float) -> int:
        """The smallest number whose probability of not being exceeded is at least ``share``."""
        return self.first + min(int(np.searchsorted(self.chances.cumsum(), share)), len(self.chances) - 1)


def share_by_chance(first: np.ndarray, second: np.ndarray, strata: np.ndarray) -> Shared:
    """How many items two sets share that are drawn at random, as many from every stratum as they have.

    ``first`` and ``second`` are sets as booleans over the items, ``strata`` numbers the stratum of each item
    (all 0: drawn from all items alike). In each stratum the number shared is hypergeometric, and their sum
    the convolution: nothing is sampled.
    """
    from scipy.stats import hypergeom

    n = int(strata.max()) + 1 if len(strata) else 1
    totals, ours, theirs = (
        np.bincount(strata, weights=weights, minlength=n).astype(int)
        for weights in (np.ones(len(strata)), first, second)
    )
    found = Shared(0, np.ones(1))
    for total, a, b in zip(totals, ours, theirs, strict=True):
        if not a or not b:
            continue
        numbers = np.arange(max(0, a + b - total), min(a, b) + 1)
        here = _trim(int(numbers[0]), hypergeom.pmf(numbers, total, a, b))
        found = _trim(found.first + here.first, np.convolve(found.chances, here.chances))
    return Shared(found.first, found.chances / found.chances.sum())


def _trim(first: int, chances: np.ndarray) -> Shared:
    kept = np.flatnonzero(chances > _NEGLIGIBLE)
    return Shared(first + int(kept[0]), chances[kept[0] : kept[-1] + 1])


def edge_strata(graph: Graph) -> np.ndarray:
    """[edge] Number of the stratum: edges into one kind of reader, of one layer, at one position."""
    kinds = {kind: number for number, kind in enumerate(sorted({reader.kind for reader in graph.readers}))}
    readers = np.array([reader.layer * len(kinds) + kinds[reader.kind] for reader in graph.readers])
    return _number(readers[graph.edge_reader] * graph.n_positions + graph.edge_position)


def _number(codes: np.ndarray) -> np.ndarray:
    """Codes as 0, 1, 2 ..."""
    return np.unique(codes, return_inverse=True)[1]
