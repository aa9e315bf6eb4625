"""Steerings as files: one safetensors file with sites, operations, gates, dose calibration and provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import DataFileError, InterpError, SteeringError, unknown_name
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.results.storage import load_record, save_record
from interp.steering.gates import Gate
from interp.steering.operations import make_operation
from interp.steering.places import read_where
from interp.steering.steering import Steering, Step
from interp.types import parse_site

_KIND = "Steering"


def gate_kinds() -> Mapping[str, type[Gate]]:
    """Kinds of gates that a file may hold."""
    # gates stand above this file: they are known by their steerings
    from interp.steering.conditions import Combination, Condition
    from interp.steering.controller import Controller

    return {one.kind: one for one in (Condition, Combination, Controller)}


def save_steering(steering: Steering, path: str | Path) -> Path:
    """Write a steering to one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    gates = list({id(s.gate): s.gate for s in steering.steps if s.gate is not None}.values())
    steps = []
    for number, step in enumerate(steering.steps):
        steps.append(
            {
                "site": str(step.site),
                "operation": step.operation.kind,
                "numbers": step.operation.numbers(),
                "weight": step.weight,
                "where": None if step.where is None else step.where.to_dict(),
                "gate": None if step.gate is None else [id(g) for g in gates].index(id(step.gate)),
                "channel": step.channel,
            }
        )
        tensors |= {f"steps.{number}.{name}": value for name, value in step.operation.tensors().items()}
    for number, gate in enumerate(gates):
        tensors |= {f"gates.{number}.{name}": value for name, value in gate.tensors().items()}
    calibration = None
    if steering.calibration is not None:
        calibration = {
            name: getattr(steering.calibration, name) for name in ("confidence", "text", "n_tokens")
        }
        calibration["provenance"] = steering.calibration.provenance.to_dict()
        tensors |= {
            f"calibration.{name}": getattr(steering.calibration, name) for name in DoseCalibration.AXES
        }
    meta = {
        "steps": steps,
        "gates": [gate.to_dict() for gate in gates],
        "method": steering.method,
        "model_digest": steering.model_digest,
        "data": steering.data,
        "figures": dict(steering.figures),
        "calibration": calibration,
        "provenance": None if steering.provenance is None else asdict(steering.provenance),
    }
    return save_record(path, _KIND, tensors, meta)


def load_steering(path: str | Path) -> Steering:
    """Read what :meth:`Steering.save` wrote.

    Raises :class:`DataFileError` for a file that is missing, damaged or of another kind.
    """
    tensors, meta = load_record(path, _KIND)
    try:
        return _read(tensors, meta)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, InterpError) as error:
        raise DataFileError(
            f"{str(path)!r} does not hold a whole steering ({type(error).__name__}: {error}); it was damaged, or saved "
            "by another version."
        ) from error


def _read(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Steering:
    gates = [
        _gate_kind(data["kind"]).from_dict(data, _under(tensors, f"gates.{number}"))
        for number, data in enumerate(meta["gates"])
    ]
    steps = []
    for number, data in enumerate(meta["steps"]):
        operation = make_operation(data["operation"], _under(tensors, f"steps.{number}"), data["numbers"])
        where = None if data["where"] is None else read_where(data["where"])
        gate = None if data["gate"] is None else gates[data["gate"]]
        steps.append(Step(parse_site(data["site"]), operation, data["weight"], where, gate, data["channel"]))
    calibration = None
    if meta["calibration"] is not None:
        made: dict[str, Any] = {**meta["calibration"], **_under(tensors, "calibration")}
        calibration = DoseCalibration(**made | {"provenance": Provenance.from_dict(made["provenance"])})
    return Steering(
        tuple(steps),
        meta["method"],
        calibration,
        meta["model_digest"],
        meta["data"],
        meta["figures"],
        None if meta["provenance"] is None else Provenance.from_dict(meta["provenance"]),
    )


def _gate_kind(kind: str) -> type[Gate]:
    known = gate_kinds()
    if kind not in known:
        raise SteeringError(unknown_name("gate", kind, known))
    return known[kind]


def _under(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    pattern = re.compile(re.escape(path) + r"\.([^.]+)")
    return {found[1]: value for name, value in tensors.items() if (found := pattern.fullmatch(name))}
