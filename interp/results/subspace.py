"""What a subspace patch did, and whether it may be an illusion.

Makelov, Lange & Nanda, "Is This the Subspace You Are Looking for? An Interpretability Illusion for
Subspace Activation Patching" (2023): patching along a direction ``v`` can change the output through
a part of ``v`` that is read by later layers but never varied on the data (a dormant pathway), joined
to a part that varies but is not read (the null space of the readout).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SUBSPACE_PARTS = ("subspace", "row space", "null space", "full activation")
"""The subspace itself, its part in the readout's row space, its part in the null space, everything."""

NOTICEABLE = 0.1
"""Effects below this recovered score are too small to warn about."""
MUCH_MORE = 2.0
"""The subspace does much more than a part when its effect is this many times the part's."""


@dataclass(frozen=True, eq=False)
class SubspaceReport(Record):
    """Effects of patching a subspace and its parts, each in the order of ``parts``.

    ``effect`` is how far a patch is from having done nothing, in recovered score: from 0 to 1 for
    denoising, from 0 to -1 for noising. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "raw": ("part",),
        "separability": ("part",),
        "held_out_raw": ("part",),
    }

    site: str
    readout: str
    """The linear map whose row space is meant, e.g. ``"W_out of layer 8"``."""
    dimensions: int
    """Dimensions of the subspace."""
    raw: Float[Tensor, "part"]
    """The metric after patching, averaged over prompts, in its own units."""
    clean: float
    corrupted: float
    separability: Float[Tensor, "part"]
    """How well the projection tells the two kinds of prompt apart on clean data: area under the ROC
    curve, 0.5 is chance. NaN where it was not measured."""
    row_space_share: float
    """Share of the subspace that lies in the readout's row space: mean squared norm, 0 to 1."""
    readout_z: float
    """How far the patched readout lies out of distribution: mean absolute z-score under clean data."""
    provenance: Provenance
    held_out_raw: Float[Tensor, "part"] | None = None
    """As ``raw``, on prompts of templates that played no part in finding the subspace."""
    held_out_clean: float | None = None
    held_out_corrupted: float | None = None

    def __post_init__(self) -> None:
        self._check_axes(part=len(SUBSPACE_PARTS))
        held_out = (self.held_out_raw, self.held_out_clean, self.held_out_corrupted)
        if len({part is None for part in held_out}) > 1:
            raise RecordError("give held_out_raw, held_out_clean and held_out_corrupted together, or none.")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, in the order of every field."""
        return SUBSPACE_PARTS

    @property
    def effect(self) -> Float[Tensor, "part"]:
        """Recovered score minus that of having done nothing; NaN when both baselines are equal."""
        return self._effect(self.raw, self.clean, self.corrupted)

    @property
    def held_out_effect(self) -> Float[Tensor, "part"] | None:
        """As ``effect``, on held-out templates."""
        if self.held_out_raw is None or self.held_out_clean is None or self.held_out_corrupted is None:
            return None
        return self._effect(self.held_out_raw, self.held_out_clean, self.held_out_corrupted)

    def _effect(self, raw: Tensor, clean: float, corrupted: float) -> Tensor:
        nothing = clean if self.provenance.direction == "noise" else corrupted
        gap = clean - corrupted
        return (raw - nothing) / gap if gap else raw * float("nan")

    @property
    def warning(self) -> str | None:
        """Why this patch may be an illusion, or ``None``.

        It warns when the subspace's effect is noticeable and much more than that of its part in the
        readout's row space and than that of the full activation (the parts count in the subspace's
        direction: an opposite effect counts as none).
        """
        subspace, row_space, _, full = self.effect.tolist()
        sign = -1.0 if subspace < 0 else 1.0
        strength = sign * subspace
        if not strength >= NOTICEABLE:
            return None
        if strength < MUCH_MORE * max(sign * row_space, sign * full, 0.0):
            return None
        return (
            f"possible illusion: the subspace does {subspace:.2f}, its row-space part {row_space:.2f} and "
            f"the full activation {full:.2f}; the patch may work through a pathway that is dormant on the "
            "data."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a part: raw metric, effect, separability, held-out effect."""
        import pandas as pd

        held_out = self.held_out_effect
        return pd.DataFrame(
            {
                "part": self.parts,
                "raw": self.raw.tolist(),
                "effect": self.effect.tolist(),
                "separability": self.separability.tolist(),
                "held_out_effect": [None] * len(self.parts) if held_out is None else held_out.tolist(),
            }
        )

    def plot(self) -> go.Figure:
        """Effects and separability of every part (``interp.plots.plot_subspace_report``)."""
        return draw("plot_subspace_report", self)
