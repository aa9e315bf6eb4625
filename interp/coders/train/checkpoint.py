"""Checkpoints of a training: whole folders, each moved to its place when all of it is written.

``run.json`` says what is trained on what; ``step-00001000/`` holds everything that the next step depends on
(``state.safetensors``, ``state.json``), and the coders themselves, loadable, under ``coders/``. ``coders/`` beside
them holds the finished ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.train.distributed import Processes
from interp.errors import CoderError, DataFileError
from interp.results.storage import load_record, save_record, write_whole

_KIND = "CoderTraining"
_STEP = re.compile(r"^step-(\d{8,})$")
CODERS = "coders"


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
    """The checkpoints of one training.

    ``question`` says which; the checkpoints of another are never taken for this one's.
    Raises :class:`CoderError` for a folder that holds another training, or other files.
    """

    def __init__(self, folder: str | Path, question: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        told = json.loads(json.dumps(dict(question)))
        path = self.folder / "run.json"
        if path.exists():
            found = _read(path)
            differs = sorted(k for k in {*found, *told} if found.get(k) != told.get(k))
            if differs:
                raise CoderError(
                    f"{str(self.folder)!r} holds the checkpoints of another training (it differs in "
                    f"{', '.join(differs)}). Give another folder, or delete this one to start anew."
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise CoderError(f"{str(self.folder)!r} holds other files; give an empty or a new folder.")
        write_whole(path, (json.dumps(told, indent=1) + "\n").encode())

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, rising."""
        matches = (_STEP.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def load(self, rank: int = 0) -> Saved | None:
        """The last checkpoint, as process ``rank`` left it; ``None`` if there is none.

        Raises :class:`DataFileError` for a damaged one, which this class never leaves.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1])
        tensors, _ = load_record(path / "state.safetensors", _KIND)
        rows, _ = load_record(path / f"rows-{rank}.safetensors", _KIND)
        return Saved(steps[-1], tensors, _read(path / "state.json"), rows, _read(path / f"rows-{rank}.json"))

    def begin(self, step: int, processes: Processes) -> None:
        """Begin a checkpoint: all processes together."""
        if processes.is_first:
            for other in self.folder.glob(".step-*"):
                shutil.rmtree(other)
            self._scratch(step).mkdir()
        processes.wait()

    def save_rows(
        self, step: int, rank: int, tensors: Mapping[str, Tensor], place: Mapping[str, Any]
    ) -> None:
        """Keep where one process' rows stand."""
        save_record(self._scratch(step) / f"rows-{rank}.safetensors", _KIND, tensors, {})
        write_whole(self._scratch(step) / f"rows-{rank}.json", json.dumps(place).encode())

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        numbers: Mapping[str, Any],
        coders: Mapping[str, Coder],
    ) -> Path:
        """Keep the rest and move the checkpoint to its place; then delete older ones."""
        from interp.coders.files import save_coder

        scratch, path = self._scratch(step), self._path(step)
        save_record(scratch / "state.safetensors", _KIND, tensors, {})
        write_whole(scratch / "state.json", json.dumps(numbers).encode())
        for name, coder in coders.items():
            save_coder(coder, scratch / CODERS / name)
        if path.exists():
            shutil.rmtree(path)
        os.replace(scratch, path)
        for other in self.steps():
            if other < step:
                shutil.rmtree(self._path(other))
        return path

    def finish(self, coders: Mapping[str, Coder]) -> None:
        """Keep the finished coders."""
        from interp.coders.files import save_coder

        scratch = self.folder / f".{CODERS}.{uuid.uuid4().hex}"
        try:
            for name, coder in coders.items():
                save_coder(coder, scratch / name)
            if (self.folder / CODERS).exists():
                shutil.rmtree(self.folder / CODERS)
            os.replace(scratch, self.folder / CODERS)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def finished(self) -> dict[str, Coder] | None:
        """The finished coders, ``None`` before."""
        from interp.coders.files import load_coder

        place = self.folder / CODERS
        if not place.is_dir():
            return None
        return {path.name: load_coder(path) for path in sorted(place.iterdir())}

    def _scratch(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}"

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataFileError(
            f"{str(path)!r} is damaged ({error}); delete the folder to start anew."
        ) from error
    return found if isinstance(found, dict) else {}
