"""Steerings as files: everything comes back, nothing is half written, and what is damaged says so."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mean_gate import MeanGate
from naive_steering import OPERATIONS, make_operation_twin
from torch import Tensor

import interp.steering.files as files
from interp.errors import DataFileError
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.files import load_steering
from interp.steering.operations import Add
from interp.steering.places import InstructionEnd, TextPattern
from interp.steering.steering import Steering, Step
from interp.types import parse_site

SITES = (
    "resid_post[1]", "z[0]", "z[1.2]@-1", "resid_pre[0]@2:5,END", "mlp_post[3]@gen", "attn_out[2]@:-1#0,3",
    "embed@S2+1",
)  # fmt: skip


class ScaledGate(MeanGate):
    """A gate with a tensor and a number of its own."""

    kind = "scaled"

    def __init__(self, scale: Tensor, bias: float) -> None:
        super().__init__("resid_pre[0]@-1", "attn_out[0]", channels=2)
        self.scale, self.bias = scale, bias

    def tensors(self):
        return {"scale": self.scale}

    def to_dict(self):
        return {"kind": self.kind, "bias": self.bias}

    @classmethod
    def from_dict(cls, data, tensors):
        return cls(tensors["scale"], data["bias"])


def calibration() -> DoseCalibration:
    strengths = torch.tensor([-1.5, 0.0, 1 / 3], dtype=torch.float64)
    kl = strengths**2
    return DoseCalibration(strengths, kl, kl / 2, 2 * kl, 0.9, "text (3 rows)", 77, Provenance("m", seed=4))


def whole() -> Steering:
    """Every operation, at every kind of place, with rules, gates and all that is known of it."""
    gate = ScaledGate(torch.tensor([1.0, 2.0]), 0.25)
    steps = []
    for number, name in enumerate(OPERATIONS):
        site = parse_site(SITES[number % len(SITES)])
        where = (None, TextPattern("a.b", "after"), InstructionEnd((4, 7)))[number % 3]
        operation = make_operation_twin(name, 12, number).operation
        gates = dict(gate=gate, channel=number % 2) if number % 4 == 1 else {}
        steps.append(Step(site, operation, 0.1 * number - 0.3, where, **gates))
    return Steering(
        tuple(steps),
        "mean-difference",
        calibration(),
        "0123",
        "positive: 3 texts; negative: é",
        {"auc": 0.5, "stability": 1 / 3},
        Provenance("m", family="gpt2", notes=("one",)),
    )


def test_everything_comes_back(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(files, "gate_kinds", lambda: {"scaled": ScaledGate})
    before = whole()
    path = before.save(tmp_path / "deep" / "v.safetensors")
    after = load_steering(path)
    for name in ("method", "model_digest", "data", "figures", "provenance"):
        assert getattr(after, name) == getattr(before, name), name
    for a, b in zip(before.steps, after.steps, strict=True):
        assert (a.site, a.weight, a.where, a.channel) == (b.site, b.weight, b.where, b.channel)
        assert type(a.operation) is type(b.operation)
        assert a.operation.numbers() == b.operation.numbers()
        assert a.operation.tensors().keys() == b.operation.tensors().keys()
        for name, value in a.operation.tensors().items():
            found = b.operation.tensors()[name]
            assert torch.equal(found, value)
            assert found.dtype == value.dtype
    gates = {id(step.gate): step.gate for step in after.steps if step.gate is not None}
    (gate,) = gates.values()
    assert isinstance(gate, ScaledGate)
    assert torch.equal(gate.scale, torch.tensor([1.0, 2.0]))
    assert gate.bias == 0.25
    old, new = before.calibration, after.calibration
    assert old is not None
    assert new is not None
    for axis in DoseCalibration.AXES:
        assert torch.equal(getattr(new, axis), getattr(old, axis)), axis
    assert (new.confidence, new.text, new.n_tokens) == (old.confidence, old.text, old.n_tokens)
    assert new.provenance == old.provenance
    assert after.strength_for(0.1) == before.strength_for(0.1)


def test_what_is_unknown_stays_unknown(tmp_path: Path):
    after = load_steering(
        Steering((Step(parse_site("resid_post[0]"), Add(torch.ones(3))),)).save(tmp_path / "v")
    )
    assert (after.method, after.calibration, after.model_digest, after.data, after.provenance) == (
        "custom", None, None, None, None,
    )  # fmt: skip
    assert dict(after.figures) == {}


def test_half_precision_and_gradients_do_not_matter(tmp_path: Path):
    vector = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    after = load_steering(Steering((Step(parse_site("resid_post[0]"), Add(vector)),)).save(tmp_path / "v"))
    assert after.direction().dtype == torch.bfloat16
    assert not after.direction().requires_grad


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch):
    path = Steering((Step(parse_site("resid_post[0]"), Add(torch.ones(3))),)).save(tmp_path / "v")
    old = path.read_bytes()

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        Steering((Step(parse_site("resid_post[0]"), Add(torch.zeros(3) + 2)),)).save(path)
    assert path.read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["v"]


def with_meta(path: Path, change) -> Path:
    """The file with its own part of the header changed."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    meta = json.loads(header["__metadata__"]["interp"])
    change(meta)
    header["__metadata__"]["interp"] = json.dumps(meta)
    text = json.dumps(header).encode()
    changed = path.with_name("changed")
    changed.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])
    return changed


DAMAGE = [
    (lambda meta: meta.pop("steps"), "KeyError: 'steps'"),
    (lambda meta: meta["steps"][0].update(operation="ad"), "unknown operation 'ad'"),
    (lambda meta: meta["steps"][0].update(site="resid_past[0]"), "resid_past"),
    (lambda meta: meta["steps"][0].update(numbers={"value": 1}), "has the fields"),
    (lambda meta: meta["steps"][0].update(where={"kind": "moon"}), "moon"),
    (lambda meta: meta["steps"][0].update(gate=0), "IndexError"),
    (lambda meta: meta.update(gates=[{"kind": "moon"}]), "unknown gate 'moon'"),
    (lambda meta: meta.update(steps=[]), "at least one step"),
    (lambda meta: meta["calibration"].pop("text"), "text"),
    (lambda meta: meta["calibration"]["provenance"].pop("model"), "model"),
    (lambda meta: meta.update(kind="PatchScores"), "holds a PatchScores record; expected Steering"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_headers(change, message: str, tmp_path: Path):
    steering = Steering((Step(parse_site("resid_post[0]"), Add(torch.ones(3))),), calibration=calibration())
    path = with_meta(steering.save(tmp_path / "v"), change)
    with pytest.raises(DataFileError, match=message):
        load_steering(path)


def test_files_of_another_kind(tmp_path: Path):
    path = tmp_path / "v"
    with pytest.raises(DataFileError, match="no file at"):
        load_steering(path)
    torch.save({"vector": torch.ones(3)}, path)
    with pytest.raises(DataFileError, match="pickles are refused"):
        load_steering(path)
    whole_file = Steering((Step(parse_site("resid_post[0]"), Add(torch.ones(300))),)).save(tmp_path / "w")
    for n in (0, 7, 50, 400, whole_file.stat().st_size - 4):
        path.write_bytes(whole_file.read_bytes()[:n])
        with pytest.raises(DataFileError):
            load_steering(path)


def test_gates_of_the_package_have_kinds_of_their_own():
    for kind, gate in files.gate_kinds().items():
        assert gate.kind == kind


def test_a_zero_vector_in_a_file_is_refused(tmp_path: Path):
    steering = Steering((Step(parse_site("resid_post[0]"), Add(torch.ones(3))),))
    path = steering.save(tmp_path / "v")
    data = path.read_bytes()
    path.write_bytes(data[:-12] + b"\0" * 12)
    with pytest.raises(DataFileError, match="a direction that is zero"):
        load_steering(path)
    assert replace(steering, method="x").steps is steering.steps
