"""Heads over the checkpoints of a bundled model, and checkpoints as files."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from functools import partial

import pytest
import torch
from model_zoo import make_bare, specimen
from random_tasks import random_task
from safetensors.torch import load_file

import interp
from interp.bundled_data import data_path
from interp.errors import CircuitError, DataFileError, ModelError
from interp.models.checkpoints import list_checkpoints, load_checkpoint
from interp.results import HeadDevelopment

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def two():
    """The first and the last checkpoint, loaded when asked for."""
    first, *_, last = list_checkpoints("induction-2l")
    return {one.step: lambda one=one: load_checkpoint(one) for one in (first, last)}


@pytest.fixture(scope="module")
def found(two):
    return interp.compare_checkpoints(two, n=8, edges="exact", **QUIET)


def test_files_are_found_by_step_and_the_card_says_the_last():
    listed = list_checkpoints("induction-2l")
    assert [one.step for one in listed] == [500, 750, 900, 1200, 2500]
    assert listed == list_checkpoints(data_path("models/induction-2l"))
    assert listed[2].name == "induction-2l step 900"
    assert listed[-1].weights.name == "model.safetensors"


def test_a_checkpoint_has_its_own_weights(tmp_path):
    one = list_checkpoints("induction-2l")[0]
    model = load_checkpoint(one)
    stored = load_file(one.weights)
    own = {name: value for name, value in model.module.state_dict().items() if name in stored}
    assert set(own) == set(stored)
    for name, value in own.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float()), name
    assert model.to_str_tokens("When Mary") == interp.load_model("induction-2l").to_str_tokens("When Mary")
    assert interp.load_model("induction-2l").revision != model.revision


def test_folders_without_checkpoints_are_refused(tmp_path):
    with pytest.raises(DataFileError, match=r"has no checkpoints; expected files checkpoints/step-00900"):
        list_checkpoints("micro")
    with pytest.raises(ModelError, match="neither a bundled model"):
        list_checkpoints(tmp_path / "nowhere")
    shutil.copytree(data_path("models/induction-2l"), tmp_path / "m")
    (tmp_path / "m" / "card.json").unlink()
    (tmp_path / "m" / "checkpoints" / "notes.safetensors").write_text("no step")
    assert [one.step for one in list_checkpoints(tmp_path / "m")] == [500, 750, 900, 1200]
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"n_layers": 1}))
    with pytest.raises(ModelError):
        load_checkpoint(list_checkpoints(tmp_path / "m")[0])


def test_induction_heads_appear_and_the_task_with_them(found):
    assert found.steps.tolist() == [500, 2500]
    heads = found.heads_frame("induction").set_index("head")
    assert list(heads.course) == ["absent"] * 4 + ["appears"] * 4
    assert set(heads.first_step.dropna()) == {2500}
    assert found.courses("previous_token")["L0H1"] == "appears"
    assert {found.courses()[name] for name in ("L0H0", "L0H1", "L1H0", "L1H1")} == {"appears"}
    assert found.accuracy[0] < 0.2 < 0.9 < found.accuracy[1]
    assert found.gap == pytest.approx(float(found.clean[1] - found.corrupted[1]))
    assert found.agreement_with_last("edges")[-1] == pytest.approx(1)


def test_numbers_are_those_of_each_model_on_the_same_prompts(two, found):
    task = None
    for row, load in enumerate(two.values()):
        model = load()
        task = task or interp.tasks.load("induction", model, n=8, seed=0)
        scores = interp.patch(model, task, "z", direction="noise", progress=False)["z"]
        assert float(found.clean[row]) == pytest.approx(scores.clean, abs=1e-5)
        torch.testing.assert_close(
            found.scores["effect"][row], (scores.clean - scores.raw) / found.gap, atol=1e-5, rtol=0
        )
        lost = _clean(model, task)[:, None, None] - scores.per_prompt.permute(2, 0, 1)
        torch.testing.assert_close(found.errors[row], lost.std(0) / 8**0.5 / found.gap, atol=1e-5, rtol=1e-4)
        roles = interp.score_heads(model)
        for role, table in roles.values.items():
            assert torch.equal(found.scores[role][row], table)
        edges = interp.score_edges(model, task, method="exact", progress=False)
        torch.testing.assert_close(found.edges[row], -edges.effects / found.gap, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def _clean(model, task):
    last = model(task.clean)[torch.arange(len(task)), task.end]
    return (last.gather(1, task.answers) - last.gather(1, task.wrong))[:, 0]


def test_one_model_at_a_time_is_in_memory():
    alive: list[weakref.ref] = []

    def load(seed: int):
        assert all(module() is None for module in alive), "an earlier checkpoint is still there"
        model = interp.load_model(make_bare("gpt2", seed))
        alive.append(weakref.ref(model.module))
        return model

    task = random_task([6, 7, 5], "right", [1, 2, 0], seed=5)
    gc.disable()  # a collection by chance would hide what is not let go
    try:
        interp.compare_checkpoints({i: partial(load, i) for i in range(3)}, task, roles=(), **QUIET)
    finally:
        gc.enable()
    assert len(alive) == 3


def test_models_in_memory_are_numbered(tmp_path):
    models = [specimen(name).model for name in ("gpt2", "llama")]
    task = random_task([6, 7, 5], "right", [1, 2, 0], seed=5)
    found = interp.compare_checkpoints(models, task, roles=(), threshold=0.01, **QUIET)
    assert found.steps.tolist() == [0, 1]
    assert list(found.scores) == ["effect"]
    assert found.edges is None
    read = HeadDevelopment.load(found.save(tmp_path / "d"))
    assert read.to_frame().equals(found.to_frame())
    assert read.heads_frame().equals(found.heads_frame())
    with pytest.raises(CircuitError, match=r"'plain' has \(layers, heads\)|give checkpoints of one model"):
        interp.compare_checkpoints([models[0], interp.load_model("mix-4l")], task, roles=(), **QUIET)


def test_refusals(two):
    with pytest.raises(CircuitError, match="at least two checkpoints"):
        interp.compare_checkpoints(["induction-2l"])
    with pytest.raises(CircuitError, match=r"by rising training step; got steps \[2, 1\]"):
        interp.compare_checkpoints({2: "induction-2l", 1: "induction-2l"})
    with pytest.raises(CircuitError, match="thresholds must be above 0"):
        interp.compare_checkpoints(two, threshold=0)
    model = specimen("gpt2").model
    tokens = torch.randint(1, 53, (2, 5), generator=torch.Generator().manual_seed(0))
    same = interp.tasks.from_tokens(tokens, tokens, torch.tensor([1, 2]), torch.tensor([3, 4]))
    with pytest.raises(CircuitError, match="equal at every checkpoint"):
        interp.compare_checkpoints([model, model], same, roles=(), **QUIET)
