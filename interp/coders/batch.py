"""The one schema that every coder trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import CoderError


@dataclass(frozen=True, eq=False)
class CoderBatch:
    """Activations of some tokens: what a coder reads, what it is to predict, and where they come from.

    One site gives [row, d_in], several give [row, site, d_in] (cross-layer transcoders, crosscoders). An
    autoencoder's ``target`` is the very tensor ``x``.

    Raises :class:`CoderError` when the fields differ in length, or ``grad`` in shape from ``x``.
    """

    x: Float[Tensor, "row *site_in d_in"]
    target: Float[Tensor, "row *site_out d_out"]
    grad: Float[Tensor, "row *site_in d_in"] | None = None
    """Gradient of the language-model loss, summed over the prompt's tokens, with respect to ``x``."""
    token: Int[Tensor, " row"] | None = None
    position: Int[Tensor, " row"] | None = None
    """Counted from the prompt's first real token."""
    prompt: Int[Tensor, " row"] | None = None
    """Number of the prompt in its data set."""

    def __post_init__(self) -> None:
        sizes = {name: len(tensor) for name, tensor in self.present().items()}
        if len(set(sizes.values())) > 1:
            raise CoderError(f"the fields of a batch must have one length; got {sizes}.")
        if self.grad is not None and self.grad.shape != self.x.shape:
            raise CoderError(
                f"grad must have the shape of x, {list(self.x.shape)}; got {list(self.grad.shape)}."
            )

    def present(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    def __len__(self) -> int:
        return len(self.x)

    @property
    def is_reconstruction(self) -> bool:
        """Whether the target is the input itself."""
        return self.target is self.x

    def select(self, rows: Int[Tensor, " kept"] | slice) -> Self:
        """Some rows, in the order given."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same rows elsewhere; ``dtype`` is that of activations and gradients only."""
        return self._map(
            lambda tensor: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        found = {name: change(tensor) for name, tensor in self.present().items() if name != "target"}
        target = found["x"] if self.is_reconstruction else change(self.target)
        return replace(self, **found, target=target)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Rows of several batches, one after another.

        Raises :class:`CoderError` for no batches, or batches that have not the same fields.
        """
        if not parts:
            raise CoderError("there are no batches to join.")
        names = [set(part.present()) for part in parts]
        if any(found != names[0] for found in names):
            raise CoderError(f"batches to join must have the same fields; got {sorted(map(sorted, names))}.")
        joined = {name: torch.cat([part.present()[name] for part in parts]) for name in names[0] - {"target"}}
        if all(part.is_reconstruction for part in parts):
            return cls(target=joined["x"], **joined)
        return cls(target=torch.cat([part.target for part in parts]), **joined)
