"""Output files: refused before the work starts where they cannot be written, and never half there."""

from __future__ import annotations

import os
from pathlib import Path

from interp.errors import ExportError
from interp.results.storage import write_whole


def check_writable(path: str | Path) -> Path:
    """``path``, if a file can be written there; nothing is created.

    Raises :class:`ExportError` when it is a folder, lies below a file, or its folder (or the nearest
    one that exists) cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"cannot write {str(path)!r}: it is a folder; name a file in it.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ExportError(f"cannot write {str(path)!r}: {str(folder)!r} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(
            f"cannot write {str(path)!r}: no permission to write in {str(folder)!r}; choose another place."
        )
    return path


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write ``content`` (text as UTF-8) to ``path``: a reader sees the whole file or the old one.

    Missing folders are made. Raises :class:`ExportError` when it cannot be written.
    """
    path = check_writable(path)
    try:
        return write_whole(path, content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise ExportError(f"cannot write {str(path)!r}: {error}.") from error
