"""Directions of several methods beside each other: how alike, how stable, how well they tell prompts apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class SteeringDirections(Record):
    """One direction a row: of a method at a site. All come from one contrast.

    The last axis of an array with intervals is value, low, high. Raises :class:`RecordError` when the fields do
    not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "auc": ("row", "end"),
        "stability": ("row", "end"),
        "cosines": ("row", "row"),
    }

    methods: tuple[str, ...]
    """``"mean-difference"`` ...; for directions of a coder the name it was given."""
    sites: tuple[str, ...]
    """Where each is a direction of: ``"resid_post[1]"``."""
    directions: tuple[Float[Tensor, " _"], ...]
    """As long as the site's mean difference; those of coders have the length that their latents write."""
    auc: Float[Tensor, "row end"]
    """Chance that a positive prompt lies higher than a negative one, on prompts that the direction was fitted
    without; the interval is of these prompts resampled."""
    stability: Float[Tensor, "row end"]
    """Mean absolute cosine of refits on resampled prompts with the direction; low and high are quantiles
    of the refits."""
    cosines: Float[Tensor, "row row"]
    """NaN between directions of different spaces. All sites of the residual stream and what is added to it are one
    space; neurons and heads of each layer are their own."""
    n_bootstrap: int
    confidence: float
    model_digest: str
    data: str
    """The prompts, with a digest."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(row=len(self.methods), end=3)
        if not self.methods or not len(self.methods) == len(self.sites) == len(self.directions):
            raise RecordError(
                f"there is a method, a site and a direction a row; got {len(self.methods)}, {len(self.sites)} and "
                f"{len(self.directions)}."
            )
        if len(set(zip(self.methods, self.sites, strict=True))) < len(self.methods):
            raise RecordError("a method has one direction at a site; some row is there twice.")

    def __repr__(self) -> str:
        return f"SteeringDirections({self.summary()})"

    @property
    def names(self) -> tuple[str, ...]:
        """Each row for people: the method, with its site where there are several."""
        if len(set(self.sites)) == 1:
            return self.methods
        return tuple(f"{m} {s}" for m, s in zip(self.methods, self.sites, strict=True))

    def row(self, method: str, site: str | None = None) -> int:
        """Number of a row; without a site the only one of this method.

        Raises :class:`RecordError` for what is not there, and where several sites have the method.
        """
        if method not in self.methods:
            raise RecordError(unknown_name("extraction method", method, self.methods))
        found = [i for i, name in enumerate(self.methods) if name == method and site in (None, self.sites[i])]
        if len(found) != 1:
            here = [self.sites[i] for i, name in enumerate(self.methods) if name == method]
            raise RecordError(
                f"{method!r} has a direction at {', '.join(here)}; say one of them, got {site!r}."
            )
        return found[0]

    def direction(self, method: str, site: str | None = None) -> Float[Tensor, " d"]:
        """A direction; raises as :meth:`row`."""
        return self.directions[self.row(method, site)]

    def auc_of(self, method: str, site: str | None = None) -> Estimate:
        """AUC on held-out prompts with its interval; raises as :meth:`row`."""
        return Estimate(*self.auc[self.row(method, site)].tolist())

    def stability_of(self, method: str, site: str | None = None) -> Estimate:
        """Cosine of refits with the direction, and their quantiles; raises as :meth:`row`."""
        return Estimate(*self.stability[self.row(method, site)].tolist())

    def cosine(self, one: str, other: str, site: str | None = None) -> float:
        """Cosine of two methods at a site; NaN between spaces. Raises as :meth:`row`."""
        return float(self.cosines[self.row(one, site), self.row(other, site)])

    def summary(self) -> str:
        """One line: how many, the best AUC, the most and least stable."""
        best = int(self.auc[:, 0].nan_to_num(nan=-1.0).argmax())
        loose, firm = int(self.stability[:, 0].argmin()), int(self.stability[:, 0].argmax())
        return (
            f"{len(self.methods)} directions; best AUC {float(self.auc[best, 0]):.3f} ({self.names[best]}), stability "
            f"{float(self.stability[loose, 0]):.2f} ({self.names[loose]}) to {float(self.stability[firm, 0]):.2f} "
            f"({self.names[firm]}); {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a direction: method, site, norm, auc and stability with their intervals, and the cosine with every
        other by its name."""
        import pandas as pd

        rows = []
        for i, (method, site) in enumerate(zip(self.methods, self.sites, strict=True)):
            row: dict[str, object] = {
                "method": method,
                "site": site,
                "norm": float(self.directions[i].norm()),
            }
            for name, values in (("auc", self.auc), ("stability", self.stability)):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), values[i].tolist(), strict=True))
            rows.append(
                row | {f"cos {n}": float(c) for n, c in zip(self.names, self.cosines[i], strict=True)}
            )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Cosines of all, beside AUC and stability of each (``interp.plots.plot_steering_directions``)."""
        return draw("plot_steering_directions", self)


@dataclass(frozen=True, eq=False)
class PlantedRecovery(Record):
    """How near methods come to a direction that was planted: absolute cosines of several seeds.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "strengths": ("strength",),
        "cosines": ("method", "strength", "seed"),
    }

    methods: tuple[str, ...]
    strengths: Float[Tensor, " strength"]
    """Length of what was planted; its unit is said by ``unit``."""
    cosines: Float[Tensor, "method strength seed"]
    """Absolute cosine with the planted direction; 0 where a method found nothing."""
    unit: str
    """What strengths are multiples of."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(method=len(self.methods))
        if not self.cosines.numel():
            raise RecordError("a recovery needs methods, strengths and seeds; got none of some.")

    def __repr__(self) -> str:
        return f"PlantedRecovery({self.summary()})"

    def intervals(self) -> Float[Tensor, "method strength end"]:
        """Mean over seeds, and the t interval of the mean within 0 to 1; NaN ends for one seed."""
        from scipy.stats import t as student

        n = self.cosines.shape[-1]
        mean = self.cosines.mean(-1)
        if n < 2:
            return torch.stack([mean, *[torch.full_like(mean, float("nan"))] * 2], dim=-1)
        half = float(student.ppf((1 + self.confidence) / 2, n - 1)) * self.cosines.std(-1) / n**0.5
        return torch.stack([mean, (mean - half).clamp(min=0), (mean + half).clamp(max=1)], dim=-1)

    def at(self, method: str, strength: float) -> Estimate:
        """Mean absolute cosine with its interval. Raises :class:`RecordError` for what was not tried."""
        if method not in self.methods:
            raise RecordError(unknown_name("extraction method", method, self.methods))
        near = (self.strengths - strength).abs() <= 1e-6 * max(1.0, abs(strength))
        if not bool(near.any()):
            raise RecordError(f"strengths are {self.strengths.tolist()}; got {strength}.")
        return Estimate(*self.intervals()[self.methods.index(method), int(near.int().argmax())].tolist())

    def summary(self) -> str:
        """One line: the mean cosine of every method at the largest strength."""
        ends = self.cosines[:, -1].mean(-1).tolist()
        shown = ", ".join(f"{name} {value:.3f}" for name, value in zip(self.methods, ends, strict=True))
        return f"at {float(self.strengths[-1]):g} {self.unit}: {shown}; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """One row a method and strength: mean, low, high, lowest and highest seed."""
        import pandas as pd

        rows = []
        found = self.intervals()
        for i, method in enumerate(self.methods):
            for j, strength in enumerate(self.strengths.tolist()):
                mean, low, high = found[i, j].tolist()
                ends = {"lowest": float(self.cosines[i, j].min()), "highest": float(self.cosines[i, j].max())}
                rows.append(
                    {"method": method, "strength": strength, "cosine": mean, "low": low, "high": high} | ends
                )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Cosine over strength, a curve a method (``interp.plots.plot_planted_recovery``)."""
        return draw("plot_planted_recovery", self)
