"""Directions from the rows of a contrast, each a function of rows alone.

All point from the negative to the positive side. None has a length of its own but the mean difference;
:func:`find_direction` gives them its length, so that strength 1 is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.steering.contrast import ContrastRows
from interp.steering.extract.components import lat_component, top_centred_component, top_component
from interp.steering.extract.probes import lda_weights, logistic_weights

Direction = Callable[[ContrastRows, int], Float[Tensor, " d"]]
"""From the rows and a seed to a direction of any length, pointing to the positive side."""


def mean_difference(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """Mean of the positive rows minus mean of the negative ones (Marks & Tegmark 2023; Rimsky et al. 2024)."""
    return rows.mean_difference


DIRECTIONS: Mapping[str, Direction] = MappingProxyType(
    {
        "mean-difference": mean_difference,
        "pca": top_component,
        "centred-pca": top_centred_component,
        "lat": lat_component,
        "logistic": logistic_weights,
        "lda": lda_weights,
    }
)
"""Name of a method -> the function that finds its direction."""


def find_direction(rows: ContrastRows, method: str, seed: int = 0) -> Float[Tensor, " d"]:
    """The direction of a method, as long as the mean difference.

    Raises :class:`SteeringError` for an unknown method, where both sides have the same mean, and where the
    method finds nothing in these rows.
    """
    if method not in DIRECTIONS:
        raise SteeringError(unknown_name("extraction method", method, DIRECTIONS))
    length = rows.mean_difference.norm()
    if not bool(length > 0):
        raise SteeringError(
            "positive and negative prompts have the same mean activation: there is no direction."
        )
    found = DIRECTIONS[method](rows, seed).to(rows.positive)
    size = found.norm()
    if not bool(size > 0) or not bool(size.isfinite()):
        raise SteeringError(f"{method} found no direction in these rows (length {float(size):.3g}).")
    return found * (length / size)
