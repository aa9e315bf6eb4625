"""Methods side by side."""

from __future__ import annotations

import pytest

from interp.errors import RecordError
from interp.results import Estimate, MethodComparison, MethodCost, MethodRow, Provenance

GOOD, BAD = Estimate(0.9, 0.8, 1.0), Estimate(-0.2, -0.5, 0.1)
UNDEFINED = Estimate(*[float("nan")] * 3)


def row(model="gpt2", task="ioi", site="z", method="attribution", pearson=GOOD):
    return MethodRow(model, task, site, method, 144, pearson, BAD, UNDEFINED, GOOD)


def make(*rows, **changes):
    fields = dict(
        rows=rows or (row(), row(method="ig", pearson=BAD), row(site="q")),
        costs=(MethodCost("gpt2", "ioi", "exact", 2.0, None), MethodCost("gpt2", "ioi", "ig", 1.0, 2**20)),
        confidence=0.95,
        provenance=Provenance("gpt2", task="ioi", n_prompts=8, seed=3, seconds=2.0, metric="logit_diff"),
    )
    return MethodComparison(**fields | changes)


def test_names_come_in_the_order_of_the_rows():
    found = make(row("b", method="ig"), row("a", site="q"), row("b", "sva"))
    assert found.methods == ("ig", "attribution")
    assert found.sites == ("z", "q")
    assert found.cases == (("b", "ioi"), ("a", "ioi"), ("b", "sva"))
    assert found.at("a", "ioi", "q", "attribution").n_cells == 144
    assert found.at("a", "ioi", "z", "attribution") is None


def test_table_has_a_row_a_case_and_every_method_under_every_site():
    headings, cells = make().table()
    assert headings == ["model", "task", "z: attribution", "z: ig", "q: attribution", "q: ig"]
    assert cells == [["gpt2", "ioi", "0.90 [0.80, 1.00]", "-0.20 [-0.50, 0.10]", "0.90 [0.80, 1.00]", ""]]
    assert make().table("sign_agreement")[1][0][2] == "undefined"
    with pytest.raises(RecordError, match="did you mean 'spearman'"):
        make().table("spearmen")


def test_shared_provenance_keeps_what_holds_for_all():
    assert make().shared_provenance == make().provenance
    shared = make(row("a"), row("b"), row("b", "sva")).shared_provenance
    assert (shared.model, shared.task, shared.metric) == ("a, b", "ioi, sva", "logit_diff")
    assert (shared.n_prompts, shared.seed, shared.seconds) == (None, None, None)


def test_file_and_frames(tmp_path):
    made = make()
    read = MethodComparison.load(made.save(tmp_path / "c"))
    assert read.rows[0].pearson == GOOD
    assert read.costs == made.costs
    assert read.to_frame().equals(made.to_frame())
    assert list(read.to_frame().pearson_low) == [0.8, -0.5, 0.8]
    assert list(read.costs_frame().seconds) == [2.0, 1.0]


def test_refusals():
    with pytest.raises(RecordError, match="at least one row"):
        MethodComparison((), (), 0.95, Provenance("m"))
    with pytest.raises(RecordError, match="several rows of gpt2 · ioi · z · ig"):
        make(row(method="ig"), row(), row(method="ig", pearson=BAD))
