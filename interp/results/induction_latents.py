"""Which latents of a coder fire because a sequence repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class InductionLatents(Record):
    """Every latent on second copies of random sequences, and on the same tokens after another sequence.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("repeated_rate", "control_rate", "repeated_mean", "control_mean"), ("d_sae",)
    )

    site: str
    repeated_rate: Float[Tensor, " d_sae"]
    """Share of the second copy's tokens on which the latent fires."""
    control_rate: Float[Tensor, " d_sae"]
    """The same of the same tokens at the same positions, after a sequence that they do not repeat."""
    repeated_mean: Float[Tensor, " d_sae"]
    """Mean activation, silent tokens counted."""
    control_mean: Float[Tensor, " d_sae"]
    n_tokens: int
    """Tokens of each kind."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()

    @property
    def selectivity(self) -> Float[Tensor, " d_sae"]:
        """Share of the latent's activation that lies on repeated tokens: 0.5 for one that does not care, 1 for one
        that fires where something repeats and nowhere else; NaN for one that never fires."""
        return self.repeated_mean / (self.repeated_mean + self.control_mean)

    @property
    def n_fired(self) -> Float[Tensor, " d_sae"]:
        """On how many tokens of either kind each latent fires."""
        return (self.repeated_rate + self.control_rate) * self.n_tokens

    def _ranked(self, least: int) -> Float[Tensor, " d_sae"]:
        return torch.where(self.n_fired >= least, self.selectivity, torch.nan).nan_to_num(-1.0)

    def top(self, n: int = 10, least: int = 20) -> tuple[int, ...]:
        """The most selective latents of those that fire on ``least`` tokens or more, the first of them first."""
        ranked = self._ranked(least)
        order = ranked.argsort(descending=True, stable=True)
        return tuple(order[ranked[order] >= 0][:n].tolist())

    def count(self, selectivity: float = 0.75, least: int = 20) -> int:
        """Latents that fire on ``least`` tokens or more and are at least so selective."""
        return int((self._ranked(least) >= selectivity).sum())

    def summary(self) -> str:
        """How many latents there are, and the clearest."""
        n, busy = len(self.repeated_rate), int((self.n_fired >= 20).sum())
        text = (
            f"{self.site}: {self.count()} of the {busy} latents that fire (of {n}) have three quarters or more of "
            "their activation on repeated tokens"
        )
        for best in self.top(1):
            text += (
                f"; latent {best} fires on {float(self.repeated_rate[best]):.1%} of repeated tokens and "
                f"{float(self.control_rate[best]):.1%} of others"
            )
        return text

    def to_frame(self) -> pd.DataFrame:
        """One row a latent."""
        import pandas as pd

        columns = {name: getattr(self, name).numpy() for name in self.AXES}
        columns |= {"selectivity": self.selectivity.numpy(), "n_fired": self.n_fired.numpy()}
        return pd.DataFrame({"latent": torch.arange(len(self.repeated_rate)).numpy(), **columns})

    def plot(self) -> go.Figure:
        """Firing on repeated against other tokens (``interp.plots.plot_induction_latents``)."""
        return draw("plot_induction_latents", self)
