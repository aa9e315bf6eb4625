"""The dose of a steering: how far the model's next-token distribution moves on neutral text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class DoseCalibration(Record):
    """KL(unsteered || steered) on neutral text by strength, in nats a token.

    It is what a token of the unsteered model's own text loses in log probability on average. The mean is over
    the tokens from the first steered one of a row on. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "strengths": ("strength",),
        "kl": ("strength",),
        "low": ("strength",),
        "high": ("strength",),
    }

    strengths: Float[Tensor, "strength"]
    """Rising, 0 among them."""
    kl: Float[Tensor, "strength"]
    low: Float[Tensor, "strength"]
    """Lower end of the bootstrap interval over rows of text."""
    high: Float[Tensor, "strength"]
    confidence: float
    text: str
    """The neutral text, with a digest."""
    n_tokens: int
    """Tokens that the mean is over."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        strengths = self.strengths.tolist()
        if 0.0 not in strengths or any(a >= b for a, b in itertools.pairwise(strengths)):
            raise RecordError(f"strengths of a calibration rise and hold 0; got {strengths}.")
        if len(strengths) < 2:
            raise RecordError("a calibration needs a strength besides 0.")

    def __repr__(self) -> str:
        return f"DoseCalibration({self.summary()})"

    def summary(self) -> str:
        """One line: the range of doses, and the strength of half a nat where it is reached."""
        low, high = self.doses
        return f"doses {low:.3g} to {high:.3g} nats on {self.text}"

    @property
    def doses(self) -> tuple[float, float]:
        """Smallest and largest dose that can be asked for; negative is the other way."""
        return -self._largest(-1), self._largest(1)

    @property
    def strength_range(self) -> tuple[float, float]:
        """Strengths between which doses are looked up: on either side up to the first fall of the KL."""
        return -float(self._side(-1)[0][-1]), float(self._side(1)[0][-1])

    def _side(self, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Strengths and roots of KL from 0 on one side, up to the first fall of the KL."""
        strengths, kl = self.strengths.double().numpy(), self.kl.double().numpy()
        order = np.argsort(sign * strengths)
        chosen = order[sign * strengths[order] >= 0]
        x, y = sign * strengths[chosen], np.sqrt(np.clip(kl[chosen], 0, None))
        falls = np.flatnonzero(np.diff(y) <= 0)
        stop = len(y) if not len(falls) else int(falls[0]) + 1
        return x[:stop], y[:stop]

    def _largest(self, sign: int) -> float:
        return float(self._side(sign)[1][-1] ** 2)

    def strength_for(self, dose: float) -> float:
        """The strength with this KL: linear between measured ones in the root of the KL, which is straight at 0.

        A negative dose is a negative strength with that KL. Raises :class:`RecordError` for a dose beyond
        those that were measured.
        """
        sign = -1 if dose < 0 else 1
        x, y = self._side(sign)
        wanted = float(np.sqrt(abs(dose)))
        if not wanted <= y[-1]:
            low, high = self.doses
            why = (
                "it was not measured in that direction"
                if len(y) < 2
                else f"at strength {sign * x[-1]:.4g} the KL is {y[-1] ** 2:.4g} nats"
            )
            raise RecordError(
                f"a dose of {dose:g} nats lies outside {low:.3g} to {high:.3g}: {why}. Ask for less, or calibrate "
                "with a larger max_dose (an operation that has an end, as projecting out, reaches no more)."
            )
        return sign * float(np.interp(wanted, y, x))

    def dose_at(self, strength: float) -> float:
        """The KL at a strength, nats; linear between measured ones in its root. Raises as :meth:`strength_for`."""
        x = self.strengths.double().numpy()
        if not x[0] <= strength <= x[-1]:
            raise RecordError(
                f"strength {strength:g} lies outside the measured ones, {x[0]:.3g} to {x[-1]:.3g}."
            )
        return float(np.interp(strength, x, np.sqrt(np.clip(self.kl.double().numpy(), 0, None))) ** 2)

    def to_frame(self) -> pd.DataFrame:
        """One row a strength: strength, kl, low, high."""
        import pandas as pd

        columns = ("strengths", "kl", "low", "high")
        return pd.DataFrame({name.removesuffix("s"): getattr(self, name).tolist() for name in columns})

    def plot(self) -> go.Figure:
        """KL against strength, with its interval (``interp.plots.plot_dose_calibration``)."""
        return draw("plot_dose_calibration", self)
