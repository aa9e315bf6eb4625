"""Training checkpoints of a model folder: its weights at earlier steps."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from interp.errors import DataFileError, ModelError
from interp.models.bundled import bundled_names, bundled_path
from interp.models.bundled.cards import CARD_FILE, read_card
from interp.models.load import load_model
from interp.models.model import Model

FOLDER = "checkpoints"
_NAME = re.compile(r"^step-(\d+)\.safetensors$")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One training step of a model folder."""

    folder: Path
    step: int
    weights: Path

    @property
    def name(self) -> str:
        """Of the model and the step: ``induction-2l step 900``."""
        return f"{self.folder.name} step {self.step}"


def list_checkpoints(source: str | Path) -> tuple[Checkpoint, ...]:
    """The training checkpoints of a bundled model or of a folder, by rising step.

    They are the files ``checkpoints/step-00900.safetensors`` of the folder, with the names of its
    ``model.safetensors``, which is the last one where the folder's card says after how many steps it was
    made.

    Raises :class:`DataFileError` for a folder without checkpoints and :class:`ModelError` for no folder.
    """
    folder = bundled_path(str(source)) if str(source) in bundled_names() else Path(source)
    if not folder.is_dir():
        known = ", ".join(bundled_names())
        raise ModelError(f"{str(source)!r} is neither a bundled model ({known}) nor a folder.")
    paths = (folder / FOLDER).glob("*.safetensors")
    found = {int(match[1]): path for path in paths if (match := _NAME.match(path.name))}
    if not found:
        raise DataFileError(
            f"{str(source)!r} has no checkpoints; expected files {FOLDER}/step-00900.safetensors in its folder."
        )
    if (folder / CARD_FILE).is_file() and (folder / _WEIGHTS).is_file():
        found.setdefault(int(read_card(folder).recipe["steps"]), folder / _WEIGHTS)
    return tuple(Checkpoint(folder, step, path) for step, path in sorted(found.items()))


def load_checkpoint(checkpoint: Checkpoint, *, device: torch.device | str | None = None) -> Model:
    """Load the model of one training step, in fp32, with the folder's config and tokenizer.

    Raises as :func:`interp.load_model` does.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in checkpoint.folder.glob("*.json"):
            shutil.copyfile(path, folder / path.name)
        shutil.copyfile(checkpoint.weights, folder / _WEIGHTS)
        return load_model(folder, device=device, name=checkpoint.name)
