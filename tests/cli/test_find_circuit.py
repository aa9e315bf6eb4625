"""``interp find-circuit``: the numbers of Python, exit statuses for scripts, sweeps, and going on after a kill."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page_reader import PageReader

import interp
from interp import tasks
from interp.circuits import measure_faithfulness, score
from interp.results import Circuit, EdgeScores, Faithfulness

QUICK = ("--no-progress", "--random", 2, "--verify-top", 5, "--verify-sample", 5)


@pytest.fixture
def loaded(pairs):
    model = interp.load_model("micro")
    return model, tasks.from_file(model, pairs)


@pytest.fixture
def find(run, pairs):
    def find(*more: object) -> Any:
        return run("find-circuit", "--model", "micro", "--task-file", pairs, *QUICK, *more)

    return find


def said(result: Any) -> str:
    """All that was printed, on one line."""
    return " ".join(result.output.split())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but how long it took."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "times.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_same_numbers_as_from_python(find, tmp_path, loaded):
    more = ("--method", "relevance-edges", "--edges", "20%,60", "--verify", "exact")
    result = find(*more, "--how", "greedy", "--min-agreement", -1, "--out", "found")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    scores = interp.score_edges(*loaded, method="relevance", progress=False)
    circuits = [interp.choose_circuit(scores, edges, how="greedy") for edges in (0.2, 60)]
    by_hand = measure_faithfulness(*loaded, circuits, n_random=2, progress=False)
    curve = measure_faithfulness(*loaded, scores, how="greedy", n_random=2, progress=False)
    check = scores.verify(top=5, sample=5, progress=False)
    assert EdgeScores.load(tmp_path / "found" / "scores.safetensors").effects.equal(scores.effects)
    rows = summary["circuits"]
    assert [row["edges"] for row in rows] == [circuit.n_edges for circuit in circuits]
    assert [row["faithfulness"] for row in rows] == by_hand.values[0].tolist()
    assert [row["low"] for row in rows] == by_hand.low[0].tolist()
    assert summary["curve"]["faithfulness"] == curve.values[0].tolist()
    assert summary["curve"]["cpr"]["value"] == curve.cpr[0].value
    assert summary["agreement"]["spearman"]["value"] == check.spearman.value
    assert [edge["name"] for edge in summary["top_edges"]] == [edge.name for edge in scores.top(20)]
    assert summary["provenance"]["task"] == "pairs" and summary["plan"]["method"] == "relevance"
    for row, circuit in zip(rows, circuits, strict=True):
        assert Circuit.read_json(tmp_path / "found" / row["file"]).edges == circuit.edges
    # the terminal shows what the summary holds
    text = said(result)
    assert f"{by_hand.values[0, 1]:z.2f} [{by_hand.low[0, 1]:z.2f}, {by_hand.high[0, 1]:z.2f}]" in text
    assert curve.summary().splitlines()[0] in text and check.summary() in text
    assert scores.top(1)[0].name in text
    assert "check: Pearson's r" in text
    page = PageReader(tmp_path / "found" / "report.html")
    assert len(page.figures) == 5 and scores.top(1)[0].name in page.cells


def test_exit_status_of_a_bound_that_does_not_hold(find, tmp_path):
    more = ("--method", "eap", "--edges", "90%", "--no-curve", "--out", "found")
    good = find(*more, "--min-faithfulness", 0.5)
    assert good.exit_code == 0, good.output
    before = contents(tmp_path / "found")
    bad = find(*more, "--min-faithfulness", 1.5)
    assert bad.exit_code == 3 and "is not >= 1.5" in said(bad)
    assert "read back, finished before: scores, verify, faithfulness" in said(bad)
    assert json.loads((tmp_path / "found" / "summary.json").read_text())["passed"] is False
    assert find(*more, "--min-faithfulness", 0.5).exit_code == 0
    assert contents(tmp_path / "found") == before
    value = json.loads(before["summary.json"])["agreement"]["pearson"]["value"]
    assert find(*more, "--min-agreement", value - 1e-6).exit_code == 0
    strict = find(*more, "--min-agreement", value + 1e-6, "--min-faithfulness", 0.5)
    assert strict.exit_code == 3 and "Pearson's r with exact patching" in said(strict)


def test_circuits_without_edges_and_searches_without_tests(find, tmp_path):
    result = find("--edges", "1", "--no-faithfulness", "--verify", "none", "--out", "found")
    assert result.exit_code == 0, result.output
    for part in ("no edges left in the circuit of 1 edge", "not checked against exact", "no circuit was run"):
        assert part in said(result)
    assert "None of them has an edge." in (tmp_path / "found" / "report.html").read_text()
    exact = find("--method", "exact-edges", "--threshold", 0.1, "--no-curve", "--out", "exact")
    assert exact.exit_code == 0 and "no estimate to check" in said(exact)
    assert "threshold 0.1" in said(exact)


def test_another_search_in_the_folder_is_refused_and_restart_clears_it(find, tmp_path):
    quick = ("--no-faithfulness", "--verify", "none", "--out", "found")
    assert find("--edges", "30%", *quick).exit_code == 0
    (tmp_path / "found" / "notes.txt").write_text("mine")
    refused = find("--edges", "20%", *quick)
    assert refused.exit_code == 2 and "it differs in circuits" in said(refused)
    assert (tmp_path / "found" / "circuit-30pct.json").exists()
    assert find("--edges", "20%", "--restart", *quick).exit_code == 0
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"circuit-20pct.json", "notes.txt"} < names and "circuit-30pct.json" not in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "relevence"], "did you mean 'relevance'"),
        (["--edges", "few"], "written like 1%,2%"),
        (["--edges", "200%"], "share of all edges"),
        (["--edges", "1%,0.01"], "asked for twice: 1%"),
        (["--tau", "0.1"], "tau belongs to method acdc"),
        (["--method", "acdc", "--edges", "5"], "leave out edges"),
        (["--how", "gready"], "did you mean 'greedy'"),
        (["--verify", "exactly"], "did you mean 'exact'"),
        (["--min-faithfulness", 0.5, "--no-faithfulness"], "needs faithfulness"),
        (["--neurons", "L3N5"], "m3.n5"),
        (["--metric", "logitdiff"], "did you mean 'logit_diff'"),
        (["--task", "iio"], "did you mean 'ioi'"),
        (["--task", "ioi", "--option", "splitt=train"], "did you mean 'split'"),
        (["--task", "ioi", "--task-file", "x.csv"], "one of them"),
        (["--task-file", "nowhere.csv"], "no file at 'nowhere.csv'"),
        (["--device", "gpu9"], "device 'gpu9' cannot be used"),
        (["--out", "/dev/null/found"], "is a file, not a folder"),
        (["--config", "none.toml"], "no file at 'none.toml'"),
        (["--config", "none.toml", "--edges", "1%"], "--edges does not go with it"),
        (["--config", "none.toml", "--min-faithfulness", 1], "--min-faithfulness does not go"),
        (["--config", "none.toml", "--top", 3], "--top does not go"),
    ],
)
def test_bad_input_is_one_message_before_a_model_is_loaded(refuse, monkeypatch, arguments, message):
    monkeypatch.setattr("interp.cli.inputs.load_quietly", lambda *_, **__: pytest.fail("a model was loaded"))
    assert message in " ".join(refuse("find-circuit", "--no-progress", "--out", "found", *arguments).split())


def test_out_is_asked_for_and_help_names_the_statuses(run):
    assert run("find-circuit").exit_code == 2
    text = said(run("find-circuit", "--help"))
    for part in ("0 done", "1 some searches", "2 an error", "3 a --min", "130 interrupted"):
        assert part in text


SWEEP = """
model: micro
methods: [eap, exact]
edges: 30%
random: 0
curve: false
verify-top: 5
verify-sample: 5
min-faithfulness: -5
tasks:
- file: pairs.csv
- {file: bad.csv, label: bad}
"""


def test_a_sweep_goes_on_past_a_failure(run, pairs, tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "bad.csv").write_text("clean,corrupted,answer,wrong\nplain : ann,plain : ann cold, yes, no\n")
    result = run("find-circuit", "--config", "sweep.yaml", "--out", "found", "--no-progress")
    assert result.exit_code == 1, result.output
    assert "[2/4] micro · pairs · exact: done" in said(result) and "[3/4] micro · bad · eap: " in said(result)
    frame = pd.read_csv(tmp_path / "found" / "summary.csv")
    assert frame["method"].tolist() == ["eap", "exact"] * 2
    assert frame["status"].tolist() == ["done"] * 2 + ["failed"] * 2
    assert frame["error"].str.contains("line 2").tolist() == [False] * 2 + [True] * 2
    document = json.loads((tmp_path / "found" / "summary.json").read_text())
    alone = json.loads((tmp_path / "found" / "pairs" / "exact" / "summary.json").read_text())
    assert document["searches"][1]["search"] == alone
    assert frame["faithfulness"][1] == pytest.approx(alone["circuits"][0]["faithfulness"])
    index = (tmp_path / "found" / "index.html").read_text()
    for method in ("eap", "exact"):
        assert f'href="pairs/{method}/report.html"' in index
        assert (tmp_path / "found" / "pairs" / method / "report.html").exists()
    # mended, the same command does what is left
    (tmp_path / "bad.csv").write_text(pairs.read_text())
    before = contents(tmp_path / "found" / "pairs")
    again = run("find-circuit", "--config", "sweep.yaml", "--out", "found", "--no-progress")
    assert again.exit_code == 0, again.output
    assert contents(tmp_path / "found" / "pairs") == before
    strict = SWEEP.replace("-5", "7")
    (tmp_path / "sweep.yaml").write_text(strict)
    failed = run("find-circuit", "--config", "sweep.yaml", "--out", "found", "--no-progress")
    assert failed.exit_code == 3 and "pairs/eap: faithfulness of the largest circuit (30%)" in said(failed)


def test_a_sweep_writes_over_nothing_that_is_not_its_own(find, run, tmp_path):
    assert find("--edges", "30%", "--no-faithfulness", "--verify", "none", "--out", "found").exit_code == 0
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("bad.csv", "pairs.csv"))
    before = contents(tmp_path / "found")
    refused = run("find-circuit", "--config", "sweep.yaml", "--out", "found", "--no-progress")
    assert refused.exit_code == 2 and "which no sweep left there" in said(refused)
    assert contents(tmp_path / "found") == before


def test_curves_of_a_sweep_stand_in_one_figure(run, pairs, tmp_path):
    text = "models = 'micro'\nmethods = 'eap,relevance'\nverify = 'none'\nrandom = 1\ntask = [{file = 'pairs.csv'}]"
    (tmp_path / "sweep.toml").write_text(text)
    result = run("find-circuit", "--config", "sweep.toml", "--out", "found", "--no-progress")
    assert result.exit_code == 0, result.output
    page = PageReader(tmp_path / "found" / "index.html")
    assert len(page.figures) == 1
    text = (tmp_path / "found" / "index.html").read_text()
    for name in ("eap", "relevance"):
        curve = Faithfulness.load(tmp_path / "found" / "pairs" / name / "curve.safetensors")
        assert curve.describe_areas(name).split(",")[0] in text


CODE = "from interp.circuits import score\nscore._RUNS_A_PART = 8\nfrom interp.cli import main\nmain()\n"


def test_killed_and_interrupted_it_goes_on(find, run, pairs, tmp_path, monkeypatch):
    """Real signals at random moments of exact scoring, then to the end; nothing differs from an undisturbed run."""
    options = ("--method", "exact", "--edges", "30%", "--no-faithfulness")
    asked = ("find-circuit", "--model", "micro", "--task-file", pairs, *QUICK, *options, "--out", "killed")
    command = [sys.executable, "-c", CODE, *map(str, asked)]
    draw, parts = random.Random(5), 0
    for number in (signal.SIGKILL, signal.SIGINT):
        wanted = parts + draw.randint(1, 8)
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and parts < wanted:
            time.sleep(0.001)
            parts = len(list((tmp_path / "killed").glob("parts/edges-*")))
        process.send_signal(number)
        _, errors = process.communicate()
        assert not (tmp_path / "killed" / "scores.safetensors").exists()
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130 and "the same command goes on" in errors.decode()
    monkeypatch.setattr(score, "_RUNS_A_PART", 8)
    assert find(*options, "--out", "killed").exit_code == 0
    assert find(*options, "--out", "usual").exit_code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "usual")
