"""``interp train-coder``, ``evaluate-coder`` and ``dashboard``: the numbers of Python, files, and what is refused."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from page_reader import PageReader

import interp
from interp.coders.coder import Coder
from interp.coders.data_files import open_data
from interp.coders.evaluate import evaluate_coder
from interp.coders.files import load_coder
from interp.coders.probing import attribute_data, match_attributes
from interp.coders.sources import stream_activations
from interp.coders.train import train_coder
from interp.results.coder_history import CoderHistory

DATA = ("--model", "mix-4l", "--n", 60, "--length", 16, "--no-progress")
SMALL = ("--d-sae", 24, "--k", 3, "--tokens", 768, "--batch-size", 128)
TOML = """
[coder]
architecture = "topk"
d_sae = 24
k = 3
site = "mlp_out[2]"
[training]
tokens = 768
batch_size = 128
buffer_rows = 4096
log_every = 2
checkpoint_every = 1
[activations]
n = 60
length = 16
[output]
folder = "from-file"
"""


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load_model("mix-4l")


@pytest.fixture(autouse=True)
def loaded_once(model, monkeypatch) -> None:
    """The model of most tests, without loading it again at every command."""
    from interp.cli import inputs

    load = inputs.load_quietly
    monkeypatch.setattr(
        inputs, "load_quietly", lambda name, *rest: model if name == "mix-4l" else load(name, *rest)
    )


@pytest.fixture(scope="module")
def coder(model) -> Coder:
    rows = stream_activations(model, open_data(model, n=60, length=32), "mlp_out[2]")
    config = interp.CoderConfig("topk", d_sae=40, k=4)
    return train_coder(config, rows, batch_size=256, learning_rate=2e-3, progress=False)


@pytest.fixture
def folder(coder, tmp_path) -> Path:
    return coder.save(tmp_path / "sae")


def said(result: Any) -> str:
    """All that was printed, on one line."""
    return " ".join(result.output.split())


def test_training_from_options_gives_the_coder_of_python(run, tmp_path, model):
    command = ("train-coder", *DATA, "--site", "mlp_out[2]", "--architecture", "topk", *SMALL, "--out", "sae")
    result = run(*command)
    assert result.exit_code == 0, result.output
    rows = stream_activations(model, open_data(model, n=60, length=16), "mlp_out[2]", batch_size=32)
    config = interp.CoderConfig("topk", d_sae=24, k=3)
    by_hand = train_coder(config, rows, tokens=768, batch_size=128, progress=False)
    found = load_coder(tmp_path / "sae")
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value)
    figures = by_hand.metadata["figures"]
    assert f"768 {figures['l0']:.1f} {figures['fvu']:.4f}" in said(result)
    assert CoderHistory.load(tmp_path / "sae" / "history.safetensors").last()["fvu"] == figures["fvu"]
    page = PageReader(tmp_path / "sae" / "report.html")
    assert len(page.figures) == 1 and f"{figures['fvu']:.4f}" in page.cells
    # the same command reads back what is done
    again = run(*command)
    assert again.exit_code == 0 and f"768 {figures['l0']:.1f} {figures['fvu']:.4f}" in said(again)
    assert "another training" in said(run(*command, "--seed", 3))
    assert run(*command, "--seed", 3, "--restart").exit_code == 0
    assert load_coder(tmp_path / "sae").metadata["training"]["seed"] == 3


def test_a_file_and_options_in_its_place(run, tmp_path, refuse):
    (tmp_path / "coder.toml").write_text(TOML)
    result = run("train-coder", "--config", "coder.toml", "--no-progress")
    assert result.exit_code == 0, result.output
    assert load_coder(tmp_path / "from-file").config.k == 3
    other = run(
        "train-coder", "--config", "coder.toml", "--no-progress", "--k", 5, "--site", "mlp_in[1]", "--architecture",
        "skip-transcoder", "--tokens", 256, "--out", "other",
    )  # fmt: skip
    assert other.exit_code == 0, other.output
    found = load_coder(tmp_path / "other")
    assert (found.config.k, found.sites, found.target_sites) == (5, ("mlp_in[1]",), ("mlp_out[1]",))
    assert found.metadata["tokens"] == 256 and "mlp_in[1] -> mlp_out[1]" in said(other)
    (tmp_path / "bad.toml").write_text(TOML.replace("tokens", "tokns"))
    message = refuse("train-coder", "--config", "bad.toml")
    assert "bad.toml" in message and "did you mean 'tokens'" in message
    (tmp_path / "two.toml").write_text(TOML.replace("[coder]", "[coders.a]"))
    assert "--k is of one coder" in refuse("train-coder", "--config", "two.toml", "--k", 3)


def test_a_dry_run_writes_nothing(run, tmp_path):
    (tmp_path / "coder.toml").write_text(TOML)
    before = set(tmp_path.rglob("*"))
    result = run("train-coder", "--config", "coder.toml", "--dry-run", "--no-progress")
    assert result.exit_code == 0, result.output
    text = said(result)
    weights = 2 * 24 * 128 + 24 + 128
    for part in ("topk, k 3", "mlp_out[2] [row, 128]", f"{weights:,}", "768 tokens, 128 a step", "from-file"):
        assert part in text
    assert set(tmp_path.rglob("*")) == before


def test_refusals_of_train_coder(refuse, tmp_path):
    assert "give --site" in refuse("train-coder", "--out", "x")
    good = ("train-coder", *DATA, "--site", "mlp_out[2]", "--d-sae", 8)
    assert "give --architecture" in refuse(*good, "--out", "x")
    assert "did you mean 'topk'" in refuse(*good, "--architecture", "topkk", "--k", 2, "--out", "x")
    assert "k must be an integer" in refuse(*good, "--architecture", "topk", "--out", "x")
    topk = (*good, "--architecture", "topk", "--k", 2)
    assert "Give a folder" in refuse(*topk)
    assert "did you mean 'mlp_out'" in refuse(*topk, "--site", "mlp_otu[2]", "--out", "x")
    assert "4 layers" in refuse(*topk, "--site", "mlp_out[7]", "--out", "x")
    assert "no file or folder" in refuse(*topk, "--data", "prompts.txt", "--out", "x")
    (tmp_path / "file").write_text("x")
    assert "file" in refuse(*topk, "--out", "file")


def test_a_stopped_training_goes_on_to_the_same_weights(run, tmp_path):
    (tmp_path / "coder.toml").write_text(TOML.replace("768", "20_000").replace("every = 1", "every = 20"))
    command = ["train-coder", "--config", str(tmp_path / "coder.toml"), "--no-progress", "--out"]
    start = [sys.executable, "-c", "from interp.cli import main; main()"]
    process = subprocess.Popen([*start, *command, str(tmp_path / "cut")], stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "cut" / "checkpoint"
    while not list(checkpoint.glob("step-*")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from the checkpoint" in stderr, stderr
    assert not (tmp_path / "cut" / "cfg.json").exists()
    for out in ("cut", "whole"):
        assert run(*command, out).exit_code == 0
    cut, whole = (load_coder(tmp_path / out).state_dict() for out in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_evaluation_prints_and_writes_the_numbers_of_python(run, tmp_path, model, coder, folder):
    command = ("evaluate-coder", folder, "--n", 12, "--no-progress")
    result = run(*command, "--json", "a.json", "--csv", "a.csv", "--report", "a.html")
    assert result.exit_code == 0, result.output
    prompts = open_data(model, n=12, seed=2)
    by_hand = evaluate_coder(model, coder, prompts, seed=2, batch_size=16, progress=False)
    text = said(result)
    assert f"recovered {by_hand.ce_recovered.value:.4f} [{by_hand.ce_recovered.low:.4f}" in text
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["ce_recovered"]["value"] == pytest.approx(by_hand.ce_recovered.value)
    assert found["sites"][0]["l0"] == pytest.approx(by_hand.fits[0].l0)
    assert found["geometry"]["effective_dimension"] > 1
    matched = match_attributes(coder, attribute_data(model, "mlp_out[2]", 4000, 2), seed=2)
    rows = [row for row in found["attributes"] if row["source"] == "latents"]
    assert [row["unit"] for row in rows] == matched.unit[0].tolist()
    latent, f1 = matched.best("number=plural")
    assert f"number=plural {latent} {f1.value:.2f} [{f1.low:.2f}, {f1.high:.2f}]" in text
    frame = pd.read_csv(tmp_path / "a.csv")
    assert frame["fvu"].tolist() == pytest.approx([by_hand.fits[0].fvu])
    page = PageReader(tmp_path / "a.html")
    assert len(page.figures) == 3 and "mlp_out[2]" in (tmp_path / "a.html").read_text()


def test_evaluation_of_heads_and_cross_layer_transcoders(run, tmp_path, model):
    data = open_data(model, n=40, length=16)
    heads = train_coder(
        interp.CoderConfig("topk", d_sae=24, k=3),
        stream_activations(model, data, "z[1]"),
        batch_size=128,
        progress=False,
    )
    heads.save(tmp_path / "heads")
    result = run("evaluate-coder", "heads", "--n", 4, "--no-progress")
    assert result.exit_code == 0, result.output
    assert "at z[1]" in said(result) and "geometry" in said(result) and "number=plural" not in said(result)
    layers = train_coder(
        interp.CoderConfig("cross-layer-transcoder", d_sae=12, k=2),
        stream_activations(model, data, "mlp_in", target="mlp_out"),
        batch_size=128,
        progress=False,
    )
    layers.save(tmp_path / "layers")
    result = run("evaluate-coder", "layers", "--n", 4, "--no-progress", "--json", "b.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "b.json").read_text())
    assert [site["site"] for site in found["sites"]] == [f"mlp_out[{i}]" for i in range(4)]
    assert "geometry" not in found and "attributes" not in found
    page = run(
        "dashboard",
        "layers",
        "--layer",
        1,
        "--latents",
        "random:3",
        "--n",
        8,
        "--out",
        "l.html",
        "--no-progress",
    )
    assert page.exit_code == 0, page.output


def test_a_dashboard_of_chosen_latents(run, tmp_path, folder):
    result = run("dashboard", folder, "--latents", "3,7-8", "--n", 20, "--out", "some.html", "--no-progress")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "some.html").read_text()
    assert re.findall(r'"n": ?(\d+)', text) == ["3", "7", "8"]
    assert (
        run(
            "dashboard", folder, "--latents", "all", "--n", 20, "--out", "all.html", "--no-progress"
        ).exit_code
        == 0
    )
    numbers = re.findall(r'"n": ?(\d+)', (tmp_path / "all.html").read_text())
    assert len(numbers) > 20 and numbers == sorted(numbers, key=int)


def test_refusals_of_evaluation_and_dashboard(refuse, folder, coder, tmp_path):
    assert "no folder" in refuse("evaluate-coder", "./nowhere")
    assert ".json" in refuse("evaluate-coder", folder, "--json", "a.html")
    assert "did you mean" in refuse("evaluate-coder", folder, "--ablation", "meen", "--n", 2, "--no-progress")
    for text, message in (("1,x", "written 1,5,7-9"), ("9-3", "ends before"), ("99", "from 0 to 39")):
        out = ("--n", 4, "--no-progress", "--out", "d.html")
        assert message in refuse("dashboard", folder, "--latents", text, *out)
    assert ".html" in refuse("dashboard", folder, "--out", "d.json")
    nameless = coder.save(tmp_path / "nameless")
    cfg = json.loads((nameless / "cfg.json").read_text())
    cfg["metadata"]["interp"]["metadata"].pop("model")
    (nameless / "cfg.json").write_text(json.dumps(cfg))
    assert "--model NAME" in refuse("evaluate-coder", nameless)
