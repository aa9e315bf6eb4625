"""Chunks as plain tensors by name, each kept once, and tensors as chunks again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.errors import CoderError

FIELDS = tuple(field.name for field in fields(CoderBatch))


@dataclass(frozen=True)
class ChunkForm:
    """Which fields the chunks of a source have, and which of them are one tensor."""

    kept: Mapping[str, str]
    """Every field, ``"x"`` or for several coders ``"name.x"``, and the field it is kept as."""
    is_joint: bool

    @classmethod
    def of(cls, chunk: CoderBatch | dict[str, CoderBatch]) -> Self:
        """The form of a chunk."""
        found = _name_fields(chunk)
        first: dict[int, str] = {}
        kept = {name: first.setdefault(id(tensor), name) for name, tensor in found.items()}
        return cls(kept, isinstance(chunk, dict))

    def take_apart(self, chunk: CoderBatch | dict[str, CoderBatch]) -> dict[str, Tensor]:
        """The tensors of a chunk that are kept. Raises :class:`CoderError` for a chunk of another form."""
        found = _name_fields(chunk)
        shared = all(
            found[name] is found[kept] for name, kept in self.kept.items() if {name, kept} <= set(found)
        )
        if set(found) != set(self.kept) or not shared:
            raise CoderError(
                f"all chunks of a source must have the same fields; the first had {sorted(self.kept)}, one now has "
                f"{sorted(found)}{'' if shared else ', of which others are one tensor'}."
            )
        return {kept: found[kept] for kept in dict.fromkeys(self.kept.values())}

    def put_together(self, tensors: Mapping[str, Tensor]) -> Any:
        """A chunk of this form of the tensors that are kept."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, kept in self.kept.items():
            owner, _, field = name.rpartition(".")
            found.setdefault(owner, {})[field] = tensors[kept]
        batches = {owner: CoderBatch(**parts) for owner, parts in found.items()}
        return batches if self.is_joint else batches[""]


def _name_fields(chunk: CoderBatch | dict[str, CoderBatch]) -> dict[str, Tensor]:
    if isinstance(chunk, CoderBatch):
        return chunk.present()
    return {
        f"{name}.{field}": tensor
        for name, batch in chunk.items()
        for field, tensor in batch.present().items()
    }


def count_rows(chunk: CoderBatch | dict[str, CoderBatch]) -> int:
    """Rows of a chunk. Raises :class:`CoderError` where its coders have not the same number."""
    if isinstance(chunk, CoderBatch):
        return len(chunk)
    sizes = {name: len(batch) for name, batch in chunk.items()}
    if len(set(sizes.values())) != 1:
        raise CoderError(f"the coders of one chunk must have the same rows; got {sizes} of them.")
    return next(iter(sizes.values()))
