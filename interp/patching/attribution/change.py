"""From a base run's activation to what replaces it, subtracted only where it has to be."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.kernels import kernel_runs
from interp.kernels.attribute import subtract


@dataclass(frozen=True, eq=False)
class Change:
    """``source - base``; either may be missing, which is zero.

    In half precision the two take no more memory than their difference, which is in fp32, and a kernel
    subtracts as it reads them.
    """

    source: Float[Tensor, "..."] | None
    base: Float[Tensor, "..."] | None = None

    def subtract(self) -> Float[Tensor, "..."]:
        """The difference itself, in fp32 at least."""
        return subtract(self.source, self.base)


def sums_are_fused(value: Float[Tensor, "..."]) -> bool:
    """Whether changes times gradients such as this are added up by kernels."""
    return kernel_runs("attribution", (value,))
