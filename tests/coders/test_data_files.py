"""Prompts by name: generated text, files of texts and tokens, saved data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from model_zoo import specimen
from safetensors.torch import save_file

import interp
from interp.coders.data_files import generate_tokens, open_data
from interp.errors import CoderError, DataFileError
from interp.models.text_data import open_items
from interp.tasks.world import BOS, token_ids


@pytest.fixture(scope="module")
def mix() -> Any:
    return interp.load_model("mix-4l")


def test_generated_text_is_the_models_own_and_of_its_seed(mix: Any) -> None:
    rows = generate_tokens(mix, 60, length=32, seed=1)
    assert rows.shape == (60, 32) and torch.equal(rows, generate_tokens(mix, 60, length=32, seed=1))
    assert torch.equal(rows, open_data(mix, n=60, length=32))
    other = generate_tokens(mix, 60, length=32, seed=2)
    assert not torch.equal(rows, other)
    assert int((rows == token_ids()[BOS]).sum()) > 0
    # text of the world, which the model predicts far better than chance
    with torch.no_grad():
        logs = mix(rows).log_softmax(-1)
    ce = -logs[:, :-1].gather(2, rows[:, 1:, None]).mean()
    assert float(ce) < 0.4 * torch.tensor(len(token_ids())).log()


def test_generated_text_needs_its_vocabulary_and_fits_the_context(mix: Any) -> None:
    with pytest.raises(CoderError, match="another vocabulary"):
        open_data(interp.load_model("micro"))
    with pytest.raises(CoderError, match=r"length must lie in 2\.\.128"):
        open_data(mix, length=400)
    with pytest.raises(CoderError, match="n is a number"):
        open_data(mix, n=0)


def test_files_of_texts(mix: Any, tmp_path: Path) -> None:
    texts = ["ann ran home", "bob ran home", "cat sat"]
    (tmp_path / "a.txt").write_text("\n".join([*texts[:2], "", texts[2]]) + "\n")
    assert open_data(mix, tmp_path / "a.txt") == texts
    assert open_data(mix, str(tmp_path / "a.txt"), n=2) == texts[:2]
    table = datasets.Dataset.from_dict({"text": texts})
    table.to_csv(tmp_path / "a.csv")
    table.to_json(tmp_path / "a.jsonl")
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    for name in ("a.csv", "a.jsonl", "a.parquet", "saved"):
        assert list(open_items(open_data(mix, tmp_path / name))) == texts
        assert list(open_items(open_data(mix, tmp_path / name, n=2))) == texts[:2]
        assert len(list(open_items(open_data(mix, tmp_path / name, n=9)))) == 3


def test_files_of_tokens(tmp_path: Path) -> None:
    model = specimen("gpt2").model
    tokens = torch.randint(0, 53, (5, 7))
    save_file({"tokens": tokens.int()}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", tokens.numpy())
    for name in ("a.safetensors", "a.npy"):
        found = open_data(model, tmp_path / name, n=4)
        assert isinstance(found, torch.Tensor) and torch.equal(found, tokens[:4])


def test_what_is_refused(mix: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "folder").mkdir()
    save_file({"ids": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    cases = {
        "empty.txt": "holds no prompt",
        "a.md": "end in .txt",
        "a.pt": "pickle",
        "bad.parquet": "cannot be read",
        "folder": "no folder of a datasets.Dataset",
        "a.safetensors": r"no tensor 'tokens'; it has \['ids'\]",
        "a.npy": "tokens are integers",
        "objects.npy": "cannot be read",
        "missing.txt": "no file or folder",
    }
    for name, message in cases.items():
        with pytest.raises(DataFileError, match=message):
            open_data(mix, tmp_path / name)
