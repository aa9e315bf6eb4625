"""What an instrument is: it reads figures of a model while a steering acts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from interp.models.model import Model
from interp.steering.evaluate.tally import Tally
from interp.steering.steering import Steering


class Instrument(Protocol):
    """Reads some figures of one model, each on the same prompts whatever acts."""

    along_texts: bool
    """Whether it reads given texts, in which no token is generated."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of its figures, in order."""

    def read(self, model: Model, steering: Steering | None, strength: float) -> Mapping[str, Tally]:
        """Every figure while ``steering`` acts; unsteered for ``None``."""


def acting(model: Model, steering: Steering | None, strength: float) -> AbstractContextManager[Any]:
    """The steering in force, or nothing."""
    if steering is None:
        return nullcontext()
    return steering.apply(model, strength=strength, any_model=True)
