"""Directions from the rows of a contrast, each a function of rows alone.

All point from negative to positive: their product with the mean difference is above 0. None has a length of its
own but the mean difference; :func:`find_direction` gives them its length, so that strength 1 is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.steering.contrast import ContrastRows

Direction = Callable[[ContrastRows, int], Float[Tensor, " d"]]
"""From the rows and a seed to a direction of any length, pointing to the positive side."""


def mean_difference(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """Mean of the positive rows minus mean of the negative ones (Marks & Tegmark 2023; Rimsky et al. 2024)."""
    return rows.mean_difference


DIRECTIONS: Mapping[str, Direction] = MappingProxyType({"mean-difference": mean_difference})
"""Name of a method -> the function that finds its direction."""


def find_direction(rows: ContrastRows, method: str, seed: int = 0) -> Float[Tensor, " d"]:
    """The direction of a method, as long as the mean difference.

    Raises :class:`SteeringError` for an unknown method, and where both sides have the same mean.
    """
    if method not in DIRECTIONS:
        raise SteeringError(unknown_name("extraction method", method, DIRECTIONS))
    length = rows.mean_difference.norm()
    if not bool(length > 0):
        raise SteeringError(
            "positive and negative prompts have the same mean activation: there is no direction."
        )
    found = DIRECTIONS[method](rows, seed).to(rows.positive)
    return found * (length / found.norm())
