"""Which planted features fire together: independently, under parents, or in correlated groups.

A structure says how often each feature fires and draws which ones do. A new one is a frozen dataclass with
the four methods of :class:`Structure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CoderError


class Structure(Protocol):
    """How features depend on one another."""

    def check(self, n_features: int) -> None:
        """Raise :class:`CoderError` where so many features do not fit."""

    def parents(self, n_features: int) -> Int[Tensor, " feature"]:
        """Number of each feature's parent; -1 without one."""

    def marginals(self, weights: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """How often each feature fires, up to a common factor, from the weights that were asked for."""

    def fire(
        self, probabilities: Float[Tensor, " feature"], n: int, generator: torch.Generator
    ) -> Bool[Tensor, "row feature"]:
        """Draw which features fire, each with its probability."""


class _WithoutParents:
    """Features of one rank, which fire as often as they are asked to."""

    def check(self, n_features: int) -> None:
        """Any number fits."""

    def parents(self, n_features: int) -> Int[Tensor, " feature"]:
        """No feature has one."""
        return torch.full((n_features,), -1)

    def marginals(self, weights: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """As asked for."""
        return weights


@dataclass(frozen=True)
class Independent(_WithoutParents):
    """Every feature fires on its own."""

    def fire(
        self, probabilities: Float[Tensor, " feature"], n: int, generator: torch.Generator
    ) -> Bool[Tensor, "row feature"]:
        """Independent draws."""
        return torch.rand(n, len(probabilities), generator=generator) < probabilities


@dataclass(frozen=True)
class Hierarchy:
    """Children fire only where their parent does, and at most one child of a parent at a time.

    The first ``n_parents`` features are parents, the next ``n_children`` are the children of feature 0, and
    so on; the others are independent. This is the setting in which dictionaries absorb a parent into its
    children (arXiv 2409.14507).
    """

    n_parents: int = 8
    n_children: int = 3
    """Of each parent."""
    share: float = 0.6
    """How often some child fires where its parent does."""

    def __post_init__(self) -> None:
        if self.n_parents < 1 or self.n_children < 1 or not 0 < self.share <= 1:
            raise CoderError(
                f"a hierarchy has parents and children, and a share in (0, 1]; got {self.n_parents} parents, "
                f"{self.n_children} children each, share {self.share}."
            )

    @property
    def _taken(self) -> int:
        return self.n_parents * (1 + self.n_children)

    def check(self, n_features: int) -> None:
        """Parents and children must fit."""
        if n_features < self._taken:
            raise CoderError(
                f"{self.n_parents} parents with {self.n_children} children each are {self._taken} features; "
                f"there are {n_features}."
            )

    def parents(self, n_features: int) -> Int[Tensor, " feature"]:
        """Of the children; -1 for the others."""
        found = torch.full((n_features,), -1)
        found[self.n_parents : self._taken] = torch.arange(self.n_parents).repeat_interleave(self.n_children)
        return found

    def marginals(self, weights: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """Parents and independent features as asked for; a child fires an equal part of ``share`` of its parent."""
        found = weights.clone()
        child = weights[: self.n_parents] * self.share / self.n_children
        found[self.n_parents : self._taken] = child.repeat_interleave(self.n_children)
        return found

    def fire(
        self, probabilities: Float[Tensor, " feature"], n: int, generator: torch.Generator
    ) -> Bool[Tensor, "row feature"]:
        """Parents first, then which child, if any."""
        firing = torch.rand(n, len(probabilities), generator=generator) < probabilities
        which = torch.rand(n, self.n_parents, generator=generator) * self.n_children / self.share
        chosen = which.long()[..., None] == torch.arange(self.n_children)
        children = chosen & firing[:, : self.n_parents, None]
        firing[:, self.n_parents : self._taken] = children.flatten(1)
        return firing


@dataclass(frozen=True)
class Correlated(_WithoutParents):
    """Groups of features that tend to fire together, by a Gaussian copula; how often each fires is unchanged.

    In a group every feature has a standard normal score, any two with the given correlation, and fires where
    its score is in the top share that its probability says.
    """

    group: int = 4
    """Features of a group, in their order; the last may be smaller."""
    correlation: float = 0.6
    """Of the scores within a group, 0 to less than 1."""

    def __post_init__(self) -> None:
        if self.group < 2 or not 0 <= self.correlation < 1:
            raise CoderError(
                f"correlated groups have at least 2 features and a correlation in [0, 1); got groups of "
                f"{self.group} and {self.correlation}."
            )

    def fire(
        self, probabilities: Float[Tensor, " feature"], n: int, generator: torch.Generator
    ) -> Bool[Tensor, "row feature"]:
        """A score shared by the group and one of the feature's own, mixed."""
        n_features = len(probabilities)
        n_groups = -(-n_features // self.group)
        shared = torch.randn(n, n_groups, generator=generator)
        shared = shared.repeat_interleave(self.group, dim=1)[:, :n_features]
        own = torch.randn(n, n_features, generator=generator)
        score = self.correlation**0.5 * shared + (1 - self.correlation) ** 0.5 * own
        return score > torch.special.ndtri(1 - probabilities.double()).float()
