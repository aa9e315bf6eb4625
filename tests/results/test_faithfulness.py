"""Faithfulness, read as data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_checks import MADE, make_curve, make_faithfulness

from interp.errors import CircuitError, RecordError
from interp.results import Estimate, Faithfulness, RandomCurve


def test_values_are_shares_of_the_gap():
    found = make_faithfulness()
    shares = torch.tensor([0.0, 3.0, 12.0, 46.0]) / 46
    assert found.values.numpy() == pytest.approx(torch.stack([shares, shares - 0.1]).numpy(), abs=1e-6)
    assert (found.at("exact"), found.at("eap-ig")) == (0, 1)
    equal = replace(found, full=found.empty)
    assert equal.values.isnan().all()
    assert equal.null_values(found.nulls[0]).isnan().all()


def test_random_circuits_have_areas_too():
    found = make_faithfulness(counts=(23, 46), nulls=())
    # metric 1 is a share of 0, 3 of 1; the second draw lies above 1
    curve = RandomCurve(
        "uniform", None, (23, 46), torch.ones(2, 2).long(), torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    )
    assert found.null_values(curve).tolist() == [[0.0, 1.0], [1.0, 2.0]]
    assert found.null_cpr(curve) == pytest.approx(0.5 * (0.5 + 1.5) / 2)
    assert found.null_cmd(curve) == pytest.approx(0.5 * (0.5 + 0.5) / 2)


def test_names_of_random_circuits():
    assert str(make_curve("connected", (1,))) == "random connected circuits"
    degree = make_curve("degree", (1,), "eap")
    assert (degree.name, str(degree)) == ("degree: eap", "random edges, as many into each reader as eap")


def test_frame_has_methods_and_random_circuits():
    found = make_faithfulness(nulls=("connected", "degree"))
    frame = found.to_frame()
    assert list(dict.fromkeys(frame.method)) == [
        "exact",
        "eap-ig",
        "connected",
        "degree: exact",
        "degree: eap-ig",
    ]
    assert frame.drawn.sum() == 12
    row = frame[(frame.method == "eap-ig") & (frame.edges == 12)].iloc[0]
    assert row.faithfulness == pytest.approx(12 / 46 - 0.1)
    assert (row.low, row.high) == pytest.approx((12 / 46 - 0.2, 12 / 46 + 0.1))
    assert row.metric == pytest.approx(1 + 2 * (12 / 46 - 0.1))
    null = frame[(frame.method == "connected") & (frame.fraction == 1.0)].iloc[0]
    assert null.edges == 45
    drawn = found.null_values(found.nulls[0])[-1]
    assert (null.low, null.high) == pytest.approx((float(drawn.min()), float(drawn.max())))


def test_summary_and_file(tmp_path):
    found = make_faithfulness()
    assert found.summary().splitlines()[:2] == [
        "exact: CPR 0.800 [0.700, 0.900], CMD 0.200 [0.100, 0.300]",
        "eap-ig: CPR 0.700 [0.700, 0.900], CMD 0.300 [0.100, 0.300]",
    ]
    assert found.summary().splitlines()[2].startswith("random connected circuits: CPR ")
    read = Faithfulness.load(found.save(tmp_path / "f"))
    assert read.to_frame().equals(found.to_frame())
    assert (read.cpr, read.provenance) == (found.cpr, MADE)
    assert [curve.name for curve in read.nulls] == ["connected", "uniform"]


def test_refusals():
    with pytest.raises(CircuitError, match="got 0 and 4"):
        make_faithfulness(methods=())
    with pytest.raises(CircuitError, match="'eap' stands there twice"):
        make_faithfulness(("eap", "eap"))
    with pytest.raises(CircuitError, match="must rise"):
        make_faithfulness(counts=(9, 3))
    with pytest.raises(CircuitError, match="2 methods at 4 fractions has 1 CPR"):
        make_faithfulness(cpr=(Estimate(0.0, 0.0, 0.0),))
    with pytest.raises(CircuitError, match=r"random circuits at \[2\] fractions"):
        replace(make_faithfulness(), nulls=(make_curve("uniform", (1, 2)),))
    with pytest.raises(RecordError, match=r"low must be \[method=2, fraction=4\]"):
        make_faithfulness(low=torch.zeros(2, 3))
    with pytest.raises(RecordError, match=r"metric must be \[fraction=2, draw=3\]"):
        RandomCurve("uniform", None, (1, 2), torch.ones(2, 3).long(), torch.zeros(2, 4))
    with pytest.raises(CircuitError, match="did you mean 'exact'"):
        make_faithfulness().at("exat")
