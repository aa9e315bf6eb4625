"""Plans of trainings: what a file says, what is refused by name, and a training that goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.coders.config import CoderConfig
from interp.coders.data_files import open_data
from interp.coders.files import load_coder
from interp.coders.plan import ActivationPlan, CoderPlan, TrainingPlan
from interp.coders.plan_file import plan_from_values, read_training_plan
from interp.coders.planned_training import open_plan_source, run_training_plan
from interp.coders.sources import stream_activations
from interp.coders.train import TrainingConfig, train_coder
from interp.errors import CoderError, DataFileError, InterpError, SiteError

ONE = """
[coder]
architecture = "topk"
d-sae = 24
k = 3

[training]
tokens = 600
batch_size = 128
start_rows = 256
buffer_rows = 512
checkpoint_every = 2
log_every = 1

[activations]
model = "mix-4l"
site = "mlp_out[2]"
n = 40
length = 16

[output]
folder = "found"
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "coder.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_of_one_coder(write: Any, tmp_path: Path) -> None:
    plan = read_training_plan(write(ONE))
    assert plan == TrainingPlan(
        {"coder": CoderPlan(CoderConfig("topk", d_sae=24, k=3), ("mlp_out[2]",))},
        TrainingConfig(
            tokens=600, batch_size=128, start_rows=256, buffer_rows=512, checkpoint_every=2, log_every=1
        ),
        ActivationPlan(n=40, length=16, gradients=False),
        tmp_path / "found",
    )
    assert plan.is_single and plan.shares_sites
    assert json.loads(json.dumps(plan.to_dict()))["coders"]["coder"]["site"] == ["mlp_out[2]"]


def test_several_coders_have_sites_of_their_own_or_the_shared_one(write: Any, tmp_path: Path) -> None:
    text = """
    [coders.a]
    architecture = "gradient"
    d_sae = 8
    k = 2
    [coders.b]
    architecture = "skip-transcoder"
    sites = "mlp_in[0]"
    d_sae = 8
    k = 2
    [coders.c]
    architecture = "cross-layer-transcoder"
    site = ["mlp_in[0-1]", "mlp_in[3]"]
    d_sae = 8
    k = 2
    [activations]
    site = "resid_post[1]"
    data = "prompts.txt"
    cache = "kept"
    """
    (tmp_path / "prompts.txt").write_text("x\n")
    plan = read_training_plan(write(text))
    assert {name: (coder.site, coder.target) for name, coder in plan.coders.items()} == {
        "a": (("resid_post[1]",), ()),
        "b": (("mlp_in[0]",), ("mlp_out[0]",)),
        "c": (("mlp_in[0]", "mlp_in[1]", "mlp_in[3]"), ("mlp_out[0]", "mlp_out[1]", "mlp_out[3]")),
    }
    assert plan.activations.gradients is True
    assert plan.activations.data == str(tmp_path / "prompts.txt")
    assert plan.activations.cache == tmp_path / "kept" and plan.out is None
    assert not plan.is_single and plan.folder_of("b", tmp_path) == tmp_path / "b"


CODER = '[coder]\narchitecture = "topk"\nd_sae = 8\nk = 2\n'


@pytest.mark.parametrize(
    "text, message",
    [
        ('[coder]\narchitecture = "topk"\nd_sea = 8\n', r"key of \[coder\] 'd_sea'; did you mean 'd_sae'"),
        (CODER + "[trainig]\ntokens = 3\n", "section 'trainig'; did you mean 'training'"),
        (CODER + "[training]\ntoken = 3\n", "did you mean 'tokens'"),
        (CODER + '[activations]\nsites = "mlp_out[0]"\nsite = "z[0]"\n', "site is given twice"),
        (CODER + '[output]\nfile = "x"\n', r"key of \[output\] 'file'"),
        (CODER, "needs a site to read"),
        ("[training]\ntokens = 3\n", r"give one coder as \[coder\]"),
        (CODER + CODER.replace("coder", "coders.a"), r"give one coder as \[coder\]"),
        ('[coder]\nd_sae = 8\nk = 2\nsite = "z[0]"\n', r"\[coder\] needs architecture"),
        (CODER + 'site = "mlp_uot[0]"\n', "mlp_out"),
        (CODER + "site = 3\n", "site is text"),
        (CODER + 'site = "z[0]"\ntarget = "z[1]"\n', "target is for transcoders"),
        (CODER.replace("topk", "transcoder") + 'site = "resid_mid[0]"\n', "give target"),
        (CODER.replace("k = 2", "") + 'site = "z[0]"\n', "k must be an integer"),
        (CODER.replace("8", '"8"') + 'site = "z[0]"\n', "d_sae"),
        (CODER.replace("coder", "coders.checkpoint") + 'site = "z[0]"\n', "names of coders become folders"),
        (
            CODER.replace("topk", "gradient") + 'site = "z[0]"\n[activations]\ngradients = false\n',
            "gradients",
        ),
        (CODER + 'site = "z[0]"\n[activations]\nn = 0\n', "n must be a positive integer"),
        (CODER + 'site = "z[0]"\n[activations]\nlong_prompts = "splt"\n', "did you mean 'split'"),
        (CODER + 'site = "z[0]"\n[activations]\nskip_first = 1\n', "skip_first is true or false"),
        (CODER + 'site = "z[0]"\n[training]\nbatch_size = "many"\n', "batch_size"),
        ("coder = 3\n", r"\[coder\] is a section"),
        ("coder = [\n", "cannot be read"),
    ],
)
def test_what_is_refused_names_the_file(write: Any, text: str, message: str) -> None:
    with pytest.raises(InterpError, match=message) as caught:
        read_training_plan(write(text))
    assert isinstance(caught.value, CoderError | DataFileError | SiteError)
    assert "coder.toml" in str(caught.value)


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no file"):
        read_training_plan(tmp_path / "coder.toml")
    with pytest.raises(DataFileError, match=r"is a \.toml file"):
        read_training_plan(tmp_path / "coder.yaml")


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load_model("mix-4l")


def run(plan: TrainingPlan, model: Any, **options: Any) -> Any:
    return run_training_plan(plan, load=lambda _: model, progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_plan_trains_what_python_trains_and_is_read_back(write: Any, tmp_path: Path, model: Any) -> None:
    plan = read_training_plan(write(ONE))
    found = run(plan, model)
    rows = stream_activations(model, open_data(model, n=40, length=16), "mlp_out[2]", batch_size=32)
    by_hand = train_coder(plan.coders["coder"].config, rows, plan.training, progress=False)
    kept = load_coder(tmp_path / "found")
    for name, value in by_hand.state_dict().items():
        assert torch.equal(found.coders["coder"].state_dict()[name], value)
        torch.testing.assert_close(kept.state_dict()[name], value)
    assert kept.sites == ("mlp_out[2]",)
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert summary["coders"]["coder"]["figures"]["fvu"] == by_hand.metadata["figures"]["fvu"]
    assert summary["plan"]["training"]["tokens"] == 600
    assert int(found.history.tokens[-1]) == summary["coders"]["coder"]["tokens"]
    before = contents(tmp_path / "found")
    again = run(plan, model)
    assert len(again.history) == len(found.history) == 5
    assert contents(tmp_path / "found") == before


def test_another_plan_in_the_folder_is_refused_and_restart_clears_it(
    write: Any, tmp_path: Path, model: Any
) -> None:
    plan = read_training_plan(write(ONE))
    run(plan, model)
    (tmp_path / "found" / "notes.txt").write_text("mine")
    other = replace(plan, training=replace(plan.training, seed=3))
    with pytest.raises(CoderError, match="another training"):
        run(other, model)
    found = run(other, model, restart=True)
    assert found.coders["coder"].metadata["training"]["seed"] == 3
    assert (tmp_path / "found" / "notes.txt").read_text() == "mine"
    with pytest.raises(CoderError, match="Give a folder"):
        run(replace(plan, out=None), model)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "cfg.json").write_text("{}")
    with pytest.raises(CoderError, match=r"holds cfg\.json of something else"):
        run(plan, model, out=tmp_path / "foreign")
    assert (tmp_path / "foreign" / "cfg.json").read_text() == "{}"


def test_an_interrupted_plan_goes_on_to_the_same_weights(write: Any, tmp_path: Path, model: Any) -> None:
    plan = read_training_plan(write(ONE))
    whole = run(plan, model, out=tmp_path / "whole").coders["coder"]

    def stop(history: Any) -> None:
        if len(history) == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(plan, model, callbacks=(stop,))
    assert not (tmp_path / "found" / "cfg.json").exists()
    resumed = run(plan, model)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.coders["coder"].state_dict()[name], value)
    assert len(resumed.history) == 5


def test_coders_of_several_sites_train_together(tmp_path: Path, model: Any) -> None:
    values: dict[str, Any] = {
        "coders": {
            "a": {"architecture": "topk", "d_sae": 16, "k": 2},
            "b": {"architecture": "transcoder", "site": "mlp_in[1]", "d_sae": 16, "k": 2},
        },
        "training": {"tokens": 256, "batch_size": 128, "buffer_rows": 256},
        "activations": {"site": "z[0]", "n": 40, "length": 16, "cache": str(tmp_path / "kept")},
    }
    plan = plan_from_values(values)
    found = run(plan, model, out=tmp_path / "out")
    assert {name: path.name for name, path in found.folders.items()} == {"a": "a", "b": "b"}
    read = {name: load_coder(path) for name, path in found.folders.items()}
    assert read["a"].sites == ("z[0]",) and read["b"].target_sites == ("mlp_out[1]",)
    assert (tmp_path / "kept").is_dir()
    # read from the cache, the model is not asked
    source = open_plan_source(plan, model)
    assert set(source.next_chunk()) == {"a", "b"}
