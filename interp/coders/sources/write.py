"""Writing a cache of activations: shard after shard, each whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.sources.cached import CachedActivations, CachedJointActivations, open_folder
from interp.coders.sources.layout import ActivationSource, JointSource, list_differences
from interp.coders.sources.parts import ChunkForm, count_rows
from interp.coders.sources.shards import (
    FORMAT,
    INDEX,
    TORCH_TYPES,
    CacheType,
    StoredField,
    choose_type,
    read_fields,
    read_index,
    write_index,
)
from interp.errors import CoderError

SHARD_ROWS = 1 << 18
OWN_FILE = re.compile(r".+-\d{5}\.bin(\.part)?|\.index\.json\.\w+")
"""Names of shards, whole or not, and of an index that was being written."""


def cache_activations(
    source: ActivationSource | JointSource,
    folder: str | Path,
    *,
    dtype: CacheType = "fp16",
    shard_rows: int = SHARD_ROWS,
    progress: bool = True,
) -> CachedActivations | CachedJointActivations:
    """Write all rows of a source to shards in ``folder``, and open them.

    Activations are stored as ``dtype``, gradients too but for fp16, whose range is too small for them: they
    are bf16 then. ``shard_rows`` rows make a shard, of which a chunk at a time is in memory. A run that was
    killed goes on behind its last whole shard and ends with the same bytes; a folder that is complete is
    opened. The format is described in :mod:`interp.coders.sources.shards`.

    Raises :class:`CoderError` for a folder with activations of another question (naming what differs), for
    values that do not fit ``dtype``, and for a source without rows.

    Example::

        cached = interp.cache_activations(interp.stream_activations(model, dataset, "mlp_out[2]"), "mlp2")
    """
    folder = Path(folder)
    if shard_rows < 1:
        raise CoderError(f"shard_rows must be at least 1; got {shard_rows}.")
    choose_type("x", dtype)
    asked = _asked(source, dtype, shard_rows)
    writer = _Writer(folder, asked, shard_rows, dtype)
    if not writer.index["complete"]:
        writer.write(source, progress)
    return open_folder(folder)


def _asked(source: ActivationSource | JointSource, dtype: str, shard_rows: int) -> dict[str, Any]:
    layouts = source.layouts if isinstance(source, JointSource) else {"": source.layout}
    return {
        "layouts": {name: layout.to_dict() for name, layout in layouts.items()},
        "dtype": dtype,
        "shard_rows": shard_rows,
    }


class _Writer:
    def __init__(self, folder: Path, asked: Mapping[str, Any], shard_rows: int, dtype: str) -> None:
        self.folder, self.shard_rows, self.dtype = folder, shard_rows, dtype
        if (folder / INDEX).is_file():
            self.index = read_index(folder)
            there = {name: self.index["question"].get(name) for name in asked}
            # as JSON, which knows no tuples
            if differing := list_differences(there, json.loads(json.dumps(asked))):
                raise CoderError(
                    f"{str(folder)!r} holds activations of another question; they differ in {differing}. Name a new "
                    "folder, or delete this one."
                )
        else:
            # a run may have been killed before it wrote its first index
            if folder.is_dir() and any(not OWN_FILE.fullmatch(path.name) for path in folder.iterdir()):
                raise CoderError(
                    f"{str(folder)!r} is not empty and holds no cache of activations; name a new folder."
                )
            self.index = {
                "format": FORMAT,
                "complete": False,
                "rows": 0,
                "question": dict(asked),
                "shards": [],
            }
        self.form: ChunkForm | None = None
        self.fields: list[StoredField] = []

    def write(self, source: Any, progress: bool) -> None:
        from tqdm.auto import tqdm

        self.folder.mkdir(parents=True, exist_ok=True)
        for scratch in self.folder.glob(f".{INDEX}.*"):
            scratch.unlink()
        skip = self._go_on(source)
        bar = tqdm(
            desc="cache", unit=" rows", unit_scale=True, disable=not progress, initial=self.index["rows"]
        )
        shard: _Shard | None = None
        try:
            state = self._cursor(source)
            while (chunk := source.next_chunk()) is not None:
                tensors, at, n = self._prepare(chunk), skip, count_rows(chunk)
                skip = max(0, skip - n)
                while at < n:
                    shard = shard or _Shard(self.folder, self.fields, len(self.index["shards"]))
                    taken = min(n - at, self.shard_rows - shard.rows)
                    shard.append({name: tensor[at : at + taken] for name, tensor in tensors.items()})
                    at += taken
                    bar.update(taken)
                    if shard.rows == self.shard_rows:
                        self._put_index(shard.finish(), {"source": state, "skip": at})
                        shard = None
                state = self._cursor(source)
            if shard is None and not self.index["rows"]:
                raise CoderError("the source has no rows to cache; check its data and positions.")
            self._put_index(None if shard is None else shard.finish(), None)
            shard = None
        finally:
            bar.close()
            if shard is not None:
                shard.discard()

    def _go_on(self, source: Any) -> int:
        """Stand before the chunk with the first row that is missing; how many of its rows are there."""
        cursor = self.index.get("cursor")
        if cursor is None:
            source.restart()
            return int(self.index["rows"])
        source.restore(cursor["source"])
        return int(cursor["skip"])

    def _cursor(self, source: Any) -> Any:
        state = source.state()
        try:
            return json.loads(json.dumps(state))
        except TypeError:
            return None

    def _prepare(self, chunk: CoderBatch | dict[str, CoderBatch]) -> dict[str, Tensor]:
        if self.form is None:
            self.form = ChunkForm.of(chunk)
            self._describe(self.form.take_apart(chunk))
        found = self.form.take_apart(chunk)
        return {field.name: _convert(field, found[field.name]) for field in self.fields}

    def _describe(self, tensors: Mapping[str, Tensor]) -> None:
        assert self.form is not None
        shapes = {
            name: {"dtype": choose_type(name, self.dtype), "shape": list(t.shape[1:])}
            for name, t in tensors.items()
        }
        found = {"fields": shapes, "kept": dict(self.form.kept)}
        there = {name: self.index["question"].get(name, found[name]) for name in found}
        if differing := list_differences(there, found):
            raise CoderError(f"{str(self.folder)!r} holds rows of another form; they differ in {differing}.")
        self.index["question"] |= found
        self.fields = read_fields(self.index)

    def _put_index(self, shard: dict[str, Any] | None, cursor: dict[str, Any] | None) -> None:
        """Count one more whole shard; without a cursor it is the last."""
        shards = [*self.index["shards"], *([] if shard is None else [shard])]
        rows = sum(entry["rows"] for entry in shards)
        index = {**self.index, "complete": cursor is None, "rows": rows, "shards": shards}
        index.pop("cursor", None)
        if cursor is not None and cursor["source"] is not None:
            index["cursor"] = cursor
        write_index(self.folder, index)
        self.index = index


def _convert(field: StoredField, tensor: Tensor) -> Tensor:
    wanted = TORCH_TYPES[field.dtype]
    found = tensor.detach().cpu()
    if tuple(found.shape[1:]) != field.shape:
        raise CoderError(
            f"chunks must be alike; {field.name} was [row, {field.shape}], now {list(found.shape)}."
        )
    if not found.is_floating_point():
        if len(found) and int(found.abs().max()) > torch.iinfo(torch.int32).max:
            raise CoderError(
                f"{field.name} has numbers above {torch.iinfo(torch.int32).max}, which a cache does not hold."
            )
        return found.to(wanted).contiguous()
    stored = found.to(wanted).contiguous()
    if bool((stored.isinf() & found.isfinite()).any()):
        raise CoderError(
            f"{field.name} has values of up to {float(found.abs().max()):.3g}, beyond the range of {field.dtype}; "
            "give dtype='bf16' or 'fp32'."
        )
    return stored


class _Shard:
    """Files of one shard while they are being written, under names that no reader takes for whole."""

    def __init__(self, folder: Path, fields: list[StoredField], number: int) -> None:
        self.folder, self.fields, self.number, self.rows = folder, fields, number, 0
        self._digests = {field.name: hashlib.blake2b(digest_size=20) for field in fields}
        self._stack = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        for field in fields:
            self._files[field.name] = self._stack.enter_context(self._scratch(field).open("wb"))

    def _scratch(self, field: StoredField) -> Path:
        return self.folder / f"{field.file_name(self.number)}.part"

    def append(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            # as bytes, for numpy knows no bfloat16
            data = tensor.contiguous().view(torch.uint8).numpy().data
            self._files[name].write(data)
            self._digests[name].update(data)
        self.rows += len(next(iter(tensors.values())))

    def finish(self) -> dict[str, Any]:
        """Put the files in place; the shard's entry in the index."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._stack.close()
        entry: dict[str, Any] = {"rows": self.rows, "files": {}}
        for field in self.fields:
            name = field.file_name(self.number)
            os.replace(self._scratch(field), self.folder / name)
            size = field.row_bytes * self.rows
            entry["files"][field.name] = {
                "name": name,
                "bytes": size,
                "blake2b": self._digests[field.name].hexdigest(),
            }
        return entry

    def discard(self) -> None:
        self._stack.close()
        for field in self.fields:
            self._scratch(field).unlink(missing_ok=True)
