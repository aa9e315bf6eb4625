"""Text and tokens by name: the generated world's own, files, saved data sets and hub ids."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.coders.formats.folder import PICKLES
from interp.errors import CoderError, DataFileError
from interp.models.bundled.recipes import RECIPES
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.tasks.templates import Split
from interp.tasks.world import DEFAULT_MIX, generate_documents, pack_tokens, token_ids

GENERATED = "generated"
N_GENERATED = 8192
"""Rows of generated text where no number is asked for: with 64 tokens each about half a million."""
_TABLES = {".jsonl": "from_json", ".json": "from_json", ".csv": "from_csv", ".parquet": "from_parquet"}
ENDINGS = (".txt", *_TABLES, ".safetensors", ".npy")


def open_data(
    model: Model,
    name: str | Path = GENERATED,
    *,
    n: int | None = None,
    length: int = 64,
    seed: int = 1,
    split: Split = "train",
) -> Prompts:
    """Prompts by name, the first ``n`` of them, as :func:`interp.stream_activations` takes them.

    ``"generated"`` is text of the world that the bundled models were trained on, rows of ``length`` tokens drawn
    by ``seed`` (the models' own text was drawn by 0); ``split="heldout"`` has sentences that they never saw.
    Otherwise a file: ``.txt``, a prompt a line; ``.jsonl .json .csv .parquet``, with a column ``text`` or ``tokens``;
    ``.safetensors`` (its tensor ``tokens``) or ``.npy``, token ids [n, pos]. Or a folder of a ``datasets.Dataset``
    (``save_to_disk``), or the id of a data set on the hub, whose split ``train`` is streamed.

    Raises :class:`DataFileError` for files that are missing, empty, pickled or cannot be read, and
    :class:`CoderError` for generated text with a model of another vocabulary.
    """
    if n is not None and n < 1:
        raise CoderError(f"n is a number of prompts from 1 on; got {n}.")
    if name == GENERATED:
        return generate_tokens(model, N_GENERATED if n is None else n, length, seed, split)
    path = Path(name).expanduser()
    if path.is_dir():
        return _first(_read_saved(path), n)
    if path.suffix.lower() in PICKLES:
        raise DataFileError(
            f"{str(name)!r} would be a pickle, which can run any code when it is read, and is refused; save token ids "
            "as .safetensors or .npy."
        )
    if path.is_file():
        return _first(_read_file(path), n)
    if path.suffix.lower() in ENDINGS or path.is_absolute() or str(name).count("/") > 1:
        raise DataFileError(f"no file or folder at {str(name)!r}.")
    return _first(_stream_hub(str(name)), n)


def generate_tokens(
    model: Model, n: int, length: int = 64, seed: int = 1, split: Split = "train"
) -> Int[Tensor, "n length"]:
    """Rows of text of the generated world, in the mix that a bundled model was trained on.

    Raises :class:`CoderError` for a model with another vocabulary, and for rows longer than it reads.
    """
    ids = dict(token_ids())
    if model.tokenizer is None or model.tokenizer.get_vocab() != ids:
        raise CoderError(
            f"generated text has {len(ids)} words of its own; model {model.name!r} has another vocabulary. Give data "
            "for it: a file, a folder of a datasets.Dataset, or a hub id."
        )
    if not 2 <= length <= model.traits.n_ctx:
        raise CoderError(f"length must lie in 2..{model.traits.n_ctx}, what the model reads; got {length}.")
    recipe = RECIPES.get(model.name)
    mix = DEFAULT_MIX if recipe is None else recipe.mix
    rows = pack_tokens(generate_documents(sys.maxsize, seed, split, mix), length)
    return torch.tensor(list(islice(rows, n)), dtype=torch.long)


def _read_file(path: Path) -> Any:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataFileError(f"data are read from files that end in {', '.join(ENDINGS)}; got {str(path)!r}.")
    try:
        if ending == ".txt":
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            found: Any = [line for line in lines if line]
        elif ending in _TABLES:
            import datasets

            found = getattr(datasets.Dataset, _TABLES[ending])(str(path))
        else:
            found = _read_tokens(path, ending)
    except (DataFileError, KeyboardInterrupt):
        raise
    # readers of csv, parquet, safetensors and numpy raise errors of their own kinds
    except Exception as error:
        raise DataFileError(f"{str(path)!r} cannot be read: {error}.") from error
    if not len(found):
        raise DataFileError(f"{str(path)!r} holds no prompt.")
    return found


def _read_tokens(path: Path, ending: str) -> Int[Tensor, "n pos"]:
    if ending == ".npy":
        found = torch.from_numpy(np.load(path, allow_pickle=False))
    else:
        from safetensors.torch import load_file

        tensors = load_file(path)
        if "tokens" not in tensors:
            raise DataFileError(f"{str(path)!r} has no tensor 'tokens'; it has {sorted(tensors)}.")
        found = tensors["tokens"]
    if found.ndim != 2 or found.is_floating_point() or found.is_complex():
        raise DataFileError(
            f"tokens are integers [n, pos]; {str(path)!r} holds {found.dtype} of shape {list(found.shape)}."
        )
    return found.long()


def _read_saved(path: Path) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataFileError(
            f"{str(path)!r} is no folder of a datasets.Dataset (save_to_disk): {error}."
        ) from error
    if isinstance(found, dict):
        raise DataFileError(f"{str(path)!r} holds splits {sorted(found)}; give the folder of one of them.")
    return found


def _stream_hub(name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, split="train", streaming=True)
    # what a missing data set or a missing network raises depends on the versions of the libraries below
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataFileError(
            f"{name!r} is no file, no folder, and no data set that can be had from the hub: {reason}"
        ) from error


def _first(data: Any, n: int | None) -> Prompts:
    found: Prompts = data
    if n is None:
        return found
    # a tensor has a take() of another meaning
    if isinstance(data, Tensor | list):
        found = data[:n]
    else:
        found = data.take(min(n, len(data)) if hasattr(data, "__len__") else n)
    return found
