"""How well a ranking finds what is true: the usual measures of retrieval, with ties counted as ties."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class CutQuality:
    """What the first ``n`` of a ranking are worth."""

    n: int
    precision: float
    """Share of the first ``n`` that are true."""
    recall: float
    """Share of what is true that is among the first ``n``."""
    f1: float
    """Harmonic mean of both."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores, the largest first, against what is true. Measures are NaN where all or nothing is true.

    Equal scores have no order. Areas take them as one step; measures at a cut through the midst of them
    are those expected when they are ordered at random.
    """

    scores: Float[np.ndarray, " item"]
    is_true: Bool[np.ndarray, " item"]

    @property
    def n(self) -> int:
        """How many are ranked."""
        return len(self.scores)

    @property
    def n_true(self) -> int:
        """How many of them are true."""
        return int(self.is_true.sum())

    @property
    def is_defined(self) -> bool:
        """Whether some and not all are true."""
        return 0 < self.n_true < self.n

    @cached_property
    def order(self) -> Int[np.ndarray, " item"]:
        """Numbers of the items, the largest score first, equal ones in their order."""
        found: np.ndarray = np.argsort(-self.scores, kind="stable")
        return found

    @cached_property
    def ends(self) -> Int[np.ndarray, " step"]:
        """How many items have each distinct score or a larger one."""
        ranked = self.scores[self.order]
        return np.r_[np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, self.n]

    @cached_property
    def found(self) -> Int[np.ndarray, " step"]:
        """How many of these are true."""
        hits: np.ndarray = self.is_true[self.order].cumsum()[self.ends - 1]
        return hits

    @property
    def auroc(self) -> float:
        """Area under the ROC curve: the chance that something true ranks above something false, ties half.

        The Mann-Whitney statistic over the number of pairs.
        """
        if not self.is_defined:
            return float("nan")
        true = np.diff(self.found, prepend=0)
        false = np.diff(self.ends, prepend=0) - true
        # twice the pairs of a true item and a false one below it, in whole numbers: a perfect ranking is 1
        below = 2 * (self.n - self.n_true - false.cumsum()) + false
        return float((true * below).sum() / (2 * self.n_true * (self.n - self.n_true)))

    @property
    def average_precision(self) -> float:
        """Precision at every distinct score, weighted by how much recall it adds; chance is the share of true."""
        if not self.is_defined:
            return float("nan")
        return float((np.diff(self.found, prepend=0) * self.found / self.ends).sum() / self.n_true)

    @cached_property
    def hits(self) -> Float[np.ndarray, " cut"]:
        """How many of the first 1, 2, ... are true, as expected when equal scores are ordered at random."""
        cuts = np.arange(1, self.n + 1)
        return np.interp(cuts, np.r_[0, self.ends], np.r_[0, self.found])

    @property
    def precision(self) -> Float[np.ndarray, " cut"]:
        """Of the first 1, 2, ... the share that is true."""
        return self.hits / np.arange(1, self.n + 1)

    @property
    def recall(self) -> Float[np.ndarray, " cut"]:
        """Share of what is true among the first 1, 2, ..."""
        return self.hits / self.n_true if self.is_defined else np.full(self.n, np.nan)

    @property
    def f1(self) -> Float[np.ndarray, " cut"]:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / (np.arange(1, self.n + 1) + self.n_true)

    def at(self, n: int) -> CutQuality:
        """Precision, recall and F1 of the first ``n``, from 1 to all."""
        cut = n - 1
        return CutQuality(n, float(self.precision[cut]), float(self.recall[cut]), float(self.f1[cut]))

    @property
    def roc(self) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        """False and true positive rate from (0, 0) on, a point each distinct score; its area is :attr:`auroc`."""
        false = (self.ends - self.found) / max(1, self.n - self.n_true)
        return np.r_[0, false], np.r_[0, self.found / max(1, self.n_true)]

    @property
    def precision_recall(self) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
        """Recall and precision at each distinct score; steps up to each recall have the area
        :attr:`average_precision`."""
        return self.found / max(1, self.n_true), self.found / self.ends
