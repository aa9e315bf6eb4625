"""Reading a cache of activations: shards mapped into memory, a chunk at a time."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.sources.chosen import ChosenFields, choose_all, choose_coder, choose_sites
from interp.coders.sources.layout import SourceLayout
from interp.coders.sources.parts import ChunkForm
from interp.coders.sources.shards import TORCH_TYPES, StoredField, digest_file, read_fields, read_index
from interp.errors import CoderError, DataFileError, unknown_name
from interp.types import SiteLike

CHUNK_BYTES = 1 << 24
"""Of one row's fields times the rows of a chunk, unless ``chunk_rows`` is given."""


def open_activations(
    folder: str | Path,
    *,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    target: SiteLike | Iterable[SiteLike] | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    chunk_rows: int | None = None,
    verify: bool = False,
    partial: bool = False,
    progress: bool = True,
) -> CachedActivations:
    """Open what :func:`interp.cache_activations` wrote, without loading it.

    ``sites`` and ``target`` choose among the cached sites: of a cache of ``resid_post[0-3]``, a coder of
    ``sites="resid_post[2]"`` reads [row, d]; without ``target`` the chosen sites are their own target. A cache
    of several coders gives the rows of the one called ``name``. ``dtype=None`` gives rows as they are stored.
    The size of every shard is checked now, its checksum with ``verify=True``. A cache whose writing has not
    ended is refused unless ``partial=True``, which reads its whole shards.

    Raises :class:`DataFileError` for a folder without a cache and for a shard that is missing, cut short or
    changed (naming it), and :class:`CoderError` for sites or a name that are not there.
    """
    folder, index = Path(folder), read_index(Path(folder))
    _check_files(folder, index, verify, partial, progress)
    layouts = _read_layouts(index)
    if name is None and len(layouts) > 1:
        raise CoderError(f"{str(folder)!r} holds the rows of {sorted(layouts)}; choose one with name=...")
    owner = next(iter(layouts)) if name is None else name
    if owner not in layouts:
        raise CoderError(unknown_name("coder of this cache", owner, layouts))
    rows = _Rows(folder, index, dtype, chunk_rows)
    fields, layout = choose_coder(rows.form, owner), layouts[owner]
    if sites is not None or target is not None:
        fields, layout = choose_sites(fields, layout, sites, target)
    return CachedActivations(rows, fields, layout)


def open_folder(folder: Path) -> CachedActivations | CachedJointActivations:
    """All that a cache holds: one coder's rows, or those of several."""
    index = read_index(folder)
    if "" in index["question"]["layouts"]:
        return open_activations(folder)
    _check_files(folder, index, verify=False, partial=False, progress=False)
    rows = _Rows(folder, index, torch.float32, None)
    return CachedJointActivations(rows, choose_all(rows.form), _read_layouts(index))


def _read_layouts(index: Mapping[str, Any]) -> dict[str, SourceLayout]:
    return {name: SourceLayout.from_dict(found) for name, found in index["question"]["layouts"].items()}


def _check_files(folder: Path, index: Mapping[str, Any], verify: bool, partial: bool, progress: bool) -> None:
    from tqdm.auto import tqdm

    if not index["complete"] and not partial:
        raise DataFileError(
            f"{str(folder)!r} is not complete: {index['rows']} rows are written. Run the same cache_activations again "
            "to go on, or open it with partial=True."
        )
    for shard in tqdm(index["shards"], desc="verify", unit=" shards", disable=not (verify and progress)):
        for found in shard["files"].values():
            path = folder / found["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != found["bytes"]:
                got = "is missing" if size is None else f"has {size} bytes"
                raise DataFileError(
                    f"shard {str(path)!r} {got}; it must have {found['bytes']}. Delete the folder and cache again."
                )
            if verify and digest_file(path) != found["blake2b"]:
                raise DataFileError(
                    f"shard {str(path)!r} is corrupt: its checksum is another. Delete the folder and cache again."
                )


class _Rows:
    """Rows of a cache in their order, as the fields that are stored."""

    def __init__(
        self, folder: Path, index: Mapping[str, Any], dtype: torch.dtype | None, chunk_rows: int | None
    ) -> None:
        if chunk_rows is not None and chunk_rows < 1:
            raise CoderError(f"chunk_rows must be at least 1; got {chunk_rows}.")
        if dtype is not None and not dtype.is_floating_point:
            raise CoderError(f"dtype must be a floating-point type, or None for the stored one; got {dtype}.")
        self.folder, self.dtype = folder, dtype
        self.fields = {field.name: field for field in read_fields(index)}
        self.form = ChunkForm(index["question"]["kept"], "" not in index["question"]["layouts"])
        self.shards: list[dict[str, Any]] = index["shards"]
        self.n_rows: int = index["rows"]
        row_bytes = sum(field.row_bytes for field in self.fields.values())
        self.chunk_rows = chunk_rows or max(1, min(1 << 16, CHUNK_BYTES // row_bytes))
        self.digest = hashlib.blake2b(json.dumps(self.shards).encode(), digest_size=8).hexdigest()
        self.row = 0
        self._open: tuple[int, dict[str, _MappedField]] | None = None

    def next_chunk(self, fields: ChosenFields) -> Any:
        """The next rows as a chunk; ``None`` at the end."""
        at = self.row
        number = 0
        while number < len(self.shards) and at >= self.shards[number]["rows"]:
            at, number = at - self.shards[number]["rows"], number + 1
        if number == len(self.shards):
            self._open = None
            return None
        stop = min(at + self.chunk_rows, self.shards[number]["rows"])
        maps = self._map(number)
        made = {}
        for name, parts in fields.parts.items():
            read = [maps[field].read(at, stop, site, self.dtype) for field, site in parts]
            made[name] = read[0] if len(read) == 1 else torch.stack(read, dim=1)
        for found in maps.values():
            found.let_go(at, stop)
        self.row += stop - at
        return fields.form.put_together(made)

    def _map(self, number: int) -> dict[str, _MappedField]:
        if self._open is None or self._open[0] != number:
            shard = self.shards[number]
            self._open = (
                number,
                {
                    name: _MappedField(self.folder / shard["files"][name]["name"], field, shard["rows"])
                    for name, field in self.fields.items()
                },
            )
        return self._open[1]

    def restore(self, state: Mapping[str, Any]) -> None:
        if (state["rows"], state["cache"]) != (self.n_rows, self.digest):
            raise CoderError(
                f"the state belongs to another cache, of {state['rows']} rows; {str(self.folder)!r} has {self.n_rows}."
            )
        self.row = int(state["row"])


class _MappedField:
    """One file of a shard as rows, in memory only where it is being read."""

    def __init__(self, path: Path, field: StoredField, rows: int) -> None:
        try:
            with path.open("rb") as file:
                # a private copy on write: torch wants memory that it might write to
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise DataFileError(f"shard {str(path)!r} cannot be read: {error}.") from error
        if len(self._map) != rows * field.row_bytes:
            raise DataFileError(
                f"shard {str(path)!r} has {len(self._map)} bytes; it must have {rows * field.row_bytes}."
            )
        whole = torch.frombuffer(self._map, dtype=TORCH_TYPES[field.dtype])
        self._rows, self._row_bytes = whole.view(rows, *field.shape), field.row_bytes

    def read(self, start: int, stop: int, site: int | None, dtype: torch.dtype | None) -> Tensor:
        """A copy of some rows, of all sites or one."""
        part = self._rows[start:stop] if site is None else self._rows[start:stop, site]
        wanted = torch.int64 if not part.is_floating_point() else dtype or part.dtype
        return part.to(wanted, copy=True)

    def let_go(self, start: int, stop: int) -> None:
        """Give back the pages of rows that were read, which else count as this process' memory."""
        if hasattr(mmap, "MADV_DONTNEED"):
            page = mmap.PAGESIZE
            first = start * self._row_bytes // page * page
            self._map.madvise(mmap.MADV_DONTNEED, first, stop * self._row_bytes - first)


class _Cached:
    """The cursor that both kinds of cache have."""

    def __init__(self, rows: _Rows, fields: ChosenFields) -> None:
        self._rows, self._fields = rows, fields

    @property
    def n_rows(self) -> int:
        """Rows of the whole cache."""
        return self._rows.n_rows

    @property
    def chunk_rows(self) -> int:
        """Most rows of a chunk."""
        return self._rows.chunk_rows

    def state(self) -> dict[str, Any]:
        """Rows given so far, and which cache it is; JSON-ready."""
        return {"row": self._rows.row, "rows": self._rows.n_rows, "cache": self._rows.digest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind a row. Raises :class:`CoderError` for the state of another cache."""
        self._rows.restore(state)

    def restart(self) -> None:
        """Stand before the first row."""
        self._rows.row = 0


class CachedActivations(_Cached):
    """Rows of one coder from a cache; made by :func:`open_activations`."""

    def __init__(self, rows: _Rows, fields: ChosenFields, layout: SourceLayout) -> None:
        super().__init__(rows, fields)
        self.layout = layout

    def next_chunk(self) -> CoderBatch | None:
        """The next rows, copied off the files; ``None`` at the end."""
        found: CoderBatch | None = self._rows.next_chunk(self._fields)
        return found


class CachedJointActivations(_Cached):
    """Rows of several coders from a cache, by name; made by :func:`cache_activations`."""

    def __init__(self, rows: _Rows, fields: ChosenFields, layouts: Mapping[str, SourceLayout]) -> None:
        super().__init__(rows, fields)
        self.layouts = dict(layouts)

    def next_chunk(self) -> dict[str, CoderBatch] | None:
        """The next rows of every coder; ``None`` at the end."""
        found: dict[str, CoderBatch] | None = self._rows.next_chunk(self._fields)
        return found
