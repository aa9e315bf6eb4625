"""Coders on disk: one folder a coder, which SAELens reads too where it has the architecture.

A folder holds ``cfg.json`` and ``sae_weights.safetensors`` as SAELens 6 writes them. What else a coder knows of
itself (its config, sites and metadata) lies in cfg.json under metadata/interp. No pickles.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from interp.bundled_data import data_path
from interp.coders.coder import Coder
from interp.coders.formats.folder import CFG, PICKLES, WEIGHTS, find_left_over, read_folder, write_folder
from interp.coders.formats.pack import pack
from interp.coders.formats.semi_nmf import SEMI_NMF, pack_semi_nmf, unpack_semi_nmf
from interp.coders.formats.unpack import unpack
from interp.coders.semi_nmf.dictionary import SemiNMF
from interp.errors import CoderError, DataFileError, suggest_names

AnyCoder = Coder | SemiNMF


def save_coder(coder: AnyCoder, folder: str | Path) -> Path:
    """Write a coder to a folder, whole: an error or an interrupt leaves what was there before.

    The folder is written beside its place and then moved there, with other files that it holds.

    Architectures that SAELens has are written so that ``sae_lens.SAE.load_from_disk(folder)`` gives the same
    outputs: batch-top-k and matryoshka as JumpReLU with one threshold, gradient as TopK, discrete as standard.
    The others (top-k and gated transcoders, crosscoders, cross-layer transcoders) have an architecture name of
    their own, which SAELens refuses.

    Raises :class:`CoderError` for metadata that JSON cannot hold, and where ``folder`` is a file, and
    :class:`DataFileError` for a place that cannot be written.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise CoderError(f"a coder is saved to a folder; {str(folder)!r} is a file.")
    stored = pack_semi_nmf(coder) if isinstance(coder, SemiNMF) else pack(coder)
    try:
        write_folder(stored, folder)
    except OSError as error:
        raise DataFileError(f"cannot write {str(folder)!r}: {error}.") from error
    return folder


def load_coder(
    name: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> AnyCoder:
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


def _find(name: str | Path) -> AnyCoder:
    if not isinstance(name, str | os.PathLike):
        raise CoderError(f"a coder is loaded by its folder or name; got {type(name).__name__}.")
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in PICKLES:
        raise DataFileError(
            f"{str(name)!r} would be a pickle, which can run any code when it is read, and is refused. Load it with "
            "the program that wrote it and save it as safetensors, for example with SAELens' save_model(folder)."
        )
    if path.is_file():
        raise DataFileError(f"{str(name)!r} is a file; give its folder, which holds {CFG} and {WEIGHTS}.")
    if isinstance(name, Path) or path.is_absolute() or name.startswith((".", "~")):
        raise DataFileError(f"no folder at {str(name)!r}{find_left_over(path)}; expected a saved coder.")
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


def _read_folder(folder: Path) -> AnyCoder:
    stored = read_folder(folder)
    read = unpack_semi_nmf if stored.cfg.get("architecture") == SEMI_NMF else unpack
    return read(stored, repr(str(folder)))
