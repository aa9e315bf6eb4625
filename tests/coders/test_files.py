"""Folders of coders: the same coder to the bit, whole or not at all, and damage that is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from coder_cases import KINDS, assert_equal, make_random
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import interp.bundled_data
from interp.coders.files import bundled_coders, load_coder, save_coder
from interp.coders.formats.hook_names import find_hook, find_site
from interp.errors import CoderError, DataFileError


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_comes_back_to_the_bit(kind: tuple[str, str | None], tmp_path: Path) -> None:
    coder = make_random(*kind)
    folder = save_coder(coder, tmp_path / "new" / "coder")
    found = load_coder(folder)
    assert_equal(found, coder)
    x = torch.randn(6, *coder.shape.input_axes)
    assert torch.equal(found(x), coder(x))
    assert not found.training
    assert all(value.is_contiguous() for value in found.state_dict().values())
    assert all(value.requires_grad for value in found.parameters())


def test_a_training_goes_on_from_a_file(tmp_path: Path) -> None:
    from interp.coders.batch import CoderBatch
    from interp.coders.encoders import StepState

    coder = make_random("batch-topk", None)
    found = load_coder(save_coder(coder, tmp_path / "coder"))
    x = torch.randn(9, coder.d_in)
    for each in (coder.train(), found.train()):
        each.loss(CoderBatch(x, x), StepState()).loss.backward()
    assert torch.equal(coder.W_enc.grad, found.W_enc.grad)  # type: ignore[arg-type]
    assert_equal(coder, found)


def test_dtypes_of_the_file_and_of_the_call(tmp_path: Path) -> None:
    coder = make_random("jumprelu", None).to(torch.bfloat16)
    folder = save_coder(coder, tmp_path / "coder")
    assert_equal(load_coder(folder), coder)
    assert json.loads((folder / "cfg.json").read_text())["dtype"] == "bfloat16"
    found = load_coder(folder, device="cpu", dtype=torch.float64)
    assert {value.dtype for value in found.state_dict().values()} == {torch.float64}
    assert torch.equal(found.W_dec, coder.W_dec.double())


def test_another_coder_over_an_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "coder"
    save_coder(make_random("jumprelu", None), folder)
    (folder / "card.md").write_text("about it")
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("notes")
    new = make_random("topk", None)
    save_coder(new, folder)
    assert_equal(load_coder(folder), new)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert names == [
        f"coder/{name}" for name in ("card.md", "cfg.json", "more/notes.txt", "sae_weights.safetensors")
    ]


@pytest.mark.parametrize("failing", ["first file", "second file", "first move", "second move"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_fails_midway_leaves_the_old_coder(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_random("standard", None)
    folder = save_coder(old, tmp_path / "coder")
    calls = {"write": 0, "move": 0}

    def broken(kind: str, at: int, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            calls[kind] += 1
            if calls[kind] == at:
                raise error
            return real(*args, **options)

        return call

    number = 1 if failing.startswith("first") else 2
    if failing.endswith("move"):
        monkeypatch.setattr(os, "replace", broken("move", number, os.replace))
    elif number == 1:
        monkeypatch.setattr(Path, "write_bytes", broken("write", 1, Path.write_bytes))
    else:
        monkeypatch.setattr(Path, "write_text", broken("write", 1, Path.write_text))
    said = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataFileError
    with pytest.raises(said, match=str(error) or None):
        save_coder(make_random("gated", None), folder)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["coder"]
    assert_equal(load_coder(folder), old)


def test_what_a_kill_between_two_moves_left_is_named(tmp_path: Path) -> None:
    folder = save_coder(make_random("standard", None), tmp_path / "coder")
    left = tmp_path / ".coder.abc.old"
    os.replace(folder, left)
    with pytest.raises(DataFileError, match=r"no folder at .*left the coder at .*\.coder\.abc\.old"):
        load_coder(folder)


def test_metadata_must_be_json(tmp_path: Path) -> None:
    coder = make_random("standard", None)
    for value in (float("nan"), torch.zeros(2)):
        coder.metadata["x"] = value
        with pytest.raises(CoderError, match="metadata must be values that JSON has"):
            save_coder(coder, tmp_path / "coder")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "coder").write_text("")
    with pytest.raises(CoderError, match="is a file"):
        save_coder(make_random("standard", None), tmp_path / "coder")
    with pytest.raises(DataFileError, match="is a file; give its folder"):
        load_coder(tmp_path / "coder")


@pytest.mark.parametrize("name", ["sae.pt", "sae.pth", "missing/sae.bin"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    torch.save({"W_enc": torch.zeros(2, 2)}, tmp_path / "sae.pt")
    with pytest.raises(DataFileError, match="would be a pickle"):
        load_coder(tmp_path / name)
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"but sae\.pt: pickles are refused"):
        load_coder(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = save_coder(make_random("jumprelu", None), tmp_path / "coder")
    for name in ("sae_weights.safetensors", "interp.safetensors", "cfg.json"):
        whole = (folder / name).read_bytes()
        for cut in (0, 7, len(whole) // 2, len(whole) - 1):
            (folder / name).write_bytes(whole[:cut])
            with pytest.raises(DataFileError, match=name.replace(".", r"\.")):
                load_coder(folder)
        (folder / name).write_bytes(whole)
    for name in ("cfg.json", "sae_weights.safetensors"):
        os.replace(folder / name, tmp_path / name)
        with pytest.raises(DataFileError, match=f"holds no {name}"):
            load_coder(folder)
        os.replace(tmp_path / name, folder / name)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(DataFileError, match="must hold an object; got list"):
        load_coder(folder)


@pytest.mark.parametrize("kind", [("topk", None), ("crosscoder", "topk")], ids=str)
@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("config", "d_sae"), 22, "W_dec must be"),
        (("config", "colour"), "red", "unknown option 'colour'"),
        (("shape", "d_in"), "wide", "sizes must be integers"),
        (("sites",), None, "metadata/interp"),
        ((), "a coder", "metadata/interp"),
    ],
)
def test_facts_that_do_not_describe_a_coder(
    kind: tuple[str, str | None], path: tuple[str, ...], value: Any, says: str, tmp_path: Path
) -> None:
    folder = save_coder(make_random(*kind), tmp_path / "coder")
    cfg = json.loads((folder / "cfg.json").read_text())
    place: Any = cfg["metadata"]
    for key in ("interp", *path)[:-1]:
        place = place[key]
    place[("interp", *path)[-1]] = value
    (folder / "cfg.json").write_text(json.dumps(cfg))
    if kind == ("topk", None) and path == ("config", "d_sae"):
        # the weights say what the coder is
        assert load_coder(folder).d_sae == 23
        return
    with pytest.raises(DataFileError, match=says):
        load_coder(folder)


def test_weights_of_another_coder_are_refused(tmp_path: Path) -> None:
    folder = save_coder(make_random("crosscoder", "topk"), tmp_path / "coder")
    path = folder / "sae_weights.safetensors"
    whole = load_file(path)
    for change, says in (
        ({"b_dec": torch.zeros(5)}, r"b_dec must be \[21\]; got \[5\]"),
        ({"W_skip": torch.zeros(5)}, "has unknown W_skip"),
    ):
        save_file({**whole, **change}, path)
        with pytest.raises(DataFileError, match=says):
            load_coder(folder)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with three coders."""
    for name in ("mix-4l/mlp_out-2-topk", "mix-4l/mlp_in-1-skip", "mix-4l/mlp_in-1-topk"):
        coder = make_random("topk", None)
        coder.metadata = {"name": name}
        save_coder(coder, tmp_path / "coders" / name)
    monkeypatch.setattr(interp.bundled_data, "_root", lambda folder: tmp_path)
    return tmp_path


def test_bundled_coders_by_name_and_by_site(bundle: Path) -> None:
    assert bundled_coders() == ("mix-4l/mlp_in-1-skip", "mix-4l/mlp_in-1-topk", "mix-4l/mlp_out-2-topk")
    for name in ("mix-4l/mlp_out-2-topk", "mix-4l/mlp_out[2]"):
        assert load_coder(name).metadata["name"] == "mix-4l/mlp_out-2-topk"
    with pytest.raises(CoderError, match=r"names 2 bundled coders; choose one of mix-4l/mlp_in-1-skip, "):
        load_coder("mix-4l/mlp_in[1]")
    with pytest.raises(CoderError, match=r"no coder 'mlp_out-2-topk'.*did you mean 'mix-4l/mlp_out-2-topk'"):
        load_coder("mlp_out-2-topk")


def test_every_bundled_coder_loads() -> None:
    for name in bundled_coders():
        assert load_coder(name).sites


def test_a_place_without_a_folder(tmp_path: Path) -> None:
    for name in (tmp_path / "nothing", str(tmp_path / "nothing"), "./nothing"):
        with pytest.raises(DataFileError, match="no folder at"):
            load_coder(name)


@given(
    st.sampled_from(
        ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out", "mlp_pre", "mlp_post"]
    ),
    st.integers(0, 200),
)
def test_sites_and_hooks_are_one_to_one(component: str, layer: int) -> None:
    site = f"{component}[{layer}]"
    hook, head = find_hook(site)
    assert head is None and hook.startswith(f"blocks.{layer}.")
    assert find_site(hook) == site


def test_hooks_that_are_no_site_of_ours() -> None:
    assert find_site("blocks.4.attn.hook_z", head=2) == "z[4.2]" and find_hook("z[4.2]")[1] == 2
    assert find_site("hook_embed") == "embed" and find_hook("embed") == ("hook_embed", None)
    assert find_site("blocks.1.mlp.hook_in") == "mlp_in[1]"
    for hook in ("blocks.1.hook_mlp_in", "blocks.x.hook_mlp_out", "somewhere"):
        assert find_site(hook) is None and find_hook(hook) == (hook, None)
    assert find_site("blocks.1.hook_mlp_out", head=0) is None
    # a part of a site is no hook
    for site in ("mlp_out[1]@END", "mlp_out", "mlp_post[1].n3"):
        assert find_hook(site) == (site, None)
