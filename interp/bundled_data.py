"""The one way to read the data that ships with the package, from a checkout or an installed wheel."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from interp.errors import DataFileError, suggest_names

_PACKAGE = Path(__file__).resolve().parent


def data_path(name: str = "") -> Path:
    """Path of a bundled file or folder, such as ``"models/mix-4l"``; ``""`` is the whole ``data/``.

    Raises :class:`DataFileError` when it does not exist, with where it was looked for and the
    nearest names that do, or when ``name`` leads out of the data folder.

    >>> data_path("models").is_dir()
    True
    """
    return _locate("data", name)


def tutorials_path(name: str = "") -> Path:
    """Path of a tutorial, or of the folder that holds them. Raises as :func:`data_path` does."""
    return _locate("tutorials", name)


def notebooks_path(name: str = "") -> Path:
    """Path of a workbench notebook, or of the folder that holds them. Raises as :func:`data_path` does."""
    return _locate("notebooks", name)


def _locate(folder: str, name: str) -> Path:
    root = _root(folder)
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataFileError(
            f"a bundled file is named by its path inside {folder}/, such as 'models/mix-4l'; got {name!r}."
        )
    path = root / relative
    if not path.exists():
        near = suggest_names(name, _names_below(root))
        raise DataFileError(
            f"no bundled file {name!r} in {str(root)!r}{near or '.'} A complete installation has every "
            "file: check the spelling, then install interp again or restore the folder from git."
        )
    return path


def _root(folder: str) -> Path:
    """Where ``folder`` is: inside an installed wheel, or beside the package in a checkout."""
    installed, checkout = _PACKAGE / f"_{folder}", _PACKAGE.parent / folder
    if installed.is_dir():
        return installed
    # a site-packages folder may hold somebody else's "data"; a checkout has our pyproject.toml
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise DataFileError(
        f"this installation of interp carries no {folder}/: looked for {str(installed)!r} and "
        f"{str(checkout)!r}. Install interp again from a full checkout (pip install .)."
    )


def _names_below(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*")]
