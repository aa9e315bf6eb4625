"""Gates: whether and how much to steer a prompt, decided from activations that its own forward computes.

A gate reads activations of the prompt at lower sites, and decides once a prompt: while tokens are generated,
with a KV cache or without, the decision stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.types import Site


@dataclass(frozen=True, eq=False)
class Reading:
    """What a gate reads at one site: activations of the prompt's tokens, and which of them count."""

    values: Float[Tensor, "batch pos d"]
    chosen: Bool[Tensor, "batch pos"]

    def mean(self) -> Float[Tensor, "batch d"]:
        """Mean over the tokens that count."""
        # not a product with 0 and 1: padding may hold NaN
        kept = torch.where(self.chosen[..., None], self.values, 0)
        return kept.sum(1) / self.chosen.sum(1, keepdim=True).clamp(min=1)


class Gate(ABC):
    """Decides a factor for every prompt, and for every channel where it has several."""

    kind: ClassVar[str]
    n_channels: int = 1

    @property
    @abstractmethod
    def sites(self) -> Sequence[Site]:
        """Where it reads: one layer each, with positions of the prompt (all without any)."""

    @abstractmethod
    def decide(self, readings: Mapping[Site, Reading]) -> Float[Tensor, "batch channel"]:
        """Factors by which the strengths of a prompt's steps are multiplied."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors it is made of, for files."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All else it is made of, JSON-ready, with its ``kind``."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gate:
        """What :meth:`to_dict` and :meth:`tensors` gave."""
