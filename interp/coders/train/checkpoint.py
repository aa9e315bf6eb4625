"""Checkpoints of a training: whole folders, each moved to its place when all of it is written.

``run.json`` says what is trained on what; ``step-00001000/`` holds everything that the next step depends on
(``state.safetensors``, ``state.json``, and for each process ``rows-0.*``: its place in the data and the rows that it
holds), and the coders themselves, loadable, under ``coders/``. ``coders/`` beside them holds the finished ones and
their curves. What a killed process left half-written begins with a dot, and is deleted by the next.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.sources.layout import list_differences
from interp.coders.train.curves import pick_coder
from interp.coders.train.distributed import Processes
from interp.errors import CoderError, DataFileError
from interp.results.coder_history import CoderHistory
from interp.results.storage import load_record, save_record, write_whole

_KIND = "CoderTraining"
_STEP = re.compile(r"^step-(\d{8,})$")
CODERS, HISTORY = "coders", "history.safetensors"


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back by one process."""

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    rows: dict[str, Tensor]
    place: dict[str, Any]
    """Where the process' rows stand, ``rows`` being its tensors."""


class CheckpointFolder:
    """The checkpoints of one training, opened by all its processes together.

    ``question`` says which training; the checkpoints of another are never taken for this one's.
    Raises :class:`CoderError` for a folder that holds another training, or other files.
    """

    def __init__(self, folder: str | Path, question: Mapping[str, Any], processes: Processes) -> None:
        self.folder, self.processes = Path(folder), processes
        told = json.loads(json.dumps(dict(question)))
        path = self.folder / "run.json"
        if processes.is_first and not path.exists():
            if self.folder.exists() and not self.folder.is_dir():
                raise CoderError(f"checkpoints go to a folder; {str(self.folder)!r} is a file.")
            if self.folder.exists() and any(p for p in self.folder.iterdir() if p.name[0] != "."):
                raise CoderError(f"{str(self.folder)!r} holds other files; give an empty or a new folder.")
            write_whole(path, (json.dumps(told, indent=1) + "\n").encode())
        processes.wait()
        if differing := list_differences(_read(path), told):
            raise CoderError(
                f"{str(self.folder)!r} holds the checkpoints of another training; it differs in {differing}. Give "
                "another folder, or delete this one to start anew."
            )

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, rising."""
        matches = (_STEP.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def load(self) -> Saved | None:
        """The last checkpoint, as this process left it; ``None`` if there is none.

        Raises :class:`DataFileError` for a damaged one, which this class never leaves.
        """
        steps = self.steps()
        if not steps:
            return None
        path, rank = self._path(steps[-1]), self.processes.rank
        tensors, _ = load_record(path / "state.safetensors", _KIND)
        rows, _ = load_record(path / f"rows-{rank}.safetensors", _KIND)
        return Saved(steps[-1], tensors, _read(path / "state.json"), rows, _read(path / f"rows-{rank}.json"))

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        numbers: Mapping[str, Any],
        rows: Mapping[str, Tensor],
        place: Mapping[str, Any],
        coders: Mapping[str, Coder],
    ) -> None:
        """Keep a checkpoint, all processes together: each its own rows, the first one the rest.

        It is moved to its place when all of it is on the disk; then older ones are deleted.
        """
        scratch, path = self.folder / f".step-{step:08d}", self._path(step)
        if path.exists():
            return
        if self.processes.is_first:
            self._sweep()
            scratch.mkdir()
        self.processes.wait()
        name = f"rows-{self.processes.rank}"
        save_record(scratch / f"{name}.safetensors", _KIND, rows, {})
        write_whole(scratch / f"{name}.json", json.dumps(place).encode())
        self.processes.wait()
        if self.processes.is_first:
            save_record(scratch / "state.safetensors", _KIND, tensors, {})
            write_whole(scratch / "state.json", json.dumps(numbers).encode())
            _write_coders(coders, scratch / CODERS)
            _move_whole(scratch, path)
            for other in self.steps():
                if other < step:
                    # out of sight first: a folder that is half deleted must not be seen
                    gone = self.folder / f".{self._path(other).name}"
                    os.replace(self._path(other), gone)
                    shutil.rmtree(gone)
        self.processes.wait()

    def finish(self, coders: Mapping[str, Coder], history: CoderHistory) -> None:
        """Keep the finished coders and their curves; the last checkpoint stays."""
        if self.processes.is_first:
            self._sweep()
            scratch = self.folder / f".{CODERS}"
            _write_coders(coders, scratch)
            history.save(scratch / HISTORY)
            _move_whole(scratch, self.folder / CODERS)
        self.processes.wait()

    def finished(self) -> dict[str, Coder] | None:
        """The finished coders with their curves, ``None`` before."""
        from interp.coders.files import load_coder

        place = self.folder / CODERS
        if not place.is_dir():
            return None
        history = CoderHistory.load(place / HISTORY)
        found = {}
        for name in history.names:
            coder = load_coder(place / name)
            assert isinstance(coder, Coder)
            coder.history = pick_coder(history, name)
            found[name] = coder
        return found

    def _sweep(self) -> None:
        """Delete what a process that was killed while it wrote has left."""
        for pattern in (".step-*", f".{CODERS}*"):
            for left in self.folder.glob(pattern):
                shutil.rmtree(left)
        for left in self.folder.glob(".run.json.*"):
            left.unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _write_coders(coders: Mapping[str, Coder], folder: Path) -> None:
    from interp.coders.files import save_coder

    for name, coder in coders.items():
        save_coder(coder, folder / name)


def _move_whole(scratch: Path, path: Path) -> None:
    """Move a folder to its place once all of it is on the disk."""
    for found in (*scratch.rglob("*"), scratch):
        # folders can be opened on POSIX only
        if found.is_dir() and os.name != "posix":
            continue
        handle = os.open(found, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    os.replace(scratch, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataFileError(
            f"{str(path)!r} is damaged ({error}); delete the folder to start anew."
        ) from error
    return found if isinstance(found, dict) else {}
