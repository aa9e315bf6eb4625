"""Detectors and guards as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import DataFileError, InterpError
from interp.results.provenance import Provenance
from interp.results.storage import load_record, save_record
from interp.steering.monitor.detector import Detector
from interp.steering.monitor.guard import Guard
from interp.steering.places import read_where
from interp.types import parse_site

_PLAIN = (
    "threshold", "pooling", "measure", "name", "false_positive_rate", "n_calibration", "model_digest", "data",
)  # fmt: skip


def save_detector(detector: Detector, path: str | Path) -> Path:
    """Write a detector to one safetensors file, whole or not at all; its report is a record of its own."""
    return save_record(path, "Detector", _tensors(detector, ""), _pack(detector))


def load_detector(path: str | Path) -> Detector:
    """Read what :meth:`Detector.save` wrote.

    Raises :class:`DataFileError` for a file that is missing, damaged or of another kind.
    """
    tensors, meta = load_record(path, "Detector")
    return _read(path, "detector", lambda: _unpack(meta, tensors, ""))


def save_guard(guard: Guard, path: str | Path) -> Path:
    """Write a guard to one safetensors file, whole or not at all."""
    parts = {"content": guard.content, "behaviour": guard.behaviour}
    tensors = {key: t for name, one in parts.items() for key, t in _tensors(one, f"{name}.").items()}
    return save_record(path, "Guard", tensors, {name: _pack(one) for name, one in parts.items()})


def load_guard(path: str | Path) -> Guard:
    """Read what :meth:`Guard.save` wrote. Raises :class:`DataFileError` as :func:`load_detector`."""
    tensors, meta = load_record(path, "Guard")
    return _read(
        path, "guard", lambda: Guard(*(_unpack(meta[n], tensors, f"{n}.") for n in ("content", "behaviour")))
    )


def _read(path: str | Path, kind: str, make: Any) -> Any:
    try:
        return make()
    except (AttributeError, KeyError, TypeError, ValueError, InterpError) as error:
        raise DataFileError(
            f"{str(path)!r} does not hold a whole {kind} ({type(error).__name__}: {error}); it was damaged, or saved "
            "by another version."
        ) from error


def _tensors(detector: Detector, prefix: str) -> dict[str, Tensor]:
    found = {f"{prefix}directions": detector.directions}
    return found if detector.against is None else found | {f"{prefix}against": detector.against}


def _pack(detector: Detector) -> dict[str, Any]:
    return {name: getattr(detector, name) for name in _PLAIN} | {
        "sites": [str(site) for site in detector.sites],
        "where": None if detector.where is None else detector.where.to_dict(),
        "figures": dict(detector.figures),
        "provenance": None if detector.provenance is None else detector.provenance.to_dict(),
    }


def _unpack(meta: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Detector:
    return Detector(
        sites=tuple(parse_site(site) for site in meta["sites"]),
        directions=tensors[f"{prefix}directions"],
        against=tensors.get(f"{prefix}against"),
        where=None if meta["where"] is None else read_where(meta["where"]),
        figures=meta["figures"],
        provenance=None if meta["provenance"] is None else Provenance.from_dict(meta["provenance"]),
        **{name: meta[name] for name in _PLAIN},
    )
