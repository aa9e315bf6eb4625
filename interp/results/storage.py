"""Saving records as one safetensors file: tensors as tensors, the rest as JSON in the header."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import DataFileError

_KEY = "interp"


def save_record(path: str | Path, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write a record to ``path`` atomically: a reader sees the whole file or none of it.

    ``kind`` names the record's class; ``meta`` must be JSON-ready and not hold the key ``kind``.
    """
    from safetensors.torch import save

    header = {_KEY: json.dumps({**meta, "kind": kind})}
    # cloned: safetensors refuses tensors that share memory, and axes may be views of one array
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    # not save_file: it makes files that only their owner can read
    return write_whole(path, save(plain, metadata=header))


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` and make missing folders: a reader sees the whole file or the old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def without_nan(value: Any) -> Any:
    """Plain values with ``None`` for what is not finite, for JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_record(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_record` wrote.

    Raises :class:`DataFileError` when the file is missing, is not a whole safetensors file, or
    holds another kind of record.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}; expected a saved {kind} record.")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataFileError(
            f"{str(path)!r} is not a readable safetensors file ({error}); it may be truncated or of "
            "another kind (pickles are refused). Save the record again."
        ) from error
    if _KEY not in header:
        raise DataFileError(f"{str(path)!r} is a safetensors file but not a record of this package.")
    meta = _read_header(header[_KEY], path)
    found = meta.pop("kind", None)
    if found != kind:
        raise DataFileError(
            f"{str(path)!r} holds a {found} record; expected {kind}. Load it with {found}.load."
        )
    return tensors, meta


def _read_header(text: str, path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataFileError(
            f"{str(path)!r} has a damaged header ({error}); save the record again."
        ) from error
    if not isinstance(meta, dict):
        raise DataFileError(f"{str(path)!r} has a damaged header; save the record again.")
    return meta
