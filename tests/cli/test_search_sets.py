"""``interp search-sets``: its numbers are those of ``interp.search_sets``, in every kind of file."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from page_reader import PageReader

import interp
from interp import tasks


def _search(run, pairs, *more):
    return run("search-sets", "--model", "micro", "--task-file", pairs, "--no-progress", *more)


def _expected(pairs, *arguments, **options):
    model = interp.load_model("micro")
    return interp.search_sets(model, tasks.from_file(model, pairs), *arguments, progress=False, **options)


def test_every_kind_of_file_holds_the_same_scores(run, pairs, tmp_path):
    expected = _expected(pairs)
    files = ["r.html", "new/t.csv", "j.json", "p.parquet", "s.safetensors"]
    result = _search(run, pairs, *[part for name in files for part in ("--out", name)])
    assert result.exit_code == 0, result.output
    saved = interp.SetScores.load(tmp_path / "s.safetensors")
    assert saved.raw.tolist() == expected.raw.tolist()
    frame = expected.to_frame()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), frame)
    assert pd.read_csv(tmp_path / "new" / "t.csv")["name"].tolist() == frame["name"].tolist()
    document = json.loads((tmp_path / "j.json").read_text())
    assert document["recovered"] == expected.values.tolist()
    assert document["sets"] == expected.sets.tolist()
    assert document["members"] == list(expected.members)
    assert document["top_by_interaction"][0]["name"] == expected.top(1, by="interaction")[0].name
    page = PageReader(tmp_path / "r.html")
    assert {row.name for by in ("effect", "interaction") for row in expected.top(15, by=by)} <= set(
        page.cells
    )
    assert len(page.figures) == 1
    assert page.headings[0] == "What was done" and page.headings[-1] == "Provenance"


def test_the_planted_pair_leads_the_table(run, pairs):
    expected = _expected(pairs)
    lines = _search(run, pairs, "--top", "1").stdout.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("L")]
    for row, by in zip(rows, ("effect", "interaction"), strict=True):
        top = expected.top(1, by=by)[0]
        assert " ".join(row[:3]) == top.name
        assert float(row[3]) == pytest.approx(top.value, abs=1e-3)
        assert float(row[5]) == pytest.approx(top.interaction, abs=1e-3)


def test_greedy_and_its_options(run, pairs, tmp_path):
    more = ["--site", "z,mlp_out", "--size", 3, "--how", "greedy", "--candidates", 4, "--n", 1]
    choices = [
        "--direction",
        "noise",
        "--ablation",
        "zero",
        "--metric",
        "prob_diff",
        "--out",
        "s.safetensors",
    ]
    result = _search(run, pairs, *more, *choices, "--out", "r.html", "--out", "j.json")
    assert result.exit_code == 0, result.output
    saved = interp.SetScores.load(tmp_path / "s.safetensors")
    made = saved.provenance
    found = (made.direction, made.ablation, made.metric, made.n_prompts)
    assert found == ("noise", "zero", "prob_diff", 1)
    assert len(saved.members) == 4
    assert len(saved.path) == 3
    assert f"greedy (recovered): {saved.members_at(0)[0]}" in result.stdout
    assert "Greedy search" in PageReader(tmp_path / "r.html").headings
    assert json.loads((tmp_path / "j.json").read_text())["path"] == saved.path.tolist()


def test_candidates_may_be_sites(run, pairs, tmp_path):
    result = _search(run, pairs, "--candidates", "z[0.1,1.0],mlp_out[0]", "--out", "s.safetensors")
    assert result.exit_code == 0, result.output
    assert interp.SetScores.load(tmp_path / "s.safetensors").members == ("L0H1", "mlp_out L0", "L1H0")


def test_undefined_scores_are_null_in_json(run, tmp_path):
    row = "flip : dan hot bob cold ask bob ="
    (tmp_path / "same.csv").write_text(f"clean,corrupted,answer,wrong\n{row},{row}, yes, no\n")
    result = _search(run, tmp_path / "same.csv", "--out", "j.json", "--out", "r.html")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "j.json").read_text())["recovered"][0] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--how", "greed"], "did you mean 'greedy'"),
        (["--site", "resid_pree"], "did you mean 'resid_pre'"),
        (["--candidates", "zz[0.1]"], "unknown component 'zz'"),
        (["--direction", "denoised"], "did you mean 'denoise'"),
        (["--metric", "logitdiff"], "did you mean 'logit_diff'"),
        (["--task", "ioi", "--task-file", "x.csv"], "not both"),
        (["--out", "scores.pkl"], "unknown ending '.pkl'"),
        (["--model", "micro", "--task-file", "pairs.csv", "--size", "99"], "cannot be drawn from"),
    ],
)
def test_bad_input_is_one_message(refuse, pairs, arguments, message):
    assert message in refuse("search-sets", "--no-progress", *arguments)


def test_a_set_of_one_is_a_usage_error(run):
    assert run("search-sets", "--size", 1).exit_code == 2
