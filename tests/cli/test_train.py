"""``interp train-model`` trains by the recipe and writes a model that loads."""

from __future__ import annotations

import json
from dataclasses import replace

import interp


def test_a_short_run_gives_a_model_with_its_card(run, tmp_path, monkeypatch):
    from interp.models.bundled import train

    # evaluation on 500 sentences of each kind takes longer than the run
    world = train.SOURCES["world"]
    quick = replace(world, evaluate=lambda model, n: world.evaluate(model, 20))
    monkeypatch.setattr(train, "SOURCES", {"world": quick})
    out = tmp_path / "new" / "model"
    result = run("train-model", "induction-2l", "--out", out, "--steps", 2, "--seed", 7, "--no-progress")
    assert result.exit_code == 0, result.output
    card = json.loads((out / "card.json").read_text())
    assert (card["seed"], card["recipe"]["steps"]) == (7, 2)
    assert f"{card['heldout']['ioi_accuracy']:.4f}" in result.stdout
    assert interp.load_model(out).traits.n_layers == 2


def test_bad_input(refuse, tmp_path):
    assert "did you mean 'mix-4l'" in refuse("train-model", "mix4l", "--out", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    assert "it is a file" in refuse("train-model", "mix-4l", "--out", tmp_path / "file")
    assert "not a folder" in refuse("train-model", "mix-4l", "--out", tmp_path / "file" / "out")
