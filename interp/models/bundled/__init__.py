"""The models that ship with the package: found by name, read as ordinary folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.bundled_data import data_path


@dataclass(frozen=True)
class BundledModel:
    """A shipped model and what its card says."""

    name: str
    path: Path
    description: str
    card: dict[str, Any]


def bundled_names() -> tuple[str, ...]:
    """Names that ``load_model`` finds in the package's own data."""
    return tuple(sorted(path.parent.name for path in data_path("models").glob("*/config.json")))


def bundled_path(name: str) -> Path:
    """Folder of a bundled model. Raises :class:`~interp.errors.DataFileError` when it is not there."""
    return data_path(f"models/{name}")


def bundled_models() -> list[BundledModel]:
    """Every shipped model with its card."""
    found = []
    for name in bundled_names():
        path = bundled_path(name)
        file = path / "card.json"
        card = json.loads(file.read_text()) if file.is_file() else {}
        found.append(BundledModel(name, path, str(card.get("description", "")), card))
    return found
