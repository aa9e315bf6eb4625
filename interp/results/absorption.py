"""Whether a dictionary's latents for general features fall silent where specific ones fire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
class Absorption(Record):
    """Rows where parent features are active, and what became of the parents' latents there.

    Defined in :func:`interp.coders.ground_truth.measure_absorption`. Raises :class:`RecordError` when the fields do
    not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            ("parents", "latents", "cosines", "n_latents", "n_active", "n_silent", "n_absorbed"), ("parent",)
        ),
        **dict.fromkeys(
            ("children", "child_parent", "child_cosines", "child_active", "child_absorbed"), ("child",)
        ),
    }

    parents: Int[Tensor, " parent"]
    """Numbers of the features that have children."""
    latents: Int[Tensor, " parent"]
    """Each parent's main latent; -1 where no latent is near enough to it."""
    cosines: Float[Tensor, " parent"]
    """Of the main latent's decoder row with the parent's direction; 0 without one."""
    n_latents: Int[Tensor, " parent"]
    """Latents that stand for the parent: 1 is whole, more is split, 0 is lost."""
    n_active: Int[Tensor, " parent"]
    """Rows where the parent is active."""
    n_silent: Int[Tensor, " parent"]
    """Of these, rows where all of the parent's latents are silent."""
    n_absorbed: Int[Tensor, " parent"]
    """Of these, rows where a child's latent carries the parent."""
    children: Int[Tensor, " child"]
    """Numbers of the features that have a parent."""
    child_parent: Int[Tensor, " child"]
    """Number of the parent feature."""
    child_cosines: Float[Tensor, " child"]
    """Of the child's latent with the *parent's* direction; 0 without a latent. About 0 where nothing is absorbed."""
    child_active: Int[Tensor, " child"]
    """Rows where the child is active."""
    child_absorbed: Int[Tensor, " child"]
    """Of these, rows where the parent is absorbed by this child's latent."""
    least_cosine: float
    carries: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if not len(self.parents) or not len(self.children):
            raise RecordError("absorption is of parents and children; got none.")
        if bool((self.n_absorbed > self.n_silent).any()) or bool((self.n_silent > self.n_active).any()):
            raise RecordError(
                "absorbed rows are silent ones, silent rows active ones; the counts say otherwise."
            )

    def __repr__(self) -> str:
        return f"Absorption({self.summary()})"

    @property
    def rates(self) -> Float[Tensor, " parent"]:
        """Share of a parent's active rows that are absorbed; NaN where it has no latent or is never active."""
        return _share(self.n_absorbed, self.n_active).where(self.latents >= 0, float("nan"))

    @property
    def silent_rates(self) -> Float[Tensor, " parent"]:
        """Share of a parent's active rows where all its latents are silent, absorbed or not."""
        return _share(self.n_silent, self.n_active)

    @property
    def child_rates(self) -> Float[Tensor, " child"]:
        """Share of a child's active rows where its latent absorbs the parent."""
        return _share(self.child_absorbed, self.child_active)

    @property
    def mean_rate(self) -> float:
        """Absorption rate, a mean over parents that have a latent; NaN without any."""
        return float(self.rates.double().nanmean())

    @property
    def n_split(self) -> int:
        """Parents with more than one latent."""
        return int((self.n_latents > 1).sum())

    @property
    def n_lost(self) -> int:
        """Parents without a latent."""
        return int((self.n_latents == 0).sum())

    def summary(self) -> str:
        """One line: absorption rate, silent rate, split and lost parents."""
        return (
            f"absorbed on {self.mean_rate:.1%} of rows where a parent is active, silent on "
            f"{float(self.silent_rates.double().nanmean()):.1%}; of {len(self.parents)} parents {self.n_split} "
            f"split, {self.n_lost} lost; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a parent: its latent, cosine, number of latents, rows active, silent and absorbed, rate."""
        import pandas as pd

        return pd.DataFrame(
            {
                "parent": self.parents.tolist(),
                "latent": self.latents.tolist(),
                "cosine": self.cosines.tolist(),
                "n_latents": self.n_latents.tolist(),
                "n_active": self.n_active.tolist(),
                "n_silent": self.n_silent.tolist(),
                "n_absorbed": self.n_absorbed.tolist(),
                "rate": self.rates.tolist(),
            }
        )

    def plot(self) -> go.Figure:
        """Rates by parent, and children's latents (``interp.plots.plot_absorption``)."""
        return draw("plot_absorption", self)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return (part.double() / whole.clamp(min=1)).where(whole > 0, float("nan")).float()
