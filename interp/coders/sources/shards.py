"""The files of a cache: shards of rows, one plain array a field, and an index that counts whole ones.

``index.json`` beside ``x-00000.bin``, ``token-00000.bin`` ...: every array is row-major and little-endian with
no header, ``bf16`` as the upper two bytes of a float. The index names a shard only once all its files are
whole, so a shard that was cut short is not part of the cache.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from interp.errors import CoderError, DataFileError, unknown_name
from interp.results.storage import write_whole

INDEX = "index.json"
FORMAT = "interp activations 1"

CacheType = Literal["bf16", "fp16", "fp32"]
"""How activations are stored: 8 bits of precision and the range of fp32, 11 bits up to 65504, or 24 bits."""

TORCH_TYPES: Mapping[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int32": torch.int32,
}


@dataclass(frozen=True)
class StoredField:
    """One array of every shard."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of one row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * TORCH_TYPES[self.dtype].itemsize

    def file_name(self, shard: int) -> str:
        """Name of the field's file of a shard."""
        return f"{self.name}-{shard:05d}.bin"


def choose_type(field: str, dtype: str) -> str:
    """The type a field is stored in.

    Gradients span more orders of magnitude than fp16 holds, so there they are bf16. Raises
    :class:`CoderError` for an unknown type.
    """
    if dtype not in get_args(CacheType):
        raise CoderError(unknown_name("type of a cache", dtype, get_args(CacheType)))
    name = field.rpartition(".")[2]
    if name in ("token", "position", "prompt"):
        return "int32"
    return "bf16" if name == "grad" and dtype == "fp16" else dtype


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a cache. Raises :class:`DataFileError` where there is none, or a damaged or foreign one."""
    path = folder / INDEX
    if not path.is_file():
        raise DataFileError(f"{str(folder)!r} holds no cache of activations: it has no {INDEX}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataFileError(f"{str(path)!r} is damaged ({error}); write the cache again.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataFileError(f"{str(path)!r} is no index of cached activations ({FORMAT!r}).")
    return found


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Put an index in place, whole."""
    write_whole(folder / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def read_fields(index: Mapping[str, Any]) -> list[StoredField]:
    """The arrays that an index names."""
    stored = index["question"]["fields"]
    return [StoredField(name, item["dtype"], tuple(item["shape"])) for name, item in stored.items()]


def digest_file(path: Path) -> str:
    """Checksum of a file's contents."""
    found = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
