"""``interp patch``: its numbers are those of ``interp.patch``, in every kind of file."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from page_reader import PageReader

import interp
from interp import tasks


@pytest.fixture
def expected(pairs):
    model = interp.load_model("micro")
    return interp.patch(model, tasks.from_file(model, pairs), ["z", "resid_pre"], progress=False)


def _patch(run, pairs, *more):
    return run("patch", "--model", "micro", "--task-file", pairs, "--no-progress", *more)


def test_every_kind_of_file_holds_the_same_scores(run, pairs, tmp_path, expected):
    # the kind is the ending's, whichever option names the file
    more = ["--out", "r.html", "--out", "new/t.csv", "--json", "j.json", "--parquet", "p.parquet"]
    result = _patch(run, pairs, *more, "--scores", "s.safetensors")
    assert result.exit_code == 0, result.output
    saved = interp.PatchScores.load(tmp_path / "s.safetensors")
    for site in expected:
        assert saved[site].raw.tolist() == expected[site].raw.tolist()
    frame = expected.to_frame()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), frame)
    csv = pd.read_csv(tmp_path / "new" / "t.csv")
    assert csv["value"].tolist() == pytest.approx(frame["value"].tolist())
    document = json.loads((tmp_path / "j.json").read_text())
    assert document["sites"]["z"]["recovered"] == expected["z"].values.tolist()
    assert document["top"][0]["name"] == expected.top(1)[0].name
    assert document["provenance"]["task"] == "pairs"
    page = PageReader(tmp_path / "r.html")
    assert expected.top(1)[0].name in page.cells
    assert len(page.figures) == 1


def test_the_planted_head_leads_the_table(run, pairs):
    lines = _patch(run, pairs, "--sites", "z", "--top", "2").stdout.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("L")]
    assert {row[0] for row in rows} == {"L0H1", "L1H0"}
    assert all(float(row[1]) == pytest.approx(1, abs=0.01) for row in rows)


def test_options_reach_patch(run, pairs, tmp_path):
    more = ["--direction", "noise", "--ablation", "zero", "--metric", "prob_diff", "--n", 1]
    assert _patch(run, pairs, *more, "--sites", "z[0.1,1.0], mlp_out@END", "--json", "j.json").exit_code == 0
    document = json.loads((tmp_path / "j.json").read_text())
    made = document["provenance"]
    found = [made[key] for key in ("direction", "ablation", "metric", "n_prompts")]
    assert found == ["noise", "zero", "prob_diff", 1]
    assert list(document["sites"]) == ["z[0.1]", "z[1.0]", "mlp_out@END"]


def test_undefined_scores_are_null_in_json(run, tmp_path):
    row = "flip : dan hot bob cold ask bob ="
    (tmp_path / "same.csv").write_text(f"clean,corrupted,answer,wrong\n{row},{row}, yes, no\n")
    result = _patch(run, tmp_path / "same.csv", "--sites", "z", "--json", "j.json", "--out", "r.html")
    assert result.exit_code == 0, result.output
    assert "undefined" in result.stdout
    assert json.loads((tmp_path / "j.json").read_text())["sites"]["z"]["recovered"][0][0] is None


def test_a_named_task_takes_its_options(run, tmp_path):
    result = run(
        *("patch", "--task", "ioi", "--option", "template=ABBA", "--n", 2, "--sites", "z[1]", "--seed", 5),
        *("--no-progress", "--scores", "s.safetensors"),
    )
    assert result.exit_code == 0, result.output
    model = interp.load_model("mix-4l")
    task = tasks.load("ioi", model, 2, 5, template="ABBA")
    expected = interp.patch(model, task, "z[1]", seed=5, progress=False)
    saved = interp.PatchScores.load(tmp_path / "s.safetensors")
    assert saved["z"].raw.tolist() == pytest.approx(expected["z"].raw.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sites", "resid_pree"], "did you mean 'resid_pre'"),
        (["--sites", "z,,q"], "sites are written like"),
        (["--direction", "denoised"], "did you mean 'denoise'"),
        (["--ablation", "means"], "did you mean 'mean'"),
        (["--metric", "logitdiff"], "did you mean 'logit_diff'"),
        (["--task", "iio"], "did you mean 'ioi'"),
        (["--task", "ioi", "--option", "template"], "key=value"),
        (["--task", "ioi", "--option", "splitt=train"], "did you mean 'split'"),
        (["--option", "split=all", "--option", "split=train"], "given twice"),
        (["--task", "ioi", "--task-file", "x.csv"], "not both"),
        (["--task-file", "nowhere.csv"], "no file at 'nowhere.csv'"),
        (["--device", "gpu9"], "device 'gpu9' cannot be used"),
        (["--device", "meta"], "holds no numbers"),
        (["--out", "scores.pkl"], "unknown ending '.pkl'"),
        (["--json", "scores.csv"], "--json writes a file that ends in .json"),
        (["--out", "a.json", "--json", "a.json"], "named twice"),
        (["--out", "/dev/null/report.html"], "is a file, not a folder"),
    ],
)
def test_bad_input_is_one_message(refuse, arguments, message):
    assert message in refuse("patch", "--no-progress", *arguments)


def test_bad_rows_name_their_line(refuse, tmp_path):
    (tmp_path / "bad.csv").write_text("clean,corrupted,answer,wrong\nplain : ann,plain : ann cold, yes, no\n")
    message = refuse("patch", "--model", "micro", "--task-file", tmp_path / "bad.csv")
    assert "line 2" in message


def test_a_folder_that_is_no_model_is_refused(refuse, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in refuse("patch", "--model", "empty")


def test_an_output_is_refused_before_the_model_is_loaded(refuse, monkeypatch):
    monkeypatch.setattr("interp.cli.inputs.load_quietly", lambda *_, **__: pytest.fail("a model was loaded"))
    refuse("patch", "--out", "/dev/null/report.html")


def test_the_backend_and_the_memory_change_no_number(run, pairs, tmp_path, expected):
    more = ["--backend", "hooked", "--memory", 1, "--json", "j.json"]
    assert _patch(run, pairs, *more).exit_code == 0
    document = json.loads((tmp_path / "j.json").read_text())
    assert document["provenance"]["backend"] == "hooked"
    for site in expected:
        values = [x for row in document["sites"][site]["raw"] for x in row]
        assert values == pytest.approx(expected[site].raw.flatten().tolist(), abs=1e-5)
    refused = _patch(run, pairs, "--backend", "hookd")
    assert refused.exit_code == 2 and "did you mean 'hooked'" in refused.output


def test_receivers_make_it_path_patching(run, pairs, tmp_path):
    more = [
        "--sites",
        "z[0]",
        "--receivers",
        "q[1.0]@END, k[1.0]",
        "--mlps",
        "recomputed",
        "--json",
        "j.json",
    ]
    assert _patch(run, pairs, *more).exit_code == 0
    document = json.loads((tmp_path / "j.json").read_text())
    model = interp.load_model("micro")
    expected = interp.patch_paths(
        model,
        tasks.from_file(model, pairs),
        "z[0]",
        ["q[1.0]@END", "k[1.0]"],
        mlps="recomputed",
        progress=False,
    )
    assert document["sites"]["z[0]"]["raw"] == expected["z[0]"].raw.tolist()
    assert document["provenance"]["method"] == "path"
    assert any("q[1.0]@END" in note for note in document["provenance"]["notes"])
