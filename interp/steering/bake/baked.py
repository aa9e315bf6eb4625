"""A baked steering: edits of weights, put into a model for a block or written out with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.save import save_model
from interp.models.weight_edits import WeightEdits, hold_edits


@dataclass(frozen=True, eq=False)
class Baked:
    """A steering as new weights::

    baked = interp.bake_bias(model, steering, dose=0.5)
    with baked.installed(model):
        model.generate("The baker")  # no hook acts
    baked.save(model, "steered-model")  # a folder that load_model reads
    """

    edits: WeightEdits
    method: str
    """``"bias"``, ``"orthogonal"``, ``"spectrum"``, ``"casal"``."""
    exact: bool
    """Whether the weights say just what hooks would, to rounding."""
    model_digest: str
    """Of the weights that were edited."""
    description: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers of its making."""

    def __repr__(self) -> str:
        return f"Baked({self.method}: {self.description}; {len(self.edits.names)} parameters)"

    @contextmanager
    def installed(self, model: Model, any_model: bool = False) -> Iterator[Model]:
        """Put the weights into ``model`` inside the block; afterwards every bit is as it was.

        Raises :class:`SteeringError` for a model of other weights unless ``any_model``, and
        :class:`ModelError` where the shapes do not fit.
        """
        if not any_model and digest_weights(model) != self.model_digest:
            raise SteeringError(
                f"{self!r} was made from other weights than {model.name!r} has now; bake it for this model, or pass "
                "any_model=True."
            )
        with hold_edits(model, self.edits):
            yield model

    def save(self, model: Model, folder: str | Path) -> Path:
        """Write the whole model with these weights as a folder that :func:`interp.load_model` reads.

        Raises :class:`SteeringError` for a model of other weights, and :class:`ModelError` where its
        architecture has no place for a bias that was added.
        """
        with self.installed(model):
            return save_model(model, folder)
