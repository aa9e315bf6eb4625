"""Records of searches and detectors: ranks, filters, tables, and fields that do not fit."""

from __future__ import annotations

import pytest
import torch
from fake_steering_search import fake_comparison, fake_guard_report, fake_report, fake_search

from interp.errors import RecordError
from interp.results import DetectorReport, Estimate, SteeringSearch


def test_ranks_leave_out_what_was_ruled_out_or_has_no_score():
    scores = torch.tensor([[[1.0], [4.0]], [[3.0], [float("nan")]]])
    passed = torch.tensor([[True, False], [True, True]])
    found = fake_search(2, doses=(0.3,), scores=scores, passed=passed, acts_at="read")
    assert [(c.rank, c.site, c.position, c.score) for c in found.ranked()] == [
        (1, "resid_post[1]", "all", 3.0),
        (2, "resid_post[0]", "all", 1.0),
    ]
    assert [c.rank for c in found.listed()] == [1, 2, None, None]
    assert found.best.acts_at == "resid_post[1]@all"
    assert found.to_frame()["rank"].isna().sum() == 2
    with pytest.raises(RecordError, match="2 of 4 candidates have one"):
        found.at_rank(3)
    with pytest.raises(RecordError, match="2 of 4"):
        found.at_rank(0)


def test_doses_are_looked_up():
    found = fake_search()
    assert found.dose_index(0.1) == 0 and found.dose_index() == 1
    for index, dose in enumerate(found.doses):
        assert found.ranked(dose)[0].score == pytest.approx(float(found.scores[..., index].max()))
    with pytest.raises(RecordError, match=r"made at doses \[0.1, 0.3\]"):
        found.ranked(0.2)


def test_the_cheapest_candidate_that_does_enough():
    effects = torch.zeros(4, 2, 2, 3)
    found = fake_search(effects=effects)
    low, high = (float(found.scores[..., i].max()) for i in (0, 1))
    assert found.cheapest(low).dose == 0.1
    assert found.cheapest(low + 1e-6).dose == 0.3
    with pytest.raises(RecordError, match="no candidate"):
        found.cheapest(high + 1e-3)
    with pytest.raises(RecordError, match="measures no effects"):
        fake_search(method="js").cheapest(0)


def test_choices_of_methods():
    found = fake_comparison(none_passes=True)
    assert found.chosen("brute-force") is None
    flat = int(found.scores[1].flatten().argmax())
    assert found.chosen("gradient") == (found.sites[flat // 2], found.positions[flat % 2])
    assert found.to_frame()["site"].isna().sum() == 1
    with pytest.raises(RecordError, match="not compared"):
        found.chosen("other")


def test_the_table_of_a_guard_counts():
    report = fake_guard_report()
    for row in range(4):
        for column in range(4):
            both = (report.truth == row) & (report.decided == column)
            assert int(report.table[row, column]) == int(both.sum())
    shares = [float((report.decided[report.truth == c] == c).double().mean()) for c in range(4)]
    assert report.accuracy == pytest.approx(sum(shares) / 4)
    assert fake_guard_report((0, 3)).accuracy <= 1


def test_fields_that_do_not_fit():
    with pytest.raises(RecordError, match="scores"):
        fake_search(scores=torch.zeros(2, 2, 2))
    with pytest.raises(RecordError, match="one of them is empty"):
        fake_search(0)
    with pytest.raises(RecordError, match="one entry for each of 4 methods"):
        type(fake_comparison())(**vars(fake_comparison()) | {"seconds": (1.0,)})
    with pytest.raises(RecordError, match="one side is empty"):
        fake_report(positive=torch.zeros(0))


def test_records_survive_their_files(tmp_path):
    found = fake_search()
    again = SteeringSearch.load(found.save(tmp_path / "search.safetensors"))
    assert str(again) == str(found) and again.listed() == found.listed()
    assert set(again.directions) == set(found.directions)
    report = fake_report(auc=Estimate(0.5, 0.4, 0.6))
    loaded = DetectorReport.load(report.save(tmp_path / "report.safetensors"))
    assert str(loaded) == str(report) and loaded.to_frame().equals(report.to_frame())
    assert loaded.ranking.auroc == report.ranking.auroc
