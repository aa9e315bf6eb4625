"""How a dictionary's directions lie to one another, and which latents fire together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class FeatureGeometry(Record):
    """Cosines, spectrum and co-activation of a dictionary's latents.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "nearest_cosine": ("latent",),
        "nearest": ("latent",),
        "random_cosine": ("latent",),
        "spectrum": ("rank",),
        "firing": ("latent",),
        "top": ("top",),
        "phi": ("top", "top"),
        "jaccard": ("top", "top"),
    }

    nearest_cosine: Float[Tensor, " latent"]
    """Largest cosine of each latent's direction with that of another latent."""
    nearest: Int[Tensor, " latent"]
    """The other latent."""
    random_cosine: Float[Tensor, " latent"]
    """The same among as many random directions, sorted: where chance lies."""
    spectrum: Float[Tensor, " rank"]
    """Squared singular values of the unit directions, as shares that sum to 1, the largest first."""
    firing: Float[Tensor, " latent"] | None
    """Share of rows where each latent fires; ``None`` where no activations were given."""
    top: Int[Tensor, " top"]
    """Latents whose co-activation is here: those that fire most, the most frequent first."""
    phi: Float[Tensor, "top top"]
    """Correlation of firing (phi coefficient); NaN where a latent always or never fires."""
    jaccard: Float[Tensor, "top top"]
    """Rows where both fire over rows where one does; NaN where none does."""
    duplicate_cosine: float
    """Directions this near count as duplicates."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if len(self.nearest_cosine) < 2:
            raise RecordError("geometry is of at least two latents.")

    def __repr__(self) -> str:
        return f"FeatureGeometry({self.summary()})"

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary."""
        return len(self.nearest_cosine)

    @property
    def effective_dimension(self) -> float:
        """Participation ratio of the spectrum, ``1 / sum(share^2)``: from 1 to the number of dimensions."""
        return float(1 / self.spectrum.double().square().sum())

    @property
    def n_duplicates(self) -> int:
        """Latents that have another one at a cosine of at least ``duplicate_cosine``."""
        return int((self.nearest_cosine >= self.duplicate_cosine).sum())

    @property
    def n_dead(self) -> int | None:
        """Latents that never fire; ``None`` where no activations were given."""
        return None if self.firing is None else int((self.firing == 0).sum())

    @property
    def n_dead_duplicates(self) -> int | None:
        """Latents that never fire whose nearest, a duplicate, does."""
        if self.firing is None:
            return None
        same = self.nearest_cosine >= self.duplicate_cosine
        return int((same & (self.firing == 0) & (self.firing[self.nearest] > 0)).sum())

    def closest_pairs(self, n: int = 10) -> list[tuple[int, int, float]]:
        """Latents that are nearest to one another, with their cosine, the nearest first; a pair once."""
        order = self.nearest_cosine.argsort(descending=True, stable=True).tolist()
        found: dict[tuple[int, int], float] = {}
        for latent in order:
            other = int(self.nearest[latent])
            found.setdefault((min(latent, other), max(latent, other)), float(self.nearest_cosine[latent]))
        return [(*pair, cosine) for pair, cosine in list(found.items())[:n]]

    def summary(self) -> str:
        """One line: effective dimension, nearest cosines against chance, duplicates, dead latents."""
        dead = (
            ""
            if self.n_dead is None
            else f", {self.n_dead} dead ({self.n_dead_duplicates} of them duplicates)"
        )
        return (
            f"{self.n_latents} latents, effective dimension {self.effective_dimension:.1f}, median nearest cosine "
            f"{float(self.nearest_cosine.median()):.2f} (random {float(self.random_cosine.median()):.2f}), "
            f"{self.n_duplicates} duplicates{dead}; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a latent: its nearest other latent, their cosine, and how often it fires."""
        import pandas as pd

        return pd.DataFrame(
            {
                "latent": range(self.n_latents),
                "nearest": self.nearest.tolist(),
                "cosine": self.nearest_cosine.tolist(),
                "firing": [float("nan")] * self.n_latents if self.firing is None else self.firing.tolist(),
            }
        )

    def plot(self, measure: Literal["phi", "jaccard"] = "phi") -> go.Figure:
        """Cosines, spectrum and co-activation (``interp.plots.plot_geometry``)."""
        return draw("plot_geometry", self, measure=measure)
