"""Training curves and trade-offs as records."""

from __future__ import annotations

import math

import pytest
import torch
from fake_latents import MADE, make_history, make_pareto
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import RecordError
from interp.results.coder_history import CoderHistory, CoderLog, CoderPareto


def test_rows_become_curves():
    log = CoderLog(["a", "b"])
    log.append(10, {"a": {"loss": 3.0}, "b": {"loss": 2.0, "l0": 5.0}})
    log.append(20, {"b": {"loss": 1.0}, "a": {"loss": 2.5, "l0": 4.0}})
    history = log.record(MADE)
    assert len(log) == len(history) == 2
    assert history.tokens.tolist() == [10, 20]
    assert history.curve("loss", "a").tolist() == [3.0, 2.5]
    assert history.curve("loss", "b").tolist() == [2.0, 1.0]
    l0 = history.curves["l0"]
    assert l0.isnan().tolist() == [[True, False], [False, True]]
    assert history.last("a") == {"loss": 2.5, "l0": 4.0}
    assert history.last("b") == {"loss": 1.0, "l0": 5.0}
    assert history.summary() == "a: 20 tokens, loss 2.5, l0 4\nb: 20 tokens, loss 1, l0 5"
    frame = history.to_frame()
    assert list(frame["coder"]) == ["a", "a", "b", "b"]
    assert list(frame["loss"]) == [3.0, 2.5, 2.0, 1.0]


def test_a_record_stays_as_it_was_made():
    log = CoderLog(["a"])
    log.append(1, {"a": {"loss": 1.0}})
    first = log.record(MADE)
    log.append(2, {"a": {"loss": 0.5}})
    assert first.tokens.tolist() == [1]
    assert log.record(MADE).tokens.tolist() == [1, 2]


def test_files(tmp_path):
    history = make_history(("a", "b"))
    read = CoderHistory.load(history.save(tmp_path / "h"))
    assert (read.names, read.provenance) == (history.names, history.provenance)
    assert list(read.curves) == list(history.curves)
    for name in history.curves:
        assert torch.equal(read.curves[name], history.curves[name])
    pareto = make_pareto()
    assert CoderPareto.load(pareto.save(tmp_path / "p")).to_frame().equals(pareto.to_frame())
    empty = CoderLog(["a"]).record(MADE)
    assert len(CoderHistory.load(empty.save(tmp_path / "e"))) == 0
    assert empty.summary() == "a: nothing measured yet"


@given(st.integers(0, 8), st.integers(0, 9000))
def test_a_resumed_log_goes_on_as_if_never_stopped(rows, tokens):
    whole = make_history(("a", "b"), rows=8)
    log = CoderLog.resume(make_history(("a", "b"), rows=rows), tokens)
    kept = min(rows, tokens // 1000)
    assert len(log) == kept
    for row in range(kept, 8):
        log.append(
            int(whole.tokens[row]),
            {name: {m: float(whole.curve(m, name)[row]) for m in whole.curves} for name in whole.names},
        )
    again = log.record(MADE)
    assert torch.equal(again.tokens, whole.tokens)
    assert all(torch.equal(again.curves[name], curve) for name, curve in whole.curves.items())


def test_a_log_is_checked():
    log = CoderLog(["a"])
    log.append(5, {"a": {}})
    with pytest.raises(RecordError, match="tokens must rise from row to row; got 5 after 5"):
        log.append(5, {"a": {}})
    with pytest.raises(RecordError, match=r"must have figures of \['a'\]; got \['b'\]"):
        log.append(6, {"b": {}})
    for names in ([], ["a", "a"]):
        with pytest.raises(RecordError, match="a different name for every coder"):
            CoderLog(names)


def test_a_history_is_checked():
    history = make_history(("a", "b"))
    with pytest.raises(RecordError, match="unknown measure 'los'; did you mean 'loss'"):
        history.curve("los", "a")
    with pytest.raises(RecordError, match="several coders were trained; name one of a, b"):
        history.curve("loss")
    with pytest.raises(RecordError, match="unknown coder 'c'"):
        history.last("c")
    tokens, curves = history.tokens, history.curves
    with pytest.raises(RecordError, match="rising numbers of tokens"):
        CoderHistory(tokens.flip(0), ("a", "b"), curves, MADE)
    with pytest.raises(RecordError, match=r"every curve must be \[row=5, coder=1\]"):
        CoderHistory(tokens, ("a",), curves, MADE)
    with pytest.raises(RecordError, match="a different name for every coder"):
        CoderHistory(tokens, ("a", "a"), curves, MADE)


points = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8)


@given(points)
def test_the_front_is_what_nothing_beats(found):
    rows = [dict(name="x", architecture="a", seed=0, l0=x, fvu=y, ce_recovered=-y) for x, y in found]
    pareto = CoderPareto.from_rows(rows, MADE)
    expected = [
        not any(a <= x and b <= y and (a, b) != (x, y) for a, b in found) for x, y in found
    ]  # fmt: skip
    assert pareto.front("fvu").tolist() == expected
    assert pareto.front("ce_recovered").tolist() == expected


def test_points_without_ce_are_not_on_its_front():
    rows = [
        dict(name="x", architecture="a", seed=0, l0=1.0, fvu=0.5),
        dict(name="y", architecture="a", seed=0, l0=2.0, fvu=0.6, ce_recovered=0.9),
    ]
    pareto = CoderPareto.from_rows(rows, MADE)
    assert math.isnan(float(pareto.ce_recovered[0]))
    assert pareto.front("ce_recovered").tolist() == [False, True]
    assert pareto.front().tolist() == [True, False]
    with pytest.raises(RecordError, match="unknown measure 'mse'"):
        pareto.front("mse")
    with pytest.raises(RecordError, match="at least one point"):
        CoderPareto.from_rows([], MADE)
