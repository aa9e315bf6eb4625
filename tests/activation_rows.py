"""Rows of activations made by hand: one prompt at a time, one position at a time; and sources read to the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import interp
from interp.coders.batch import CoderBatch


def read_all(source: Any) -> CoderBatch:
    """All that is left of a source."""
    chunks = []
    while (chunk := source.next_chunk()) is not None:
        chunks.append(chunk)
    return CoderBatch.cat(chunks)


def rows_by_hand(model: Any, prompts: list[list[int]], site: str, first: int = 1) -> Tensor:
    """Rows of one site, heads concatenated, of prompts that are each run alone."""
    rows = []
    for prompt in prompts:
        with torch.no_grad():
            value = interp.capture(model, torch.tensor([prompt]), site)[site][0]
        rows += [value[position].flatten() for position in range(first, len(prompt))]
    return torch.stack(rows)


def same_rows(a: CoderBatch, b: CoderBatch) -> bool:
    """Whether two batches are equal to the bit, in every field."""
    found, expected = a.present(), b.present()
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in found)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes back from a file: JSON, with tensors beside it."""
    import json

    tensors: list[Tensor] = []

    def pack(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value.clone())
            return {"tensor": len(tensors) - 1}
        if isinstance(value, dict):
            return {key: pack(item) for key, item in value.items()}
        return value

    def unpack(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: unpack(item) for key, item in value.items()} if isinstance(value, dict) else value

    return unpack(json.loads(json.dumps(pack(state))))
