"""``interp steer`` and ``interp evaluate-steering``: the same numbers as in Python, files, and refusals."""

from __future__ import annotations

import csv
import json

import pytest
from page_reader import PageReader

import interp
from interp.steering import load_steering
from interp.steering.world import contrast_prompts

SMALL = ("--n", 8, "--n-extract", 16, "--dose", 0.3, "--draws", 1, "--no-progress")


@pytest.fixture
def sides(tmp_path):
    """Files of prompts of both sides."""
    for name, texts in zip(("p.txt", "n.txt"), contrast_prompts("sentiment=positive", 16, 1), strict=True):
        (tmp_path / name).write_text("\n\n".join(texts) + "\n")
    return ("--positive", "p.txt", "--negative", "n.txt")


def test_steer_writes_with_and_without_and_saves(run, tmp_path):
    command = ("--prompt", "The baker", "--tokens", 6, "--dose", 0.3, "--dose", -0.2, "--no-progress")
    result = run("steer", "--attribute", "sentiment=positive", "--n", 32, *command, "--save", "v.safetensors")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "mean-difference: add(resid_post[1])"
    steering, model = load_steering(tmp_path / "v.safetensors"), interp.load_model("mix-4l")
    assert f"dose 0.3 nats: strength {steering.strength_for(0.3):.4g}" in lines
    tokens = model.to_tokens("The baker")
    plain = model.to_string(model.generate(tokens, 6)[0, tokens.shape[1] :])
    with steering.apply(model, dose=0.3):
        happy = model.to_string(model.generate(tokens, 6)[0, tokens.shape[1] :])
    at = lines.index("The baker")
    assert lines[at + 1].split("unsteered  ")[1] == plain
    assert lines[at + 2].split("0.3 nats  ")[1] == happy
    assert "-0.2 nats" in lines[at + 3] and happy != plain
    again = run("steer", "--load", "v.safetensors", *command)
    assert again.exit_code == 0 and again.stdout.splitlines()[at:] == lines[at : at + 4]


def test_steer_from_files_with_another_method_and_operation(run, sides):
    result = run(
        "steer", *sides, "--method", "logistic", "--site", "resid_post[2]", "--operation", "rotate", "--tokens", 4,
        "--dose", 0.1, "--no-progress",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("logistic: rotate(resid_post[2])")


def test_evaluate_writes_what_it_found(run, tmp_path):
    files = ("--json", "e.json", "--csv", "e.csv", "--report", "e.html")
    result = run("evaluate-steering", "--attribute", "tense=past", "--controls", "random", *SMALL, *files)
    assert result.exit_code == 0, result.output
    assert "tense=past: concept, unsteered" in result.stdout and "random direction" in result.stdout
    with (tmp_path / "e.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["condition"] for row in rows} == {"mean-difference", "random direction"}
    found = json.loads((tmp_path / "e.json").read_text())
    assert len(found["rows"]) == len(rows) == 2 * 10
    assert float(rows[0]["value"]) == pytest.approx(found["rows"][0]["value"])
    assert {row["steering"] for row in found["off_target"]} == {"tense=past", "random direction"}
    page = PageReader(tmp_path / "e.html")
    assert "Off target" in page.headings and "Written under mean-difference" in page.headings


def test_evaluate_files_of_prompts(run, sides, tmp_path):
    saved = run(
        "steer",
        "--attribute",
        "tense=past",
        "--n",
        16,
        "--save",
        "past.safetensors",
        "--tokens",
        1,
        "--no-progress",
    )
    assert saved.exit_code == 0, saved.output
    result = run("evaluate-steering", *sides, *SMALL, "--load", "past.safetensors", "--controls", "none")
    assert result.exit_code == 0, result.output
    assert "positive prompts: log odds" in result.stdout
    assert "past" in result.stdout and "AUC" in result.stdout


def test_refusals(refuse, sides, tmp_path):
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "no.safetensors").write_text("nothing")
    for command in ("steer", "evaluate-steering"):
        assert "say what to steer to" in refuse(command)
        assert "not both" in refuse(command, "--attribute", "tense=past", *sides)
        assert "give --positive and --negative" in refuse(command, *sides[:2])
        assert "did you mean 'past'" in refuse(command, "--attribute", "tense=pasta")
        assert "no file at 'gone.txt'" in refuse(command, "--positive", "gone.txt", "--negative", "n.txt")
        assert "holds no prompt" in refuse(command, "--positive", "empty.txt", "--negative", "n.txt")
        assert "no text in UTF-8" in refuse(command, "--positive", "bytes.txt", "--negative", "n.txt")
        assert "did you mean 'logistic'" in refuse(
            command, "--attribute", "tense=past", "--method", "logstic"
        )
    assert "give --load, or" in refuse("steer", "--attribute", "tense=past", "--load", "no.safetensors")
    for arguments in (("steer",), ("evaluate-steering", "--attribute", "tense=past")):
        assert "not a readable safetensors" in refuse(*arguments, "--load", "no.safetensors")
    assert "that is not 0" in refuse("steer", "--attribute", "tense=past", "--dose", 0)
    assert "ends in .safetensors" in refuse("steer", "--attribute", "tense=past", "--save", "v.gguf")
    assert "did you mean 'random'" in refuse(
        "evaluate-steering", "--attribute", "tense=past", "--controls", "randm"
    )
    assert "ends in .html" in refuse("evaluate-steering", "--attribute", "tense=past", "--report", "r.pdf")
    assert "four lines each way" in refuse(
        "evaluate-steering", "--positive", "short.txt", "--negative", "n.txt", "--no-progress"
    )


@pytest.fixture
def saved(tmp_path):
    """A steering in a file."""
    positive, negative = contrast_prompts("sentiment=positive", 8, 1)
    steering = interp.extract_steering(
        interp.load_model("mix-4l"), positive, negative, "resid_post[1]", max_dose=0.5
    )
    return steering.save(tmp_path / "v.safetensors")


def test_a_loaded_steering_is_not_extracted_again(refuse, run, saved, tmp_path):
    for option in (("--site", "resid_post[3]"), ("--operation", "rotate"), ("--method", "logistic")):
        message = refuse("steer", "--load", "v.safetensors", *option)
        assert option[0] in message and "as it was saved" in message
    (tmp_path / "neutral.txt").write_text("The baker fried the soup at the kitchen .\n")
    command = ("steer", "--load", "v.safetensors", "--neutral", "neutral.txt", "--dose", 0.1, "--tokens", 2)
    result = run(*command, "--no-progress")
    assert result.exit_code == 0, result.output
    assert "(1 rows" in result.stdout  # its dose is measured anew, on this text


def test_evaluate_says_what_a_loaded_steering_lacks(refuse, saved, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.safetensors").write_bytes(saved.read_bytes())
    message = refuse("evaluate-steering", "--load", "v.safetensors")
    assert "judge" in message and "or --load" not in message
    files = ("--load", "v.safetensors", "--load", "a/v.safetensors")
    assert "two files" in refuse("evaluate-steering", "--attribute", "sentiment=positive", *files)


def test_a_dose_that_is_not_reached_is_a_dash(run):
    result = run(
        "evaluate-steering", "--attribute", "tense=past", "--operation", "project-out", "--controls", "none",
        "--n", 8, "--n-extract", 16, "--dose", 3, "--no-progress", "--no-off-target",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "not reached" in result.stdout and "nan" not in result.stdout
