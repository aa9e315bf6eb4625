"""Logic of ±1 features by ReLU neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from interp.models.bundled.planted.wiring import Wiring

GateKind = Literal["and", "or", "xor", "copy", "not"]
"""``xor`` is the product of both signs, so +1 where they agree."""

# Each neuron: what it reads of each source, and what it writes. All are 0 where every source is 0, so a
# gate says nothing at positions that its features do not stand at.
_NEURONS: dict[str, tuple[tuple[tuple[float, ...], float], ...]] = {
    # x - relu(x - y), the smaller one; x + relu(y - x), the larger one
    "and": (((1.0, 0.0), 1.0), ((-1.0, 0.0), -1.0), ((1.0, -1.0), -1.0)),
    "or": (((1.0, 0.0), 1.0), ((-1.0, 0.0), -1.0), ((-1.0, 1.0), 1.0)),
    # |x + y| / 2 - |x - y| / 2
    "xor": (((0.5, 0.5), 1.0), ((-0.5, -0.5), 1.0), ((0.5, -0.5), -1.0), ((-0.5, 0.5), -1.0)),
    "copy": (((1.0,), 1.0), ((-1.0,), -1.0)),
    "not": (((1.0,), -1.0), ((-1.0,), 1.0)),
}


def count_gate_neurons(kind: GateKind) -> int:
    """How many neurons a gate takes."""
    return len(_NEURONS[kind])


def count_gate_sources(kind: GateKind) -> int:
    """How many features a gate reads."""
    return len(_NEURONS[kind][0][0])


def wire_gate(
    wiring: Wiring, layer: int, first: int, kind: GateKind, sources: Sequence[str], target: str
) -> tuple[int, ...]:
    """Write a gate of one-dimensional subspaces into neurons from ``first`` on; returns their numbers."""
    neurons = _NEURONS[kind]
    for offset, (reads, write) in enumerate(neurons):
        parts: dict[str, torch.Tensor] = {}
        for source, weight in zip(sources, reads, strict=True):
            parts[source] = parts.get(source, torch.zeros(1)) + weight
        wiring.neuron(layer, first + offset, reads=parts, writes={target: torch.full((1,), write)})
    return tuple(range(first, first + len(neurons)))
