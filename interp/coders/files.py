"""Coders on disk: one folder a coder, which SAELens reads too where it has the architecture.

A folder holds ``cfg.json`` and ``sae_weights.safetensors`` as SAELens 6 writes them. What else a coder knows of
itself (its config, sites and metadata) lies in cfg.json under metadata/interp. No pickles.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.bundled_data import data_path
from interp.coders.coder import Coder
from interp.coders.formats.foreign import INPUT_SCALE
from interp.coders.formats.pack import pack
from interp.coders.formats.stored import Stored
from interp.coders.formats.unpack import unpack
from interp.errors import CoderError, DataFileError, suggest_names

CFG, WEIGHTS, EXACT = "cfg.json", "sae_weights.safetensors", "interp.safetensors"
SCALER = "activation_scaler.json"
_PICKLES = (".pt", ".pth", ".pkl", ".bin", ".ckpt")


def save_coder(coder: Coder, folder: str | Path) -> Path:
    """Write a coder to a folder, whole: an error or an interrupt leaves what was there before.

    The folder is written beside its place and then moved there, with other files that it holds.

    Architectures that SAELens has are written so that ``sae_lens.SAE.load_from_disk(folder)`` gives the same
    outputs: batch-top-k and matryoshka as JumpReLU with one threshold, gradient as TopK, discrete as standard.
    The others (top-k and gated transcoders, crosscoders, cross-layer transcoders) have an architecture name of
    their own, which SAELens refuses.

    Raises :class:`CoderError` for metadata that JSON cannot hold, and where ``folder`` is a file.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise CoderError(f"a coder is saved to a folder; {str(folder)!r} is a file.")
    stored = pack(coder)
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
    return folder


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


def load_coder(
    name: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Coder:
    """A coder in evaluation mode, from a folder, a bundled name, or a hub id ``release/sae_id`` of SAELens.

    A folder is one of :func:`save_coder` or of SAELens (any version). Options of SAELens that only move
    numbers between weights are folded (``apply_b_dec_to_input``, ``rescale_acts_by_decoder_norm``, scaling factors
    of fine-tuning); its hook names become sites, ``blocks.2.hook_mlp_out`` -> ``mlp_out[2]``. ``device`` is the CPU and
    ``dtype`` that of the files by default. See :func:`bundled_coders` for what is bundled.

    Raises :class:`DataFileError` for files that are missing, damaged or pickled, and :class:`CoderError` for
    architectures and options that coders here do not have, and for names that are nowhere to be found.
    """
    coder = _find(name)
    return coder.to(device=device, dtype=dtype)


def _find(name: str | Path) -> Coder:
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in _PICKLES:
        raise DataFileError(
            f"{str(name)!r} would be a pickle, which can run any code when it is read, and is refused. Load it with "
            "the program that wrote it and save it as safetensors, for example with SAELens' save_model(folder)."
        )
    if path.is_file():
        raise DataFileError(f"{str(name)!r} is a file; give its folder, which holds {CFG} and {WEIGHTS}.")
    if isinstance(name, Path) or path.is_absolute() or name.startswith((".", "~")):
        raise DataFileError(f"no folder at {str(name)!r}{_left_over(path)}; expected a saved coder.")
    bundled = _find_bundled(name)
    if bundled is not None:
        return _read_folder(bundled)
    if "/" not in name:
        near = suggest_names(name, bundled_coders()) or "."
        raise CoderError(
            f"no coder {name!r}: it is no folder, and no bundled coder{near} Bundled: "
            f"{', '.join(bundled_coders()) or 'none'}. A hub id is 'release/sae_id'."
        )
    from interp.coders.saelens import load_from_hub

    return load_from_hub(name)


def _left_over(path: Path) -> str:
    """Where an interrupted save left a coder."""
    found = sorted(path.parent.glob(f".{path.name}.*.old")) if path.parent.is_dir() else []
    return f" (an interrupted save left the coder at {str(found[0])!r})" if found else ""


def bundled_coders() -> tuple[str, ...]:
    """Names of the coders that come with the package, such as ``mix-4l/mlp_out-2-topk``."""
    root = data_path() / "coders"
    return tuple(sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/{CFG}")))


def _find_bundled(name: str) -> Path | None:
    """The folder of a bundled coder, by its name or its site: ``mix-4l/mlp_out[2]``."""
    names = bundled_coders()
    root = data_path() / "coders"
    if name in names:
        return root / name
    start = name.replace("[", "-").replace("]", "-")
    found = [known for known in names if name.endswith("]") and known.startswith(start)]
    if len(found) > 1:
        raise CoderError(f"{name!r} names {len(found)} bundled coders; choose one of {', '.join(found)}.")
    return root / found[0] if found else None


def _read_folder(folder: Path) -> Coder:
    path = folder / CFG
    if not path.is_file():
        raise DataFileError(
            f"{str(folder)!r} holds no {CFG}: it is no coder's folder. Expected {CFG} and {WEIGHTS}."
        )
    if not (folder / WEIGHTS).is_file():
        pickled = [other.name for other in folder.iterdir() if other.suffix in _PICKLES]
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
    return unpack(Stored(cfg, _read_tensors(folder / WEIGHTS), exact), repr(str(folder)))


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
