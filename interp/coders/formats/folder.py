"""The folder of a coder: written whole, read with every damage named."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.coders.formats.foreign import INPUT_SCALE
from interp.coders.formats.stored import Stored
from interp.errors import DataFileError

CFG, WEIGHTS, EXACT = "cfg.json", "sae_weights.safetensors", "interp.safetensors"
SCALER = "activation_scaler.json"
PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt")


def write_folder(stored: Stored, folder: Path) -> None:
    """Write beside the folder's place, then move there; other files that the folder holds stay.

    An error or an interrupt leaves what was there before. A kill between two moves leaves it under a name
    that :func:`find_left_over` gives.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    old = scratch.with_name(f"{scratch.name}.old")
    try:
        scratch.mkdir()
        _write(stored, scratch)
        _move(scratch, folder, old)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _write(stored: Stored, folder: Path) -> None:
    from safetensors.torch import save

    for name, tensors in ((WEIGHTS, stored.weights), (EXACT, stored.exact)):
        if tensors:
            # cloned: safetensors refuses views of one storage
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
            (folder / name).write_bytes(save(plain))
    (folder / CFG).write_text(json.dumps(stored.cfg, indent=1, allow_nan=False), encoding="utf-8")


def _move(scratch: Path, folder: Path, old: Path) -> None:
    if not folder.exists():
        os.replace(scratch, folder)
        return
    for other in folder.iterdir():
        if other.name not in (CFG, WEIGHTS, EXACT):
            copy = shutil.copytree if other.is_dir() else shutil.copy2
            copy(other, scratch / other.name)
    # a folder cannot replace another in one step
    try:
        os.replace(folder, old)
        os.replace(scratch, folder)
    except BaseException:
        if not folder.exists():
            os.replace(old, folder)
        raise


def read_folder(folder: Path) -> Stored:
    """What a folder of ours or of SAELens holds.

    Raises :class:`DataFileError` for files that are missing, damaged or pickled.
    """
    path = folder / CFG
    if not path.is_file():
        raise DataFileError(
            f"{str(folder)!r} holds no {CFG}: it is no coder's folder. Expected {CFG} and {WEIGHTS}."
        )
    if not (folder / WEIGHTS).is_file():
        pickled = [other.name for other in folder.iterdir() if other.suffix in PICKLES]
        raise DataFileError(
            f"{str(folder)!r} holds no {WEIGHTS}"
            + (
                f" but {pickled[0]}: pickles are refused; save the weights as safetensors."
                if pickled
                else "."
            )
        )
    exact = _read_tensors(folder / EXACT) if (folder / EXACT).is_file() else {}
    cfg = _read_json(path)
    # beside a checkpoint of SAELens' trainer
    if (folder / SCALER).is_file():
        cfg[INPUT_SCALE] = _read_json(folder / SCALER).get("scaling_factor")
    return Stored(cfg, _read_tensors(folder / WEIGHTS), exact)


def find_left_over(path: Path) -> str:
    """Where a killed save left a coder, to be added to a message; or nothing."""
    found = sorted(path.parent.glob(f".{path.name}.*.old")) if path.parent.is_dir() else []
    return f" (an interrupted save left the coder at {str(found[0])!r})" if found else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(
            f"{str(path)!r} is no readable JSON ({error}); save or fetch the coder again."
        ) from error
    if not isinstance(cfg, dict):
        raise DataFileError(f"{str(path)!r} must hold an object; got {type(cfg).__name__}.")
    return cfg


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise DataFileError(
            f"{str(path)!r} is not a whole safetensors file ({error}); save or fetch the coder again."
        ) from error
    return found
