"""Estimates from the shell: ``interp patch --method``, ``compare-methods``, ``attribute-tokens``."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from page_reader import PageReader

import interp
from interp import tasks
from interp.results import MethodComparison


@pytest.fixture
def loaded(pairs):
    model = interp.load_model("micro")
    return model, tasks.from_file(model, pairs)


def _micro(run, pairs, command, *more):
    return run(command, "--model", "micro", "--task-file", pairs, "--no-progress", *more)


def test_an_estimate_is_checked_unless_told_not_to(run, pairs, tmp_path, loaded):
    expected = interp.patch(*loaded, ["z", "mlp_out"], method="attribution*", progress=False)
    more = ("--method", "attribution*", "--sites", "z,mlp_out", "--verify-top", 3, "--verify-sample", 2)
    result = _micro(
        run, pairs, "patch", *more, "--json", "j.json", "--out", "r.html", "--scores", "s.safetensors"
    )
    assert result.exit_code == 0, result.output
    assert "against exact patching: Pearson" in " ".join(result.stdout.split())
    document = json.loads((tmp_path / "j.json").read_text())
    assert document["provenance"]["method"] == "attribution*"
    assert document["sites"]["z"]["recovered"] == expected["z"].values.tolist()
    agreement = expected.verify(3, 2, progress=False)
    assert document["check"]["pearson"]["value"] == pytest.approx(agreement.pearson.value, nan_ok=True)
    assert [row["name"] for row in document["check"]["rows"]] == list(agreement.names)
    page = PageReader(tmp_path / "r.html")
    assert len(page.figures) == 2
    # read back, the scores no longer know their model: the function does
    saved = interp.PatchScores.load(tmp_path / "s.safetensors")
    with pytest.raises(interp.PatchError, match="verify_scores"):
        saved.verify()
    again = interp.verify_scores(*loaded, saved, top=3, sample=2, progress=False)
    assert again.names == agreement.names
    plain = _micro(run, pairs, "patch", "--method", "relevance", "--no-verify")
    assert plain.exit_code == 0 and "not checked against exact patching" in " ".join(plain.stdout.split())


@pytest.mark.parametrize(
    "more, complaint",
    [
        (("--method", "relevence"), "did you mean 'relevance'"),
        (("--method", "ig", "--backend", "hooked"), "says how exact patching runs"),
        (("--method", "ig", "--receivers", "q[1.0]"), "--receivers"),
        (("--method", "attribution", "--metric", "accuracy"), "has no gradient"),
        (("--method", "attribution", "--verify-top", 0, "--verify-sample", 0), "at least one site"),
    ],
)
def test_what_does_not_go_together(run, pairs, more, complaint):
    result = _micro(run, pairs, "patch", *more)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_compare_methods(run, pairs, tmp_path):
    more = (
        "--sites",
        "z,mlp_out",
        "--methods",
        "attribution, relevance",
        "--out",
        "c.html",
        "--out",
        "c.csv",
    )
    result = _micro(run, pairs, "compare-methods", *more, "--out", "c.json", "--out", "c.safetensors")
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "c.csv")
    assert frame["method"].tolist() == ["attribution", "attribution", "relevance", "relevance"]
    document = json.loads((tmp_path / "c.json").read_text())
    assert [cost["method"] for cost in document["costs"]] == ["exact", "attribution", "relevance"]
    assert all(cost["peak_bytes"] > 0 for cost in document["costs"])
    assert MethodComparison.load(tmp_path / "c.safetensors").methods == ("attribution", "relevance")
    assert PageReader(tmp_path / "c.html").figures
    refused = _micro(run, pairs, "compare-methods", "--methods", "exact")
    assert refused.exit_code == 2 and "not 'exact'" in " ".join(refused.output.split())


def test_attribute_tokens(run, pairs, tmp_path, loaded):
    more = ("--against", "source", "--out", "t.html", "--out", "t.csv", "--out", "t.json")
    result = _micro(run, pairs, "attribute-tokens", *more)
    assert result.exit_code == 0, result.output
    assert "damage of the first minus the last tokens" in " ".join(result.stdout.split())
    expected = interp.attribute_tokens(*loaded, against="source", progress=False)
    frame = pd.read_csv(tmp_path / "t.csv")
    assert frame["value"].tolist() == pytest.approx(expected.to_frame()["value"].tolist(), abs=1e-6)
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["run"] == "clean" and document["check"]["rows"]
    assert "flip" in (tmp_path / "t.html").read_text()
    refused = _micro(run, pairs, "attribute-tokens", "--run", "cleen")
    assert refused.exit_code == 2 and "did you mean 'clean'" in " ".join(refused.output.split())
