"""Records of overlap, cross-task ablation and repair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_reuse import make_cross, make_overlap, make_repair

from interp.errors import RecordError
from interp.results import CircuitOverlap, CrossTaskAblation, Repair


def test_measures_of_overlap():
    found = make_overlap(3, [0.2], sizes=torch.tensor([[10, 20, 0]]), shared=torch.tensor([[5, 0, 0]]))
    assert found.iou[0].tolist() == pytest.approx([5 / 25, 0, 0])
    assert found.coefficient[0, 0] == 0.5
    assert found.coefficient[0, 1:].isnan().all()
    table = found.matrix("iou")
    assert torch.equal(table, table.T)
    assert table.diagonal().tolist() == [1, 1, 1]
    assert table[0, 1] == pytest.approx(0.2)


def test_the_band_is_the_null_in_the_measure():
    sizes, null = torch.tensor([[10, 20]]), torch.tensor([[[2]], [[4]]])
    found = make_overlap(
        2,
        [0.2],
        sizes=sizes,
        shared=torch.tensor([[5]]),
        null_low=null,
        null_median=null + 1,
        null_high=null + 2,
    )
    assert [float(x) for x in found.band("iou", "uniform")] == pytest.approx([2 / 28, 3 / 27, 4 / 26])
    assert [float(x) for x in found.band("coefficient", "stratified")] == pytest.approx([0.4, 0.5, 0.6])
    with pytest.raises(RecordError, match="did you mean 'uniform'"):
        found.band("iou", "unifrom")
    with pytest.raises(RecordError, match="unknown measure of overlap 'jaccard'"):
        found.matrix("jaccard")


def test_overlap_as_rows_and_file(tmp_path):
    found = make_overlap(3, (0.01, 0.2))
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * 2
    assert list(frame.columns[:3]) == ["fraction", "circuit", "other"]
    row = frame.query("fraction == 0.2 and other == 'a$b' and null == 'stratified'").iloc[0]
    assert (row["circuit"], row["size"], row["other_size"], row["shared"]) == ("ioi", 200, 202, 21)
    assert row["null_high"] == 2 * 22 // 3
    assert CircuitOverlap.load(found.save(tmp_path / "o")).to_frame().equals(frame)
    given = make_overlap(
        2, (float("nan"),), cut_by="circuit", sizes=torch.ones(1, 2).int(), shared=torch.ones(1, 1).int()
    )
    assert given.cut_name(0) == "as given"
    assert CircuitOverlap.load(given.save(tmp_path / "g")).cut_by == "circuit"
    assert found.cut_name(0) == "1 % of edges"


def test_overlap_refusals():
    with pytest.raises(RecordError, match="different names"):
        make_overlap(2, names=("ioi", "ioi"))
    with pytest.raises(RecordError, match="did you mean 'heads'"):
        make_overlap(level="head")
    with pytest.raises(RecordError, match="share more than the smaller"):
        make_overlap(2, [0.1], shared=torch.tensor([[111]]))
    with pytest.raises(RecordError, match=r"shared must be \[cut=3, pair=3\]"):
        make_overlap(shared=torch.zeros(3, 2).int())


def test_p_values_count_random_circuits_that_do_as_much():
    random = torch.tensor([0.1, 0.3, 0.5, 0.9]).expand(2, 1, 1, 4)
    performance = torch.tensor([0.2, 0.6]).view(2, 1, 1)
    found = make_cross(1, 1, 4, random=random, performance=performance)
    # one of four damages as much, one of four keeps as much
    assert found.p_values.flatten().tolist() == pytest.approx([2 / 5, 2 / 5])
    assert found.random_mean.flatten().tolist() == pytest.approx([0.45, 0.45])
    undefined = replace(found, performance=torch.full((2, 1, 1), torch.nan))
    assert undefined.p_values.isnan().all()
    assert make_cross(draws=0).p_values.isnan().all()
    assert make_cross(draws=0).random_mean.isnan().all()


def test_cross_ablation_as_rows_and_file(tmp_path):
    found = make_cross(2, 3)
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * 2
    cell = frame.query("circuit == 'ioi' and task == 'a$b' and act == 'kept'").iloc[0]
    assert cell.performance == pytest.approx(float(found.kept[0, 2]))
    assert (cell["size"], cell.high) == (10, pytest.approx(float(found.kept[0, 2]) + 0.2))
    assert torch.equal(found.knocked_out, found.performance[0])
    read = CrossTaskAblation.load(found.save(tmp_path / "x"))
    assert read.to_frame().equals(frame)
    assert list(read.scores) == list(found.scores)


def test_cross_ablation_refusals():
    with pytest.raises(RecordError, match=r"sizes has 1 entries"):
        make_cross(sizes=(3,))
    with pytest.raises(RecordError, match=r"performance must be \[act=2, circuit=3, task=3\]"):
        make_cross(performance=torch.zeros(2, 3, 2))
    with pytest.raises(RecordError, match="scores are of"):
        make_cross(scores={})


def test_repair_counts_controls_that_are_as_good():
    found = make_repair(("diff",), draws=4)
    # 1.0 is gained; controls gain -0.4 to 0.4, and 0.8 to 1.6
    assert found.p_values("random_heads").tolist() == pytest.approx([1 / 5])
    assert found.p_values("random_tokens").tolist() == pytest.approx([4 / 5])
    lower = replace(found, higher_is_clean=(False,))
    assert lower.p_values("random_heads").tolist() == pytest.approx([1.0])
    assert make_repair(draws=0).p_values("random_heads").isnan().all()
    with pytest.raises(RecordError, match="did you mean 'random_heads'"):
        found.p_values("random_head")


def test_repair_as_rows_line_and_file(tmp_path):
    found = make_repair()
    frame = found.to_frame()
    assert list(frame.metric) == ["logit <diff>", "accuracy"]
    assert frame.after[0] - frame.before[0] == pytest.approx(1.0)
    assert frame.p_value_random_heads[0] == pytest.approx(1 / 5)
    assert found.heads == ("L0H0", "L0H1", "L0H2")
    assert list(found.moves_frame().columns) == ["head", "dest", "source", "before", "after"]
    assert found.moves[0].name == "L0H0 END to S<0>"
    assert found.summary().endswith("accuracy 0 to 1 (gain 1.00 [0.75, 1.25])")
    read = Repair.load(found.save(tmp_path / "r"))
    assert read.to_frame().equals(frame)
    assert read.moves == found.moves


def test_repair_refusals():
    with pytest.raises(RecordError, match="at least one move"):
        make_repair(moves=0)
    with pytest.raises(RecordError, match=r"after must be \[metric=2, prompt=6\]"):
        make_repair(after=torch.zeros(2, 5))
