"""A coder between memory and files: what is written, and how it becomes a coder again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig, read_config
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape, check_shape
from interp.errors import CoderError, DataFileError

FACTS = "interp"
"""Key of cfg.json's metadata under which our own facts lie."""
SAELENS_FORMAT = "6.54.0"
"""The version of SAELens whose files these are like."""

NOTE = "SAELens has no such architecture: read this coder with interp.load_coder."
"""What cfg.json says where SAELens cannot read it."""


@dataclass(frozen=True)
class Stored:
    """Contents of a coder's folder."""

    cfg: dict[str, Any]
    """cfg.json."""
    weights: dict[str, Tensor]
    """sae_weights.safetensors."""
    exact: dict[str, Tensor] = field(default_factory=dict)
    """interp.safetensors: what SAELens has no place for."""


@dataclass(frozen=True)
class Facts:
    """What a coder is, besides its weights."""

    config: CoderConfig
    shape: CoderShape
    sites: tuple[str, ...] = ()
    target_sites: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, coder: Coder) -> Facts:
        """Those of a coder."""
        return cls(coder.config, coder.shape, coder.sites, coder.target_sites, coder.metadata)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "config": self.config.to_dict(),
            "shape": asdict(self.shape),
            "sites": list(self.sites),
            "target_sites": list(self.target_sites),
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Facts:
        """From plain values. Raises :class:`DataFileError` where they are not a coder's."""
        try:
            found = cls(
                config=CoderConfig.from_dict(values["config"]),
                shape=read_config(CoderShape, values["shape"]),
                sites=tuple(values["sites"]),
                target_sites=tuple(values["target_sites"]),
                metadata=dict(values["metadata"]),
            )
            if not all(type(size) is int for size in asdict(found.shape).values()):
                raise CoderError(f"sizes must be integers; got {values['shape']}.")
            check_shape(found.config, found.shape)
        except (CoderError, KeyError, TypeError, ValueError) as error:
            raise DataFileError(
                f"{where} does not describe a coder under metadata/{FACTS} ({type(error).__name__}: {error}). "
                "Save the coder again."
            ) from error
        return found


def check_metadata(facts: Mapping[str, Any]) -> None:
    """Raise :class:`CoderError` where JSON cannot hold what a coder knows of itself."""
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CoderError(
            f"a coder's metadata must be values that JSON has (no tensors, no NaN): {error}. Got "
            f"{facts['metadata']!r}."
        ) from error


def build(facts: Facts, state: Mapping[str, Tensor], where: str) -> Coder:
    """The coder with these weights, named as in its ``state_dict``; in evaluation mode.

    Raises :class:`DataFileError` for weights that are missing, too many, or of another shape.
    """
    coder = make_coder(facts.config, facts.shape, sites=facts.sites, target_sites=facts.target_sites)
    check_arrays(state, {name: tuple(value.shape) for name, value in coder.state_dict().items()}, where)
    coder.load_state_dict({name: value.contiguous() for name, value in state.items()}, assign=True)
    coder.metadata = dict(facts.metadata)
    return coder.eval()


def check_arrays(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise :class:`DataFileError` unless ``found`` has just the arrays ``wanted``, of these shapes."""
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        lacks = f" lacks {', '.join(missing)}" if missing else ""
        extra = f" has unknown {', '.join(unknown)}" if unknown else ""
        raise DataFileError(
            f"{where}{lacks}{' and' if lacks and extra else ''}{extra}; expected {_text(wanted)}."
        )
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise DataFileError(
                f"{where}: {name} must be {list(shape)}; got {list(found[name].shape)}. The files do not belong "
                "together, or one is damaged: save the coder again."
            )


def _text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
