"""Model folders that are damaged, incomplete or of a kind that is refused: errors of ours."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_zoo import make_bare
from safetensors.torch import load_file, save_file
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import DataFileError, ModelError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good folder."""
    folder = tmp_path_factory.mktemp("whole")
    make_bare("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the good folder, to be spoiled."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def pickled(path: Path, **how: Any) -> None:
    torch.save({"weight": torch.ones(2)}, path, **how)


NOT_WHOLE = "is not a whole safetensors file"
WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut at the end": (lambda path: cut(path, -100), NOT_WHOLE),
    "cut in the header": (lambda path: cut(path, 20), NOT_WHOLE),
    "cut in the length": (lambda path: cut(path, 4), NOT_WHOLE),
    "empty": (lambda path: path.write_bytes(b""), NOT_WHOLE),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 9), NOT_WHOLE),
    "a zipped pickle": (pickled, "It is a pickle or zip archive, which is refused"),
    "an old pickle": (
        lambda path: pickled(path, _use_new_zipfile_serialization=False),
        "It is a pickle or zip archive, which is refused",
    ),
    "a bare pickle": (
        lambda path: path.write_bytes(pickle.dumps({"weight": 1})),
        "It is a pickle or zip archive, which is refused",
    ),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_are_no_whole_safetensors_file(folder: Path, what: str):
    spoil, message = WEIGHTS[what]
    path = folder / "model.safetensors"
    spoil(path)
    with pytest.raises(DataFileError, match=message) as caught:
        interp.load_model(folder)
    assert str(path) in str(caught.value)


def test_one_file_of_several_is_cut(tmp_path: Path):
    make_bare("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    cut(last, -1)
    with pytest.raises(DataFileError, match=last.name):
        interp.load_model(tmp_path)


def test_one_file_of_several_is_missing(tmp_path: Path):
    make_bare("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=f"cannot load the model in folder .*{gone.name}"):
        interp.load_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_unread(folder: Path, name: str):
    """Were it unpickled, the file would write another."""
    (folder / "model.safetensors").unlink()
    trap = folder / "was_run"
    (folder / name).write_bytes(pickle.dumps(_Trap(str(trap))))
    with pytest.raises(
        DataFileError, match=rf"as a pickle \({name}\), which is refused .* writes safetensors"
    ):
        interp.load_model(folder)
    assert not trap.exists()


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_missing_files(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataFileError, match=r"has no config.json; expected a folder written by save_pretrained"
    ):
        interp.load_model(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataFileError, match=r"has no \*.safetensors file"):
        interp.load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt", "pytorch_model.bin"])
def test_a_file_is_no_folder(folder: Path, name: str):
    path = folder / name
    path.touch()
    with pytest.raises(ModelError, match="is a single file; expected a folder written by save_pretrained"):
        interp.load_model(path)


CONFIGS = {
    "no JSON": (b"{ not json", "not a valid JSON file"),
    "cut": (b'{"model_type": "lla', "not a valid JSON file"),
    "no text": (b"\xff\xfe\x00", "not a valid JSON file"),
    "empty": (b"", "not a valid JSON file"),
    "a list": (b"[1, 2]", "cannot load the model in folder"),
    "nothing in it": (b"{}", "model_type"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_cannot_be_read(folder: Path, what: str):
    content, message = CONFIGS[what]
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        interp.load_model(folder)


OTHER = "weights have another shape, e.g. .* The file does not fit its config"
VALUES: list[tuple[dict[str, Any], str]] = [
    ({"architectures": None}, "architecture 'none named' is not supported"),
    ({"architectures": ["MixtralForCausalLM"]}, "architecture 'MixtralForCausalLM' is not supported"),
    ({"model_type": "never_heard"}, "never_heard"),
    ({"hidden_size": "wide"}, "expected int, got str"),
    ({"hidden_size": -4}, "cannot load the model"),
    ({"num_attention_heads": 0}, "cannot load the model"),
    ({"hidden_act": "nonsense"}, "nonsense"),
    ({"hidden_size": 40}, OTHER),
    ({"intermediate_size": 50}, OTHER),
    ({"num_key_value_heads": 4}, OTHER),
    ({"vocab_size": 54}, OTHER),
    ({"num_hidden_layers": 3}, "9 weights are missing, e.g. model.layers.2.* they would be random"),
    ({"num_hidden_layers": 1}, "holds more layers than the 1 of its config, e.g. model.layers.1"),
    ({"attention_bias": True}, "8 weights are missing, e.g. model.layers.0.self_attn.k_proj.bias"),
]


@pytest.mark.parametrize(("values", "message"), VALUES, ids=[str(values) for values, _ in VALUES])
def test_a_config_that_does_not_fit(folder: Path, values: dict[str, Any], message: str):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ModelError, match=message):
        interp.load_model(folder)


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


KEY = "model.layers.1.mlp.down_proj.weight"
SPOILT: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "NaN": (lambda weights: weights[KEY][0].fill_(torch.nan), f"52 entries of {KEY} are NaN or infinite"),
    "infinite": (lambda weights: weights[KEY][1, 2].fill_(-torch.inf), f"1 entries of {KEY} are NaN"),
    "one missing": (
        lambda weights: weights.pop(KEY),
        f"1 weights are missing, e.g. {KEY}; they would be random",
    ),
    "one of another shape": (lambda weights: weights.update({KEY: torch.ones(36, 51)}), OTHER),
}


@pytest.mark.parametrize("what", SPOILT)
def test_weights_that_do_not_fit(folder: Path, what: str):
    change, message = SPOILT[what]
    change_weights(folder, change)
    with pytest.raises(ModelError, match=message):
        interp.load_model(folder)


def test_the_good_folder_is_good(folder: Path, tokens: Tensor):
    """All of the above fail for their own reason and no other."""
    assert torch.isfinite(interp.load_model(folder)(tokens)).all()
    change_weights(folder, lambda weights: weights[KEY].mul_(1.0))
    assert torch.isfinite(interp.load_model(folder)(tokens)).all()
