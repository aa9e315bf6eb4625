"""Knock-outs, tests and checks of a circuit, read as data."""

from __future__ import annotations

import pytest
import torch
from toy_checks import (
    make_check,
    make_completeness,
    make_faithfulness,
    make_minimality,
    make_minimality_test,
    make_test,
)

from interp.errors import CircuitError, RecordError
from interp.results import Completeness, HypothesisTest, KnockOut


def test_incompleteness_is_how_far_circuit_and_model_are_apart():
    found = make_completeness()
    assert found.incompleteness.tolist() == pytest.approx([0.0, 0.5, 0.0, 0.5, 2.0, 0.0])
    assert found.shares.tolist() == pytest.approx([0.0, 0.25, 0.0, 0.25, 1.0, 0.0])
    assert found.worst == 4
    circuit, model = found.faithfulness()
    assert circuit.tolist() == pytest.approx([1.0, 0.5, 0.75, 0.0, 0.0, 0.5])
    assert model.tolist() == pytest.approx([1.0, 0.75, 0.75, 0.25, 1.0, 0.5])
    assert found.summary().startswith(
        "circuit and model differ by 0% of the gap with nothing knocked out, by 30% on average over 5 sets of nodes "
        "knocked out, and by 100% at most (a0.h0 + a0.h1 + "
    )
    equal = make_completeness(full=found.empty)
    assert equal.shares.isnan().all()
    assert (
        equal.summary() == "completeness is undefined: the metric of the model is that of everything ablated"
    )


def test_sets_are_named_by_their_group_or_their_nodes():
    assert KnockOut("nothing", ()).name == "nothing"
    assert KnockOut("random", ("m0", "a1.h0")).name == "m0 + a1.h0"
    assert KnockOut("group", ("m0",), "movers").name == "movers"
    assert str(KnockOut("random", tuple(f"m{i}" for i in range(9)))) == "m0 + m1 + m2 + m3 + m4 + m5 + 3 more"


def test_minimality_is_ranked_and_says_what_is_not_needed():
    found = make_minimality()
    assert found.scores.tolist() == pytest.approx([0.5, 0.2, 0.001])
    assert found.changes.tolist() == pytest.approx([-0.5, 0.2, 0.0])
    assert found.unneeded() == ("m1",)
    assert found.unneeded(0.3) == ("m1", "a0.h1")
    frame = found.to_frame()
    assert list(frame.node) == ["m0", "a0.h1", "m1"]
    assert list(frame.beside) == ["", "", "m0 + a0.h1"]
    assert found.summary() == (
        "1 of 3 nodes change the metric by less than 1% of the gap, whatever of 8 sets of nodes is taken out beside"
    )
    equal = make_minimality(full=found.empty)
    assert equal.summary().startswith("minimality is undefined")
    assert make_minimality(of="edges", n_sets=1).summary() == (
        "1 of 3 edges change the metric by less than 1% of the gap"
    )


@pytest.mark.parametrize(
    ("name", "ideal_keeps"),
    [
        ("equivalence", True),
        ("independence", True),
        ("minimality", True),
        ("sufficiency", False),
        ("partial necessity", False),
    ],
)
def test_rejecting_speaks_against_the_circuit_or_for_it(name, ideal_keeps):
    kept, rejected = make_test(name, 0.2), make_test(name, 0.05)
    assert not kept.rejected
    assert rejected.rejected
    assert kept.holds == ideal_keeps
    assert rejected.holds != ideal_keeps
    assert kept.verdict != rejected.verdict
    assert rejected.summary() == f"{name}: p = 0.05, {rejected.verdict}"


def test_several_hypotheses_are_rejected_one_by_one():
    found = make_minimality_test()
    assert found.p_value == pytest.approx(1e-12)
    assert found.rejected_items == ("a1.h0->m1",)
    assert found.verdict == "1 of 3 edges not needed"
    assert list(found.to_frame().rejected) == [False, True, False]


def test_check_gathers_everything():
    check = make_check()
    assert check.test("equivalence").p_value == pytest.approx(0.2)
    lines = check.summary().splitlines()
    assert lines[0] == "3 of 46 edges, 4 nodes"
    assert lines[1] == "faithfulness 0.07 [-0.03, 0.27] (0 = everything ablated, 1 = the whole model)"
    assert lines[2].startswith("  random connected circuits: ")
    assert len(lines) == 2 + 3 + 2 + 5
    assert list(check.to_frame().holds) == [True, False, False, True, False]


@pytest.mark.parametrize("make", [make_completeness, make_minimality, make_minimality_test, make_check])
def test_files(make, tmp_path):
    made = make()
    read = type(made).load(made.save(tmp_path / "r"))
    assert read.to_frame().equals(made.to_frame())
    assert read.summary() == made.summary()


def test_refusals():
    with pytest.raises(CircuitError, match="must be the empty one"):
        Completeness(**vars(make_completeness()) | {"sets": (KnockOut("single", ("m0",)),) * 6})
    with pytest.raises(RecordError, match=r"model must be \[set=6, prompt=4\]"):
        make_completeness(model=torch.zeros(5, 4))
    with pytest.raises(CircuitError, match="got 2 for 3"):
        make_minimality(beside=((), ()))
    with pytest.raises(RecordError, match=r"most must be \[item=3\]"):
        make_minimality(most=torch.zeros(2))
    with pytest.raises(CircuitError, match="did you mean 'sufficiency'"):
        make_test("sufficient")
    with pytest.raises(CircuitError, match="nothing to test"):
        HypothesisTest(**vars(make_test()) | {"items": ()})
    with pytest.raises(CircuitError, match="2 methods at 4 sizes"):
        make_check(faithfulness=make_faithfulness())
    with pytest.raises(CircuitError, match="each test stands in a check once"):
        make_check(tests=(make_test(), make_test()))
    with pytest.raises(CircuitError, match="unknown test in this check 'minimal'"):
        make_check(tests=(make_test(),)).test("minimal")
