"""A search in a folder: the numbers of the functions it calls, and the same files however often it was stopped."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from random_tasks import random_task
from tiny_models import make_hf_model

import interp
from interp.circuits import measure_faithfulness, score
from interp.circuits.plan import SearchPlan
from interp.circuits.search import CircuitSearch, search_circuits
from interp.errors import CircuitError
from interp.models.bundled.planted import planted_task
from interp.results import Circuit, EdgeScores, Faithfulness, MethodAgreement


class Killed(BaseException):
    """A process that ends here and now."""


@pytest.fixture(scope="module")
def micro() -> tuple[Any, Any]:
    return interp.load_model("micro"), planted_task("micro", 4, 0)


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    """One layer, for ACDC runs its circuits one reader after another."""
    model = interp.load_model(make_hf_model("gpt2", n_layers=1, n_heads=2))
    return model, random_task([4, 4], "right", [1, 2], seed=3)


def _search(setting: tuple[Any, Any], folder: Path, restart: bool = False, **options: Any) -> CircuitSearch:
    quick = {"random": 0, "curve": False, "verify_top": 3, "verify_sample": 2}
    plan = SearchPlan(**quick | options)
    return search_circuits(*setting, plan, folder=folder, restart=restart, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but how long it took."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "times.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_numbers_are_those_of_the_functions(micro: tuple[Any, Any], tmp_path: Path) -> None:
    model, task = micro
    asked: dict[str, Any] = dict(edges=(0.1, 30), threshold=(0.2,), how="greedy", random=2, curve=True)
    found = _search(micro, tmp_path, method="relevance", **asked)
    scores = interp.score_edges(model, task, method="relevance", progress=False)
    assert found.scores is not None and found.scores.effects.equal(scores.effects)
    wanted = [dict(edges=0.1), dict(edges=30), dict(threshold=0.2)]
    circuits = [interp.choose_circuit(scores, **how, how="greedy") for how in wanted]
    assert [c.edges for c in found.circuits] == [c.edges for c in circuits]
    assert [c.how for c in found.circuits] == [c.how for c in circuits]

    by_hand = measure_faithfulness(model, task, circuits, n_random=2, progress=False)
    assert found.faithfulness is not None and found.faithfulness.values.equal(by_hand.values)
    assert found.faithfulness.low.equal(by_hand.low)
    curve = measure_faithfulness(model, task, scores, how="greedy", n_random=2, progress=False)
    assert found.curve is not None and found.curve.values.equal(curve.values)
    assert found.curve.n_edges.equal(curve.n_edges)
    assert found.curve.cpr == curve.cpr and found.curve.cmd == curve.cmd
    check = scores.verify(top=3, sample=2, progress=False)
    assert found.agreement is not None and found.agreement.names == check.names
    assert found.agreement.exact.equal(check.exact) and found.agreement.pearson == check.pearson

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == found.summary()
    rows = {row["asked"]: row for row in summary["circuits"]}
    assert list(rows) == ["10%", "30 edges", "threshold 0.2"]
    for row, circuit in zip(rows.values(), circuits, strict=True):
        assert (row["edges"], row["nodes"]) == (circuit.n_edges, len(circuit.nodes))
        assert row["share"] == circuit.n_edges / scores.graph.n_edges
        alone = measure_faithfulness(model, task, [circuit], n_random=0, progress=False)
        assert row["faithfulness"] == pytest.approx(float(alone.values[0, 0]), abs=1e-6)
        assert row["metric"] == pytest.approx(float(alone.per_prompt[0, 0].mean()), abs=1e-5)
        assert row["heads"] == [f"L{layer}H{head}" for layer, head in circuit.heads]
    assert summary["clean"] == scores.clean and summary["corrupted"] == scores.corrupted
    assert summary["top_edges"][0]["name"] == scores.top(1)[0].name
    assert summary["curve"]["cpr"]["value"] == curve.cpr[0].value
    assert summary["agreement"]["pearson"]["value"] == check.pearson.value
    assert summary["provenance"]["seconds"] is None
    assert set(json.loads((tmp_path / "times.json").read_text())) == {
        "scores",
        "verify",
        "faithfulness",
        "curve",
    }


def test_every_option_reaches_what_it_is_for(micro: tuple[Any, Any], tmp_path: Path) -> None:
    model, task = micro
    options: dict[str, Any] = dict(
        ablation="resample", metric="prob_diff", seed=3, backend="wavefront", direction="denoise"
    )
    found = _search(
        micro,
        tmp_path,
        method="eap",
        edges=(0.4,),
        signed=True,
        curve=True,
        random=2,
        positions=("END",),
        **options,
    )
    graph = interp.build_graph(model, task, positions=["END"])
    scores = interp.score_edges(model, task, graph, method="eap", progress=False, **options)
    assert found.scores.effects.equal(scores.effects)
    assert replace(found.scores.provenance, seconds=0) == replace(scores.provenance, seconds=0)
    check = scores.verify(top=3, sample=2, seed=3, progress=False)
    assert found.agreement.exact.equal(check.exact) and found.agreement.names == check.names
    assert found.agreement.provenance.backend_reason == "asked for"
    run: dict[str, Any] = {name: options[name] for name in ("ablation", "metric", "seed", "backend")}
    curve = measure_faithfulness(model, task, scores, signed=True, n_random=2, progress=False, **run)
    circuit = interp.choose_circuit(scores, 0.4, signed=True)
    alone = measure_faithfulness(model, task, [circuit], n_random=2, progress=False, **run)
    for kept, by_hand in ((found.curve, curve), (found.faithfulness, alone)):
        assert kept.n_edges.equal(by_hand.n_edges) and kept.values.equal(by_hand.values)
        assert kept.low.equal(by_hand.low)
        for ours, theirs in zip(kept.nulls, by_hand.nulls, strict=True):
            assert ours.n_edges.equal(theirs.n_edges) and ours.metric.equal(theirs.metric)


def test_every_file_can_be_read(micro: tuple[Any, Any], tmp_path: Path) -> None:
    found = _search(micro, tmp_path, method="eap", edges=(0.3,), positions=("pos",), curve=True)
    assert found.graph.n_positions == micro[1].clean.shape[1]
    assert EdgeScores.load(tmp_path / "scores.safetensors").effects.equal(found.scores.effects)
    assert MethodAgreement.load(tmp_path / "verify.safetensors").names == found.agreement.names
    for name, record in (("faithfulness", found.faithfulness), ("curve", found.curve)):
        kept = Faithfulness.load(tmp_path / f"{name}.safetensors")
        assert kept.per_prompt.equal(record.per_prompt)
        assert (tmp_path / f"{name}.csv").read_text() == kept.to_frame().to_csv(index=False)
    circuit = Circuit.read_json(tmp_path / "circuit-30pct.json")
    assert circuit.edges == found.circuits[0].edges
    assert circuit.provenance == found.circuits[0].provenance
    assert (tmp_path / "circuit-30pct.dot").read_text() == circuit.to_dot()
    tracer = json.loads((tmp_path / "circuit-30pct.tracer.json").read_text())
    assert sum(len(link["edges"]) for link in tracer["links"]) >= circuit.n_edges


def test_the_planted_circuit_is_found_and_passes_its_checks(micro: tuple[Any, Any], tmp_path: Path) -> None:
    found = _search(
        micro, tmp_path / "a", method="eap-ig", edges=(0.4, 1), how="greedy", min_faithfulness=0.9
    )
    assert found.largest == 0 and found.passed and float(found.faithfulness.values[0, -1]) > 0.9
    strict = _search(
        micro, tmp_path / "a", edges=(0.4, 1), how="greedy", min_faithfulness=2.0, min_agreement=-1.0
    )
    assert [check.passed for check in strict.checks] == [False, True] and not strict.passed
    assert "is not >= 2" in str(strict.checks[0])
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["passed"] is False


def test_what_is_not_done_is_said(micro: tuple[Any, Any], tmp_path: Path) -> None:
    exact = _search(micro, tmp_path / "exact", method="exact", edges=(0.01, 0.5))
    assert exact.agreement is None and any("not verified" in note for note in exact.notes)
    assert exact.circuits[0].n_edges == 0 and any(
        "no edges left in the circuit of 1%" in n for n in exact.notes
    )
    bare = _search(micro, tmp_path / "bare", verify="none", faithfulness=False)
    assert bare.agreement is bare.faithfulness is bare.curve is None and bare.checks == ()
    assert "faithfulness" not in bare.summary()["circuits"][0]


def test_acdc(small: tuple[Any, Any], tmp_path: Path) -> None:
    found = _search(small, tmp_path, method="acdc", tau=(0.5, 0.1), curve=True)
    assert found.scores is found.curve is found.agreement is None
    assert any("CPR" in note for note in found.notes)
    by_hand = interp.search_acdc(*small, taus=(0.5, 0.1), progress=False)
    assert [c.edges for c in found.circuits] == [c.edges for c in by_hand]
    assert found.circuits[0].n_edges < found.circuits[1].n_edges and found.largest == 1
    rows = found.summary()["circuits"]
    for row, circuit in zip(rows, by_hand, strict=True):
        alone = measure_faithfulness(*small, [circuit], n_random=0, progress=False)
        assert row["faithfulness"] == pytest.approx(float(alone.values[0, 0]), abs=1e-6)
    again = _search(small, tmp_path, method="acdc", tau=(0.5, 0.1), curve=True)
    assert again.read_back == ("acdc", "faithfulness") and again.summary() == found.summary()


def test_tests_can_be_added_and_another_question_is_refused(micro: tuple[Any, Any], tmp_path: Path) -> None:
    _search(micro, tmp_path, verify="none", faithfulness=False)
    more = _search(micro, tmp_path, verify="none")
    assert more.read_back == ("scores",) and more.faithfulness is not None
    assert _search(micro, tmp_path, curve=True).read_back == ("scores", "faithfulness")
    _search(micro, tmp_path)
    before = contents(tmp_path)
    for options, named in (
        (dict(method="eap"), "method"),
        (dict(edges=(3,)), "circuits"),
        (dict(seed=1), "seed"),
        (dict(metric="prob_diff"), "metric"),
        (dict(positions=("END",)), "graph, positions"),
    ):
        with pytest.raises(CircuitError, match=rf"another search \(it differs in {named}\)"):
            _search(micro, tmp_path, **options)
    with pytest.raises(CircuitError, match="it differs in prompts"):
        _search((micro[0], planted_task("micro", 5, 0)), tmp_path)
    # naming the task's own metric is no other question
    _search(micro, tmp_path, metric="logit_diff")
    assert contents(tmp_path) == before


def test_restart_begins_anew(micro: tuple[Any, Any], tmp_path: Path) -> None:
    _search(micro, tmp_path, edges=(0.3,))
    (tmp_path / "notes.txt").write_text("mine")
    found = _search(
        micro, tmp_path, method="eap", edges=(5,), faithfulness=False, verify="none", restart=True
    )
    assert found.read_back == ()
    circuit = {f"circuit-5-edges.{ending}" for ending in ("json", "dot", "tracer.json")}
    steps = {"search.json", "summary.json", "scores.safetensors", "notes.txt"}
    assert set(contents(tmp_path)) == circuit | steps


@pytest.mark.parametrize(
    "options",
    [
        dict(method="relevance", edges=(0.2,), random=1),
        dict(method="exact", edges=(0.2,), how="greedy"),
        dict(method="acdc", tau=(0.1,), seed=3),
    ],
    ids=lambda options: options["method"],
)
def test_killed_at_every_write_it_ends_the_same(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    """Nothing but files survives a kill, so a kill anywhere leaves what one before or after a write leaves."""
    setting = request.getfixturevalue("small" if options["method"] == "acdc" else "micro")
    monkeypatch.setattr(score, "_RUNS_A_PART", 4 * 30)
    _search(setting, tmp_path / "usual", **options)
    rename, draw = os.replace, random.Random(7)
    folder = tmp_path / "killed"

    def kill_after(n: int, whole: bool) -> None:
        left = [n]

        def replaced(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                if whole:
                    rename(source, target)
                raise Killed
            rename(source, target)

        monkeypatch.setattr(os, "replace", replaced)

    kills = 0
    while True:
        # further each time, for every run writes anew what takes no time
        kill_after(kills, draw.random() < 0.5)
        try:
            found = _search(setting, folder, **options)
            break
        except Killed:
            kills += 1
    assert kills >= 5
    assert contents(folder) == contents(tmp_path / "usual")
    assert found.read_back
