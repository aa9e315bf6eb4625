"""Plans of a search and of a sweep: what they say, and what they refuse before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp.circuits.choose import count_edges
from interp.circuits.gradients import EDGE_METHODS
from interp.circuits.plan import METHODS, Cut, SearchPlan, SweepPlan, TaskPlan, as_folder, options_for
from interp.errors import CircuitError, DataFileError, MetricError, TaskError


def test_methods_are_those_of_score_edges_and_acdc() -> None:
    assert (*EDGE_METHODS, "acdc") == METHODS
    assert SearchPlan(method="relevance-edges") == SearchPlan(method="relevance")
    assert SearchPlan(method="exact-edges").method == "exact"
    assert [SearchPlan(method=name).is_estimate for name in ("exact", "acdc", "eap", "atp*")] == [0, 0, 1, 1]


def test_circuits_come_in_the_order_they_are_named() -> None:
    plan = SearchPlan(edges=(0.05, 50, 0.007), threshold=(0.1,))
    assert [cut.label for cut in plan.cuts] == ["5%", "50 edges", "0.7%", "threshold 0.1"]
    assert [cut.slug for cut in plan.cuts] == ["5pct", "50-edges", "0.7pct", "threshold-0.1"]
    assert [cut.label for cut in SearchPlan().cuts] == ["1%", "2%", "5%"]
    assert [cut.label for cut in SearchPlan(threshold=(0.1,)).cuts] == ["threshold 0.1"]
    assert [cut.label for cut in SearchPlan(method="acdc").cuts] == ["tau 0.01"]
    assert Cut("edges", 1).label == "1 edge" and Cut("edges", 1.0).label == "100%"


@given(st.integers(1, 10_000), st.integers(1, 5))
def test_labels_of_shares_say_the_share(percent: int, digits: int) -> None:
    share = float(f"{percent}e-{digits + 2}")
    if share <= 1:
        label = Cut("edges", share).label
        assert float(label.removesuffix("%")) / 100 == pytest.approx(share, rel=1e-9)
        assert count_edges(share, 10**6) == max(1, round(share * 10**6))


def test_the_question_is_what_changes_numbers() -> None:
    asked = SearchPlan().question()
    free: dict[str, Any] = dict(
        verify="none", faithfulness=False, curve=False, memory=3, min_faithfulness=None
    )
    assert SearchPlan(**free).question() == asked
    # the shares that stand for nothing named are the same question
    assert SearchPlan(edges=(0.01, 0.02, 0.05)).question() == asked
    changes: list[dict[str, Any]] = [
        dict(method="eap"),
        dict(edges=(0.01,)),
        dict(threshold=(0.01,)),
        dict(how="greedy"),
        dict(signed=True),
        dict(positions=("S1",)),
        dict(neurons=("m0.n1",)),
        dict(direction="denoise"),
        dict(ablation="mean"),
        dict(metric="kl"),
        dict(seed=1),
        dict(backend="hooked"),
        dict(verify_top=1),
        dict(verify_sample=1),
        dict(random=1),
    ]
    questions = [asked, *(SearchPlan(**change).question() for change in changes)]
    assert all(a != b for i, a in enumerate(questions) for b in questions[:i])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="relevence"), "did you mean 'relevance'"),
        (dict(edges=(0,)), "from 1 on"),
        (dict(edges=(1.5,)), "share of all edges"),
        (dict(edges=(-0.1,)), "share of all edges"),
        (dict(edges=(float("nan"),)), "share of all edges"),
        (dict(edges=(True,)), "share of all edges"),
        (dict(edges=(0.02, 0.02)), "asked for twice: 2%"),
        (dict(threshold=(0.0,)), "threshold is a positive share"),
        (dict(method="acdc", tau=(float("inf"),)), "tau is a positive share"),
        (dict(tau=(0.1,)), "tau belongs to method acdc"),
        (dict(method="acdc", edges=(5,)), "leave out edges"),
        (dict(method="acdc", direction="denoise"), "leave out direction"),
        (dict(method="acdc", how="greedy"), "leave out how"),
        (dict(how="gready"), "did you mean 'greedy'"),
        (dict(direction="noize"), "did you mean 'noise'"),
        (dict(ablation="means"), "did you mean 'mean'"),
        (dict(backend="hookd"), "did you mean 'hooked'"),
        (dict(verify="exactly"), "did you mean 'exact'"),
        (dict(positions=("pos", "END")), "not both"),
        (dict(neurons=("L3N5",)), "m3.n5"),
        (dict(memory=0), "memory is a whole number from 1 on"),
        (dict(random=-1), "random is a whole number from 0 on"),
        (dict(verify_top=0, verify_sample=0), "no edge would be checked"),
        (dict(min_faithfulness=0.5, faithfulness=False), "needs faithfulness"),
        (dict(min_agreement=0.5, verify="none"), "needs verify exact"),
        (dict(min_agreement=0.5, method="exact"), "is for estimates"),
        (dict(min_agreement=50.0), "a correlation"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        SearchPlan(**options)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(MetricError, match="did you mean 'logit_diff'"):
        SearchPlan(metric="logitdiff")


def test_neurons_by_layer() -> None:
    assert SearchPlan(neurons=("m3.n5", "m0.n1", "m3.n2")).neurons_by_layer() == {3: [5, 2], 0: [1]}


def test_tasks_load_as_they_do_by_hand(tmp_path: Path) -> None:
    model = interp.load_model("mix-4l")
    named = TaskPlan(name="ioi", n=3, options={"template": "ABBA"})
    by_hand = interp.tasks.load("ioi", model, 3, 7, template="ABBA")
    assert named.load(model, 7).clean.equal(by_hand.clean) and named.label == "ioi"
    assert len(TaskPlan(name="greater-than").load(model, 0)) == 32
    path = tmp_path / "my pairs.csv"
    rows = zip(by_hand.clean_text or (), by_hand.corrupted_text or (), strict=True)
    lines = [f'"{clean}","{corrupted}", Mary, John' for clean, corrupted in rows]
    path.write_text("\n".join(["clean,corrupted,answer,wrong", *lines]), encoding="utf-8")
    plan = TaskPlan(file=path, n=2)
    assert plan.label == "my-pairs" and len(plan.load(model, 0)) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(), TaskError, "one of them"),
        (dict(name="ioi", file=Path("x.csv")), TaskError, "one of them"),
        (dict(name="iio"), TaskError, "did you mean 'ioi'"),
        (dict(name="ioi", options={"tempalte": "ABBA"}), TaskError, "did you mean 'template'"),
        (dict(name="ioi", n=0), TaskError, "from 1 on"),
        (dict(name="ioi", label="../up"), TaskError, "a label names a folder"),
        (dict(file=Path("nowhere.csv")), DataFileError, "no file at 'nowhere.csv'"),
    ],
)
def test_tasks_that_cannot_be_are_refused(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        TaskPlan(**options)


def test_a_sweep_is_the_product() -> None:
    tasks = (TaskPlan(name="ioi"), TaskPlan(name="ioi", options={"template": "ABBA"}, label="abba"))
    plan = SweepPlan(
        ("mix-4l",), tasks, ("exact-edges", "acdc", "atp*"), {"edges": (5,), "tau": (0.1,), "seed": 3}
    )
    found = list(plan.searches())
    assert [search.folder for search in found] == [
        *("ioi/exact", "ioi/acdc", "ioi/atp-star", "abba/exact", "abba/acdc", "abba/atp-star")
    ]
    assert {search.plan.seed for search in found} == {3}
    assert [[cut.label for cut in search.plan.cuts] for search in found[:3]] == [
        ["5 edges"],
        ["tau 0.1"],
        ["5 edges"],
    ]
    both = SweepPlan(("mix-4l", "org/other"), tasks[:1], ("eap",))
    assert [search.folder for search in both.searches()] == ["mix-4l/ioi/eap", "org-other/ioi/eap"]


IOI = (TaskPlan(name="ioi"),)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((("m",), (), ("eap",)), "at least one task"),
        ((("m",), IOI, ()), "at least one method"),
        (((), IOI, ("eap",)), "at least one model"),
        ((("m",), IOI * 2, ("eap",)), "two tasks of the sweep are called 'ioi'; give each a label"),
        ((("m",), IOI, ("relevance", "relevance-edges")), "two methods of the sweep are called 'relevance'"),
        ((("a/b", "a-b"), IOI, ("eap",)), "two models"),
        ((("m",), IOI, ("eap",), {"tau": (0.1,)}), "tau is for none of the methods eap"),
        ((("m",), IOI, ("acdc",), {"edges": (3,)}), "edges is for none of the methods"),
        ((("m",), IOI, ("acdc", "exact"), {"min_agreement": 0.5}), "min_agreement is for none"),
        ((("m",), IOI, ("eap",), {"edges": (0,)}), "from 1 on"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(parts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        SweepPlan(*parts)


def test_options_of_a_method() -> None:
    shared = {"edges": (1,), "how": "greedy", "tau": (0.1,), "min_agreement": 0.5, "n": 1}
    assert options_for("acdc", shared) == {"tau": (0.1,), "n": 1}
    assert options_for("exact", shared) == {"edges": (1,), "how": "greedy", "n": 1}
    assert options_for("eap", shared) == {"edges": (1,), "how": "greedy", "min_agreement": 0.5, "n": 1}


@given(st.text(min_size=1))
def test_folders_are_one_plain_name(name: str) -> None:
    folder = as_folder(name)
    assert folder and "/" not in folder and folder[0] not in ".-" and as_folder(folder) == folder
