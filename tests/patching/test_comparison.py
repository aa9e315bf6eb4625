"""Methods side by side: their rows are those of each method checked on every cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.errors import PatchError
from interp.results import MethodComparison
from interp.tasks.metrics import ProbDiff


@pytest.fixture
def task():
    return random_task([6, 6, 6], "right", [2, 1, 0], seed=5)


def test_rows_are_those_of_each_method_verified(task, tmp_path):
    model = specimen("llama").model
    methods = ("attribution", "ig", interp.Relevance("relp-ah"))
    found = interp.compare_methods(
        model, task, ["z", "mlp_out"], methods, measure_memory=True, progress=False, direction="noise"
    )
    assert found.methods == ("attribution", "ig", "relevance:relp-ah")
    assert found.sites == ("z", "mlp_out")
    for site in found.sites:
        for method, label in zip(methods, found.methods, strict=True):
            scores = interp.patch(model, task, site, direction="noise", method=method, progress=False)
            agreement = scores.verify(top=None, progress=False)
            row = found.at(model.name, task.name, site, label)
            assert row.n_cells == len(agreement.names)
            assert row.pearson.value == pytest.approx(agreement.pearson.value, abs=1e-4)
            assert row.spearman.value == pytest.approx(agreement.spearman.value, abs=0.05)
    costs = {cost.method: cost for cost in found.costs}
    assert list(costs) == ["exact", *found.methods]
    assert all(cost.seconds > 0 and cost.peak_bytes > 0 for cost in found.costs)
    headings, cells = found.table()
    assert headings[2:] == [f"{site}: {label}" for site in found.sites for label in found.methods]
    assert len(cells) == 1
    found.save(tmp_path / "c.safetensors")
    loaded = MethodComparison.load(tmp_path / "c.safetensors")
    assert loaded.rows == found.rows and loaded.costs == found.costs


def test_several_models_in_one_table(task):
    cases = [(specimen(name).model, task) for name in ("gpt2", "qwen3")]
    found = interp.compare_methods(None, cases, "attn_out", ["relevance"], progress=False)
    assert len(found.rows) == 2 and all(cost.peak_bytes is None for cost in found.costs)
    assert found.provenance.metric == "logit_diff"
    cases[1] = (cases[1][0], replace(task, metric=ProbDiff()))
    found = interp.compare_methods(None, cases, "attn_out", ["relevance"], progress=False)
    assert found.provenance.metric is None


def test_one_method_may_be_given_alone(task):
    model = specimen("gpt2").model
    found = interp.compare_methods(model, task, "z", "attribution", progress=False)
    assert found.methods == ("attribution",)


def test_wrong_choices(task):
    model = specimen("gpt2").model
    with pytest.raises(PatchError, match="at least one approximate method"):
        interp.compare_methods(model, task, methods=())
    with pytest.raises(PatchError, match="exact"):
        interp.compare_methods(model, task, methods=("exact",))
    with pytest.raises(PatchError, match="pairs of a model and a task"):
        interp.compare_methods(None, task)
    with pytest.raises(PatchError, match="same name, ig"):
        interp.compare_methods(model, task, methods=("ig", interp.IntegratedGradients(steps=3)))
    with pytest.raises(PatchError, match="did you mean"):
        interp.compare_methods(model, task, methods=("relevanc",))
