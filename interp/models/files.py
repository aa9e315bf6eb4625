"""Looking at model files before anything trusts them."""

from __future__ import annotations

from pathlib import Path

from interp.errors import DataFileError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_folder(folder: Path) -> None:
    """Check that a model folder has a config and whole safetensors files.

    Raises :class:`DataFileError` where a file is missing, truncated or corrupt, and where weights
    come only as a pickle: unpickling can run any code.
    """
    if not (folder / "config.json").is_file():
        raise DataFileError(
            f"{str(folder)!r} has no config.json; expected a folder written by save_pretrained."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
        if pickles:
            raise DataFileError(
                f"{str(folder)!r} holds weights as a pickle ({pickles[0]}), which is refused because loading one "
                "can run any code. Convert it: model.save_pretrained(folder) writes safetensors."
            )
        raise DataFileError(f"{str(folder)!r} has no *.safetensors file; expected the model's weights there.")
    for path in weights:
        check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """Raise :class:`DataFileError` unless ``path`` is a whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            head = file.read(4)
        kind = (
            " It is a pickle or zip archive, which is refused."
            if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04")
            else ""
        )
        raise DataFileError(
            f"{str(path)!r} is not a whole safetensors file ({error}).{kind} Download or copy it again."
        ) from error
