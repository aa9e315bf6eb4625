"""Parts of a long search kept in a folder, so that one that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import CircuitError, DataFileError
from interp.models.model import Model
from interp.results.storage import load_record, save_record, write_whole
from interp.tasks.base import PromptPairs

_KIND = "SearchPart"


class SearchFolder:
    """A folder with finished parts of one search.

    ``question`` says what is searched; parts of another question are never taken for this one's. A part
    is written whole or not at all. Raises :class:`CircuitError` for a folder that holds another search.
    """

    def __init__(self, folder: str | Path, question: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        told = json.loads(json.dumps(dict(question)))
        path = self.folder / "search.json"
        if path.exists():
            found = _read(path)
            if found != told:
                differs = sorted(
                    key for key in {*found, *told} if found.get(key, None) != told.get(key, None)
                )
                raise CircuitError(
                    f"{str(self.folder)!r} holds parts of another search (it differs in {', '.join(differs)}). Give "
                    "another folder, or delete this one to start anew."
                )
            return
        write_whole(path, (json.dumps(told, indent=1) + "\n").encode("utf-8"))

    def load(self, name: str) -> dict[str, Tensor] | None:
        """A finished part, ``None`` if it is not there.

        Raises :class:`DataFileError` for a damaged file, which this class never leaves.
        """
        path = self.folder / f"{name}.safetensors"
        return load_record(path, _KIND)[0] if path.exists() else None

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a part."""
        save_record(self.folder / f"{name}.safetensors", _KIND, tensors, {})


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataFileError(
            f"{str(path)!r} is damaged ({error}); delete the folder to start anew."
        ) from error
    return found if isinstance(found, dict) else {}


def describe_search(model: Model, task: PromptPairs, **options: Any) -> dict[str, Any]:
    """What tells one search from another: weights, prompts and every option that changes numbers."""
    plain = str | int | float | bool | None
    told = {key: value if isinstance(value, plain) else repr(value) for key, value in options.items()}
    prompts = {
        "clean": task.clean,
        "corrupted": task.corrupted,
        "answers": task.answers,
        "wrong": task.wrong,
        "mask": task.mask,
        **{f"label {name}": where for name, where in task.labels.items()},
    }
    return {
        "model": model.name,
        "weights": _digest(dict(model.module.state_dict())),
        "dtype": str(model.dtype),
        "task": task.name,
        "prompts": _digest(prompts),
        **told,
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
