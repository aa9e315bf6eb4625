"""The folder of a search: which files are its own, whose question they answer, and what is finished already."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from interp.circuits.search_folder import SearchFolder
from interp.errors import CircuitError, DataFileError
from interp.results import Provenance
from interp.results.storage import write_whole

QUESTION, SUMMARY, TIMES, REPORT = "search.json", "summary.json", "times.json", "report.html"
PARTS = "parts"
"""Of exact scores and of ACDC, which go on inside."""

_OWN = re.compile(
    r"(search|summary|times)\.json|report\.html|(scores|verify|faithfulness|curve)\.safetensors"
    r"|(verify|faithfulness|curve)\.csv|circuit-[\w.-]+\.(json|dot)"
)
_OWN_PARTS = re.compile(r"search\.json|edges-\d{5}\.safetensors|tau-[\w.+-]+\.safetensors")
_SCRATCH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}")


class Kept(Protocol):
    """A record that a step of a search leaves in a file."""

    @property
    def provenance(self) -> Provenance:
        """How it was made."""

    def save(self, path: str | Path) -> Path:
        """Write to one file."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it back."""


K = TypeVar("K", bound=Kept)


class SearchFiles:
    """The folder of one search, claimed for its question.

    Raises :class:`CircuitError` for a folder that holds another search, or files of these names that no search
    left there.
    """

    def __init__(self, folder: str | Path, question: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        foreign = () if (self.folder / QUESTION).exists() else own_files(self.folder)
        if foreign:
            raise CircuitError(
                f"{str(self.folder)!r} holds {foreign[0].name}, which would be written over; give another folder."
            )
        SearchFolder(self.folder, question)
        for path in scratch_files(self.folder):
            path.unlink(missing_ok=True)
        self.read_back: list[str] = []
        """Steps that were found finished."""
        self._times = self._read_times()

    def path(self, name: str) -> Path:
        """Where a file of this search lies."""
        return self.folder / name

    def keep(self, name: str, kind: type[K], make: Callable[[], K]) -> K:
        """The record of a finished step, or made now and kept, without the time it took.

        Raises :class:`DataFileError` for a file that is damaged, which no search leaves.
        """
        path = self.path(f"{name}.safetensors")
        if path.exists():
            try:
                found = kind.load(path)
            except DataFileError as error:
                raise DataFileError(f"{error} Or delete it, and the search makes it again.") from error
            self.read_back.append(name)
            return found
        with self.timed(name):
            made = without_time(make())
            made.save(path)
        # the copy that a later run reads, so that both go on with the same
        return kind.load(path)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Write the seconds that this takes to ``times.json``, apart from what is the same at every run."""
        began = time.perf_counter()
        yield
        self._times[step] = round(time.perf_counter() - began, 3)
        write_json(self.path(TIMES), self._times)

    def _read_times(self) -> dict[str, float]:
        path = self.path(TIMES)
        if not path.exists():
            return {}
        try:
            found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataFileError(f"{str(path)!r} is damaged ({error}); delete it.") from error
        return found


def without_time(record: K) -> K:
    """A record whose provenance does not say how long it took, which differs from run to run."""
    timeless: K = replace(record, provenance=replace(record.provenance, seconds=None))  # type: ignore[type-var]
    return timeless


def write_json(path: Path, document: Mapping[str, Any]) -> Path:
    """Write plain values whole. Raises :class:`ValueError` for NaN, which JSON has not."""
    return write_whole(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("utf-8"))


def own_files(folder: Path) -> tuple[Path, ...]:
    """Files of a folder that a search writes, by their names; parts and halves of files among them."""
    parts = folder / PARTS
    found = [path for path in _files(folder) if _OWN.fullmatch(path.name)]
    found += [path for path in _files(parts) if _OWN_PARTS.fullmatch(path.name)]
    return (*found, *scratch_files(folder))


def scratch_files(folder: Path) -> tuple[Path, ...]:
    """Files that a search was killed in the midst of writing."""
    found = []
    for place, names in ((folder, _OWN), (folder / PARTS, _OWN_PARTS)):
        for path in _files(place):
            match = _SCRATCH.fullmatch(path.name)
            if match is not None and names.fullmatch(match["name"]):
                found.append(path)
    return tuple(found)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def forget_search(folder: str | Path) -> tuple[Path, ...]:
    """Delete what a search left in a folder, and nothing else; returns what was deleted.

    Raises :class:`CircuitError` for a folder with files of these names that no search left there.
    """
    folder = Path(folder)
    gone = own_files(folder)
    # the question last: without it a folder whose clearing was stopped would look foreign
    question = folder / QUESTION
    if gone and not question.exists():
        raise CircuitError(
            f"{str(folder)!r} holds {gone[0].name} but no {QUESTION}, so no search left it; nothing was deleted."
        )
    for path in sorted(gone, key=lambda path: path == question):
        path.unlink(missing_ok=True)
    parts = folder / PARTS
    if parts.is_dir() and not any(parts.iterdir()):
        parts.rmdir()
    return gone
