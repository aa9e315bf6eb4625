"""Histories of learned steerings: their arithmetic, the log they come from, refusals, files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_steering_maps import make_training

from interp.errors import RecordError
from interp.results import Provenance, SteeringLog, SteeringTraining


def made_log() -> SteeringLog:
    log = SteeringLog()
    log.begin("distance", Provenance("m"))
    for step, (a, b, kept) in enumerate([(1.0, 3.0, 1.0), (0.5, 1.0, 0.25)]):
        log.append(step, {"x": a, "y": b}, {"kept share": kept})
    return log


def test_a_log_becomes_a_record() -> None:
    found = made_log().record()
    assert found.parts == ("x", "y") and found.loss_name == "distance"
    assert found.steps.tolist() == [0, 1]
    assert found.losses.tolist() == [[1.0, 3.0], [0.5, 1.0]]
    assert found.loss.tolist() == [2.0, 0.75]
    assert found.measures["kept share"].tolist() == [1.0, 0.25]
    assert found.summary() == "1 steps, loss 2 -> 0.75, kept share 0.25"
    frame = found.to_frame()
    assert list(frame.columns) == ["step", "loss", "loss: x", "loss: y", "kept share"]
    assert frame["loss: y"].tolist() == [3.0, 1.0]


def test_a_log_holds_rows_of_one_kind_and_of_one_fit() -> None:
    log = made_log()
    with pytest.raises(RecordError, match="rows have"):
        log.append(2, {"x": 1.0}, {"kept share": 1.0})
    with pytest.raises(RecordError, match="rows have"):
        log.append(2, {"x": 1.0, "y": 1.0}, {})
    with pytest.raises(RecordError, match="one fit"):
        log.begin("distance", Provenance("m"))
    with pytest.raises(RecordError, match="empty"):
        SteeringLog().record()


def test_fields_that_do_not_agree_are_refused() -> None:
    good = make_training(4)
    for change in (
        {"steps": torch.tensor([0, 2, 2, 3])},
        {"steps": good.steps[:3]},
        {"parts": ("a", "b")},
        {"parts": ("a", "a", "b", "c")},
        {"measures": {"kept share": torch.zeros(3)}},
        {"losses": good.losses[:0], "steps": good.steps[:0], "measures": {}},
    ):
        with pytest.raises(RecordError):
            replace(good, **change)


def test_a_file_gives_it_back(tmp_path) -> None:
    good = make_training()
    read = SteeringTraining.load(good.save(tmp_path / "history.safetensors"))
    assert torch.equal(read.losses, good.losses) and read.parts == good.parts
    assert torch.equal(read.measures["kept share"], good.measures["kept share"])
    assert read.provenance == good.provenance
