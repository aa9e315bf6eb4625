"""A sweep: one model at a time, and a failure stops only the search it belongs to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import interp
from interp.circuits import sweep
from interp.circuits.plan import SweepPlan, TaskPlan
from interp.circuits.search import search_circuits
from interp.circuits.sweep import run_sweep
from interp.errors import ModelError


def _plan(tmp_path: Path, models: tuple[str, ...], **options: Any) -> SweepPlan:
    pairs = tmp_path / "pairs.csv"
    rows = (
        "clean,corrupted,answer,wrong",
        "flip : dan hot bob cold ask bob =,flip : dan hot bob cold ask dan =, yes, no",
    )
    pairs.write_text("\n".join(rows))
    tasks = (TaskPlan(file=pairs), TaskPlan(file=pairs, label="again"))
    quick = {"edges": (0.3,), "verify": "none", "curve": False, "random": 0}
    return SweepPlan(models, tasks, ("eap", "exact"), quick | options)


def test_each_search_is_the_one_made_alone(tmp_path: Path) -> None:
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        return interp.load_model(name)

    plan = _plan(tmp_path, ("micro",))
    results = list(run_sweep(plan, tmp_path / "all", progress=False, load=load))
    assert asked == ["micro"]
    assert [result.search.folder for result in results] == [
        "pairs/eap",
        "pairs/exact",
        "again/eap",
        "again/exact",
    ]
    assert {result.status for result in results} == {"done"}
    for result in results[1:3]:
        model = interp.load_model("micro")
        task = result.search.task.load(model, 0)
        alone = search_circuits(
            model, task, result.search.plan, folder=tmp_path / "alone", restart=True, progress=False
        )
        assert result.found is not None and result.found.summary() == alone.summary()
        assert result.summary()["search"] == alone.summary()
        (row,) = result.rows()
        assert row["edges"] == alone.circuits[0].n_edges and row["status"] == "done"
        assert row["faithfulness"] == float(alone.faithfulness.values[0, 0])
    again = list(run_sweep(plan, tmp_path / "all", progress=False))
    assert all(result.found.read_back == ("scores", "faithfulness") for result in again)


def test_failures_are_handed_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name == "gone":
            raise ModelError("no such model.")
        return interp.load_model(name)

    def search(model: Any, task: Any, plan: Any, **options: Any) -> Any:
        if plan.method == "exact" and options["folder"].parent.name == "again":
            raise ZeroDivisionError("a bug")
        return search_circuits(model, task, plan, **options)

    monkeypatch.setattr(sweep, "search_circuits", search)
    plan = _plan(tmp_path, ("gone", "micro"), min_faithfulness=9.0)
    results = list(run_sweep(plan, tmp_path / "all", progress=False, load=load))
    assert [result.status for result in results] == ["failed"] * 4 + ["check failed"] * 3 + ["failed"]
    assert [result.reason for result in results[:4]] == ["no such model."] * 4
    assert results[-1].reason == "ZeroDivisionError: a bug" and results[4].reason is None
    assert results[-1].summary()["search"] is None
    (row,) = results[-1].rows()
    assert row["status"] == "failed" and row["error"] == "ZeroDivisionError: a bug"
    assert results[4].search.folder == "micro/pairs/eap"


def test_an_interrupt_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "search_circuits", search)
    with pytest.raises(KeyboardInterrupt):
        list(run_sweep(_plan(tmp_path, ("micro",)), tmp_path / "all", progress=False))


def test_undefined_numbers_are_none(tmp_path: Path) -> None:
    plan = _plan(tmp_path, ("micro",))
    result = next(run_sweep(plan, tmp_path / "all", progress=False))
    # of one prompt, resampling gives no interval of its own, and nothing in a row may be NaN
    (row,) = result.rows()
    assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())
