"""Whether the parts that were found matter more than as many parts drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
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
class AblationCheck(Record):
    """The metric with a chosen set of parts ablated together, and with random sets of equal size.

    All numbers are the metric averaged over the same prompts, in its own units. Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"random": ("set",)}

    names: tuple[str, ...]
    """The parts ablated together: ``"L9H6"``, ``"mlp_out L2"`` ..."""
    clean: float
    corrupted: float
    ablated: float
    random: Float[Tensor, "set"]
    """One number for each random set."""
    provenance: Provenance
    """``ablation`` says what the parts were replaced with."""
    random_names: tuple[tuple[str, ...], ...] = ()
    """The parts of each random set, where they were kept."""

    def __post_init__(self) -> None:
        sizes = {"set": len(self.random_names)} if self.random_names else {}
        self._check_axes(**sizes)
        if not self.names or self.random.numel() == 0:
            raise RecordError(
                "AblationCheck needs at least one ablated part and one random set; got "
                f"{len(self.names)} parts and {self.random.numel()} random sets."
            )
        unequal = [names for names in self.random_names if len(names) != len(self.names)]
        if unequal:
            raise RecordError(
                f"random sets must have as many parts as the ablated one ({len(self.names)}); "
                f"got {unequal[0]}."
            )

    @property
    def recovered(self) -> float:
        """Ablated metric on the recovered scale: 0 = corrupted, 1 = clean."""
        return self._recovered(self.ablated)

    @property
    def random_recovered(self) -> Float[Tensor, "set"]:
        """Random sets on the recovered scale."""
        return torch.tensor([self._recovered(value) for value in self.random.tolist()])

    def _recovered(self, value: float) -> float:
        gap = self.clean - self.corrupted
        return (value - self.corrupted) / gap if gap else float("nan")

    @property
    def random_as_strong(self) -> float:
        """Share of random sets that move the metric at least as far from clean as the chosen set."""
        moved = (self.random - self.clean).abs()
        return float((moved >= abs(self.ablated - self.clean)).double().mean())

    def to_frame(self) -> pd.DataFrame:
        """One row a run: clean, corrupted, the ablated set, every random set."""
        import pandas as pd

        names = self.random_names or ((),) * len(self.random)
        rows = [
            ("clean", (), self.clean),
            ("corrupted", (), self.corrupted),
            ("ablated", self.names, self.ablated),
            *(("random", parts, value) for parts, value in zip(names, self.random.tolist(), strict=True)),
        ]
        return pd.DataFrame(
            {"run": run, "parts": " ".join(parts), "metric": value, "recovered": self._recovered(value)}
            for run, parts, value in rows
        )

    def plot(self) -> go.Figure:
        """Bars with the random sets as points (``interp.plots.plot_ablation``)."""
        return draw("plot_ablation", self)
