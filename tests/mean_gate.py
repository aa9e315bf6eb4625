"""A gate for tests: simple enough to be written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.steering.gates import Gate, Reading
from interp.types import Site, parse_site


def _vector(channel: int) -> Tensor:
    return torch.randn(36, generator=torch.Generator().manual_seed(20 + channel))


class MeanGate(Gate):
    """Factors between -1 and 1 from the means of what it reads, by fixed vectors; counts its decisions."""

    kind = "mean"

    def __init__(self, *sites: str, channels: int = 1) -> None:
        self._sites = tuple(map(parse_site, sites))
        self.n_channels = channels
        self.seen: list[dict[str, Tensor]] = []

    @property
    def sites(self) -> Sequence[Site]:
        return self._sites

    def factors(self, means: Sequence[Tensor]) -> Tensor:
        """[channel] from one mean a site."""
        total = sum(mean.double() for mean in means)
        return torch.stack([torch.tanh(total @ _vector(c).double() / 6) for c in range(self.n_channels)])

    def decide(self, readings: Mapping[Site, Reading]) -> Tensor:
        self.seen.append({str(site): one.chosen.clone() for site, one in readings.items()})
        means = [readings[site].mean() for site in self._sites]
        return torch.stack([self.factors([mean[row] for mean in means]) for row in range(len(means[0]))])

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MeanGate:
        return cls()
