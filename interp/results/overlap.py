"""How much circuits of several tasks have in common, beside what chance would have them share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LEVELS = ("edges", "nodes", "heads")
NULLS = ("uniform", "stratified")
"""What is held fixed when sets are drawn by chance: their sizes, or their sizes in every stratum."""
MEASURES = ("iou", "coefficient")
CUTS = ("fraction", "threshold", "circuit")


@dataclass(frozen=True, eq=False)
class CircuitOverlap(Record):
    """What every two of several circuits share, at one cut of their scores or at several.

    Sets are of edges, of nodes or of heads. The null is that of two sets drawn at random: ``uniform``
    of the same sizes, ``stratified`` of the same sizes in every stratum (see
    :func:`interp.compare_circuits`). Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sizes": ("cut", "circuit"),
        "shared": ("cut", "pair"),
        "null_low": ("null", "cut", "pair"),
        "null_median": ("null", "cut", "pair"),
        "null_high": ("null", "cut", "pair"),
        "p_values": ("null", "cut", "pair"),
    }

    names: tuple[str, ...]
    """Of the circuits: usually their tasks."""
    level: str
    """``edges``, ``nodes`` or ``heads``."""
    n_items: int
    """Edges, nodes or heads that there are to choose from."""
    cuts: tuple[float, ...]
    """Share of the edges, or the threshold, at each cut; a single NaN where circuits were given."""
    cut_by: str
    """``fraction``, ``threshold`` or ``circuit``."""
    sizes: Int[Tensor, "cut circuit"]
    shared: Int[Tensor, "cut pair"]
    """Items in both circuits of a pair; pairs as in :attr:`pairs`."""
    null_low: Int[Tensor, "null cut pair"]
    """Items shared by chance: the interval's ends and the median, in the order of ``NULLS``."""
    null_median: Int[Tensor, "null cut pair"]
    null_high: Int[Tensor, "null cut pair"]
    p_values: Float[Tensor, "null cut pair"]
    """Probability that chance shares at least as many; one-sided, not corrected for many pairs."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        n = len(self.names)
        if n < 2 or len(set(self.names)) < n:
            raise RecordError(
                f"CircuitOverlap needs at least two circuits of different names; got {self.names}."
            )
        for kind, got, known in (("level", self.level, LEVELS), ("kind of cut", self.cut_by, CUTS)):
            if got not in known:
                raise RecordError(unknown_name(kind, got, known))
        self._check_axes(circuit=n, pair=n * (n - 1) // 2, cut=len(self.cuts), null=len(NULLS))
        if bool((self.shared > torch.minimum(*self._pair_sizes)).any()):
            raise RecordError("CircuitOverlap has circuits that share more than the smaller of them has.")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Numbers of the two circuits of every pair: (0, 1), (0, 2) ... (1, 2) ..."""
        return tuple(itertools.combinations(range(len(self.names)), 2))

    @property
    def _pair_sizes(self) -> tuple[Int[Tensor, "cut pair"], Int[Tensor, "cut pair"]]:
        first, second = (self.sizes[:, [pair[side] for pair in self.pairs]] for side in (0, 1))
        return first, second

    @property
    def iou(self) -> Float[Tensor, "cut pair"]:
        """Intersection over union, 0 to 1; NaN where both circuits are empty."""
        return self._measure(self.shared, "iou")

    @property
    def coefficient(self) -> Float[Tensor, "cut pair"]:
        """Overlap coefficient: the share of the smaller circuit that is in the other one, too; NaN where it is
        empty."""
        return self._measure(self.shared, "coefficient")

    def band(
        self, measure: str = "iou", null: str = "stratified"
    ) -> tuple[Float[Tensor, "cut pair"], Float[Tensor, "cut pair"], Float[Tensor, "cut pair"]]:
        """The null's lower end, median and upper end in a measure.

        Raises :class:`RecordError` for an unknown measure or null.
        """
        if null not in NULLS:
            raise RecordError(unknown_name("null", null, NULLS))
        row = NULLS.index(null)
        low, median, high = (
            self._measure(counts[row], measure)
            for counts in (self.null_low, self.null_median, self.null_high)
        )
        return low, median, high

    def matrix(self, measure: str = "iou", cut: int = 0) -> Float[Tensor, "circuit circuit"]:
        """One cut as a symmetric table; every circuit has 1 with itself.

        Raises :class:`RecordError` for an unknown measure.
        """
        found = torch.ones(len(self.names), len(self.names))
        for (i, j), value in zip(self.pairs, self._measure(self.shared, measure)[cut], strict=True):
            found[i, j] = found[j, i] = value
        return found

    def _measure(self, shared: Tensor, measure: str) -> Tensor:
        if measure not in MEASURES:
            raise RecordError(unknown_name("measure of overlap", measure, MEASURES))
        first, second = self._pair_sizes
        of = first + second - shared if measure == "iou" else torch.minimum(first, second)
        return shared / of.to(torch.float32)

    def cut_name(self, cut: int) -> str:
        """A cut for people: ``2 % of edges``, ``edges from 0.01 of the gap``, ``as given``."""
        if self.cut_by == "circuit":
            return "as given"
        value = self.cuts[cut]
        return (
            f"{100 * value:.3g} % of edges"
            if self.cut_by == "fraction"
            else f"edges from {value:.3g} of the gap"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a cut, pair and null: sizes, items shared, both measures, the null's interval and p-value."""
        import pandas as pd

        rows = []
        for cut, (pair, (i, j)) in itertools.product(range(len(self.cuts)), enumerate(self.pairs)):
            for row, null in enumerate(NULLS):
                rows.append(
                    {
                        self.cut_by: self.cuts[cut],
                        "circuit": self.names[i],
                        "other": self.names[j],
                        "size": int(self.sizes[cut, i]),
                        "other_size": int(self.sizes[cut, j]),
                        "shared": int(self.shared[cut, pair]),
                        "iou": float(self.iou[cut, pair]),
                        "coefficient": float(self.coefficient[cut, pair]),
                        "null": null,
                        "null_low": int(self.null_low[row, cut, pair]),
                        "null_median": int(self.null_median[row, cut, pair]),
                        "null_high": int(self.null_high[row, cut, pair]),
                        "p_value": float(self.p_values[row, cut, pair]),
                    }
                )
        return pd.DataFrame(rows)

    def plot(self, cut: int | None = None) -> go.Figure:
        """Tables of one cut, and overlap over all cuts (``interp.plots.plot_circuit_overlap``)."""
        return draw("plot_circuit_overlap", self, cut=cut)
