"""Parts of a search in a folder: whose they are, and that none is taken for another's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_tasks import random_task
from tiny_models import make_hf_model

import interp
from interp.circuits.search_folder import SearchFolder, describe_search
from interp.errors import CircuitError, DataFileError


def test_parts_come_back_to_the_bit(tmp_path: Path) -> None:
    question = {"model": "m", "edges": 3, "tau": 0.1, "metric": None}
    folder = SearchFolder(tmp_path / "new" / "search", question)
    tensors = {
        "scores": torch.tensor([[0.1, float("nan")], [-0.0, float("inf")]]),
        "included": torch.tensor([True, False]),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
    }
    assert folder.load("part") is None
    folder.save("part", tensors)
    found = SearchFolder(tmp_path / "new" / "search", question).load("part")
    assert found is not None and set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    folder.save("part", {"scores": torch.zeros(1)})
    assert set(folder.load("part") or {}) == {"scores"}
    assert {path.name for path in folder.folder.iterdir()} == {"search.json", "part.safetensors"}


def test_another_question_is_refused_by_what_differs(tmp_path: Path) -> None:
    SearchFolder(tmp_path, {"model": "m", "seed": 0, "task": "ioi"})
    SearchFolder(tmp_path, {"task": "ioi", "seed": 0, "model": "m"})
    before = (tmp_path / "search.json").read_bytes()
    with pytest.raises(CircuitError, match=r"it differs in seed, task\)"):
        SearchFolder(tmp_path, {"model": "m", "seed": 1, "task": "agreement"})
    with pytest.raises(CircuitError, match=r"it differs in tau\)"):
        SearchFolder(tmp_path, {"model": "m", "seed": 0, "task": "ioi", "tau": 0.1})
    assert (tmp_path / "search.json").read_bytes() == before


def test_damage_is_said(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path, {"model": "m"})
    folder.save("part", {"scores": torch.ones(100)})
    path = tmp_path / "part.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataFileError, match="truncated"):
        folder.load("part")
    (tmp_path / "search.json").write_text('{"model": ')
    with pytest.raises(DataFileError, match="is damaged"):
        SearchFolder(tmp_path, {"model": "m"})


def test_the_question_tells_weights_prompts_and_options_apart() -> None:
    model = interp.load_model(make_hf_model("gpt2"))
    task = random_task([5, 4], "right", [1, 2], seed=1)
    graph = interp.build_graph(model)
    usual = describe_search(model, task, method="exact", graph=graph, seed=0)
    assert json.loads(json.dumps(usual)) == usual
    assert (
        describe_search(
            model, random_task([5, 4], "right", [1, 2], seed=1), method="exact", graph=graph, seed=0
        )
        == usual
    )

    def differs(**changed: Any) -> set[str]:
        told = {"method": "exact", "graph": graph, "seed": 0} | changed
        found = describe_search(told.pop("model", model), told.pop("task", task), **told)
        return {key for key in {*found, *usual} if found.get(key) != usual.get(key)}

    assert differs(method="acdc") == {"method"} and differs(seed=1) == {"seed"}
    assert differs(graph=interp.build_graph(model, task, positions=["S"])) == {"graph"}
    assert differs(tau=0.1) == {"tau"}
    for name in ("clean", "corrupted", "answers", "wrong"):
        changed = getattr(task, name).clone()
        changed[0, 0] += 1
        assert differs(task=replace(task, **{name: changed})) == {"prompts"}, name
    assert differs(task=replace(task, labels={"S": task.labels["S"] * 0})) == {"prompts"}
    assert differs(task=task.select([1, 0])) == {"prompts"}
    other = interp.load_model(make_hf_model("gpt2"))
    assert differs(model=other) == set()
    with torch.no_grad():
        next(other.module.parameters()).view(-1)[-1] += 1e-3
    assert differs(model=other) == {"weights"}
