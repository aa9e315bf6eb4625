"""Searches for where to steer: every candidate's score, and how well cheap searches agree with brute force."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import NOT_SAVED, Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BRUTE_FORCE = "brute-force"
ANY_CHOICE = "any candidate"
"""The row of a comparison that says what a choice at random comes to on average."""


@dataclass(frozen=True)
class SearchedCandidate:
    """One candidate of a search at one dose."""

    rank: int | None
    """From 1; ``None`` where it was filtered out or has no score."""
    site: str
    position: str
    """Where its direction was read."""
    acts_at: str
    """The site with the positions it acts at."""
    dose: float
    strength: float
    """As known to the search: measured, predicted, or NaN."""
    score: float
    passed: bool


@dataclass(frozen=True, eq=False)
class SteeringSearch(Record):
    """Scores of directions by the site and position they were read at, and by dose.

    Made by :func:`interp.search_steering`. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "scores": ("site", "position", "dose"),
        "strengths": ("site", "position", "dose"),
        "passed": ("site", "position"),
        "effects": ("site", "position", "dose", "prompt"),
    }

    method: str
    sites: tuple[str, ...]
    positions: tuple[str, ...]
    """Where directions were read: ``"all"`` (the mean), ``"-1"`` ..."""
    doses: tuple[float, ...]
    """Nats."""
    scores: Float[Tensor, "site position dose"]
    """The larger the better; NaN where there is none."""
    strengths: Float[Tensor, "site position dose"]
    """With that dose: measured by brute force, predicted from gradients, else NaN."""
    passed: Bool[Tensor, "site position"]
    """False where the search rules a candidate out."""
    score: str
    """What scores are."""
    directions: Mapping[str, Tensor]
    """By ``"site read at position"``: [d] of every candidate."""
    acts_at: str | None
    """Positions at which all act: ``None`` for every token, ``"read"`` for where each was read."""
    extraction: str
    forwards: int
    """Prompts that went through the model."""
    backwards: int
    provenance: Provenance
    effects: Float[Tensor, "site position dose prompt"] | None = None
    """Brute force: how far each candidate moved the objective of each prompt."""
    figures: Mapping[str, Float[Tensor, "site position"]] = field(default_factory=dict)
    """What a filter looked at, by name."""
    data: str | None = None
    model_digest: str | None = None
    maker: Callable[..., Any] | None = field(default=None, repr=False, metadata=NOT_SAVED)
    """Makes a steering, for :meth:`steering`; lost when saved."""

    def __post_init__(self) -> None:
        self._check_axes(site=len(self.sites), position=len(self.positions), dose=len(self.doses))
        if not self.sites or not self.positions or not self.doses:
            raise RecordError("a search needs sites, positions and doses; one of them is empty.")

    def __repr__(self) -> str:
        return f"SteeringSearch({self.summary()})"

    @property
    def top_dose(self) -> float:
        """The dose that is meant where none is named: the last."""
        return self.doses[-1]

    def dose_index(self, dose: float | None = None) -> int:
        """Its place on the axis. Raises :class:`RecordError` for a dose that was not searched."""
        wanted = self.top_dose if dose is None else dose
        for number, one in enumerate(self.doses):
            if math.isclose(one, wanted):
                return number
        raise RecordError(f"this search was made at doses {list(self.doses)}; got {wanted:g}.")

    def acting_site(self, site: int, position: int) -> str:
        """The site of a candidate with the positions it acts at."""
        at = self.positions[position] if self.acts_at == "read" else self.acts_at
        return self.sites[site] if at is None else f"{self.sites[site]}@{at}"

    def listed(self, dose: float | None = None) -> tuple[SearchedCandidate, ...]:
        """Every candidate at a dose, the best first, those that were ruled out or have no score last."""
        number = self.dose_index(dose)
        flat = self.scores[..., number].flatten().double()
        kept = self.passed.flatten() & flat.isfinite()
        order = torch.where(kept, flat, -torch.inf).argsort(descending=True, stable=True).tolist()
        n_kept, found = int(kept.sum()), []
        for place, index in enumerate(order):
            site, position = divmod(index, len(self.positions))
            found.append(
                SearchedCandidate(
                    place + 1 if place < n_kept else None,
                    self.sites[site],
                    self.positions[position],
                    self.acting_site(site, position),
                    self.doses[number],
                    float(self.strengths[site, position, number]),
                    float(flat[index]),
                    bool(self.passed[site, position]),
                )
            )
        return tuple(found)

    def ranked(self, dose: float | None = None) -> tuple[SearchedCandidate, ...]:
        """The candidates that have a rank, the best first."""
        return tuple(one for one in self.listed(dose) if one.rank is not None)

    def at_rank(self, rank: int, dose: float | None = None) -> SearchedCandidate:
        """The candidate of a rank, from 1. Raises :class:`RecordError` where there is none."""
        ranked = self.ranked(dose)
        if not 1 <= rank <= len(ranked):
            n = len(self.sites) * len(self.positions)
            raise RecordError(
                f"rank {rank} was asked for; {len(ranked)} of {n} candidates have one"
                f"{' (the others were filtered out: see figures)' if len(ranked) < n else ''}. Ranks count from 1."
            )
        return ranked[rank - 1]

    @property
    def best(self) -> SearchedCandidate:
        """The first at the last dose. Raises :class:`RecordError` where all were ruled out."""
        return self.at_rank(1)

    def cheapest(self, effect: float) -> SearchedCandidate:
        """The candidate of the smallest dose whose effect is at least ``effect``: the one that reaches furthest.

        Raises :class:`RecordError` where scores are not measured effects, and where nothing reaches it.
        """
        if self.effects is None:
            raise RecordError(f"{self.method} measures no effects; search by {BRUTE_FORCE}.")
        for dose in sorted(self.doses, key=abs):
            ranked = self.ranked(dose)
            if ranked and ranked[0].score >= effect:
                return ranked[0]
        raise RecordError(f"no candidate at doses {list(self.doses)} has an effect of {effect:g}.")

    def direction_of(self, candidate: SearchedCandidate) -> Float[Tensor, " d"]:
        """The direction of a candidate, as it was extracted."""
        return self.directions[direction_key(candidate.site, candidate.position)]

    def steering(self, rank: int = 1, dose: float | None = None, **options: Any) -> Any:
        """The steering of a rank, its dose calibrated: :func:`interp.steering.search.steering_from`.

        Raises :class:`RecordError` for a search that was read from a file: it no longer knows its model.
        """
        if self.maker is None:
            raise RecordError(
                "this search does not know its model (it was read from a file, or made by hand); use "
                "interp.steering.search.steering_from(model, search, rank)."
            )
        return self.maker(self, rank, dose, **options)

    def summary(self) -> str:
        """One line: the best candidate, what the search cost."""
        ranked = self.ranked()
        n = len(self.sites) * len(self.positions)
        best = (
            f"best {ranked[0].site} read at {ranked[0].position}, {self.score} {ranked[0].score:.3g}"
            if ranked
            else "none passed"
        )
        return (
            f"{self.method}: {best} at {self.top_dose:g} nats; {len(ranked)} of {n} candidates ranked, "
            f"{self.forwards} prompts forward and {self.backwards} back; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a candidate and dose: rank, site, position, dose, strength, score, passed, and each figure."""
        import pandas as pd

        rows = []
        for dose in self.doses:
            for one in self.listed(dose):
                at = self.sites.index(one.site), self.positions.index(one.position)
                measured = {name: float(values[at]) for name, values in self.figures.items()}
                row = {name: getattr(one, name) for name in one.__dataclass_fields__}
                rows.append(row | measured)
        return pd.DataFrame(rows).astype({"rank": "Int64"})

    def plot(self) -> go.Figure:
        """A map of scores, site by position, for every dose (``interp.plots.plot_steering_search``)."""
        return draw("plot_steering_search", self)


def direction_key(site: str, position: str) -> str:
    """The name of a candidate among :attr:`SteeringSearch.directions`."""
    return f"{site} read at {position}"


@dataclass(frozen=True, eq=False)
class SearchComparison(Record):
    """How searches choose, judged by measured effects on prompts that no search saw.

    Rows are methods; the one named :data:`BRUTE_FORCE` chooses by measured effects on the prompts to search
    with, so it too can be wrong. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "scores": ("method", "site", "position"),
        "passed": ("method", "site", "position"),
        "judged": ("site", "position", "prompt"),
    }

    methods: tuple[str, ...]
    sites: tuple[str, ...]
    positions: tuple[str, ...]
    dose: float
    scores: Float[Tensor, "method site position"]
    passed: Bool[Tensor, "method site position"]
    judged: Float[Tensor, "site position prompt"]
    """Measured effect at the dose on each prompt to judge with; NaN where no strength has the dose."""
    spearman: tuple[Estimate, ...]
    """Rank correlation of a method's scores with judged effects over candidates; those it rules out too."""
    regret: tuple[Estimate, ...]
    """1 minus the judged effect of its choice over that of the best candidate; NaN where it chose none."""
    top_overlap: tuple[Estimate, ...]
    """Share of its first ``k`` that are among the best ``k``."""
    any_regret: Estimate
    """Regret of a candidate drawn at random, on average."""
    k: int
    forwards: tuple[int, ...]
    backwards: tuple[int, ...]
    seconds: tuple[float, ...]
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(method=len(self.methods), site=len(self.sites), position=len(self.positions))
        for name in ("spearman", "regret", "top_overlap", "forwards", "backwards", "seconds"):
            if len(getattr(self, name)) != len(self.methods):
                raise RecordError(f"{name} needs one entry for each of {len(self.methods)} methods.")

    def __repr__(self) -> str:
        return f"SearchComparison({self.summary()})"

    def chosen(self, method: str) -> tuple[str, str] | None:
        """Site and position that a method ranks first; ``None`` where it rules all out."""
        if method not in self.methods:
            raise RecordError(f"{method!r} was not compared; there is {', '.join(self.methods)}.")
        row = self.methods.index(method)
        flat = torch.where(self.passed[row], self.scores[row].double(), torch.nan).flatten()
        if not bool(flat.isfinite().any()):
            return None
        best = int(flat.nan_to_num(-torch.inf).argmax())
        site, position = divmod(best, len(self.positions))
        return self.sites[site], self.positions[position]

    def summary(self) -> str:
        """One line: regret of every method."""
        parts = [f"{name} {regret}" for name, regret in zip(self.methods, self.regret, strict=True)]
        return (
            f"regret at {self.dose:g} nats: {', '.join(parts)}, {ANY_CHOICE} {self.any_regret}; "
            f"{self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a method: chosen site and position, regret, spearman, top_overlap with ends, and what it cost."""
        import pandas as pd

        rows = []
        for number, method in enumerate(self.methods):
            site, position = self.chosen(method) or (None, None)
            row: dict[str, Any] = {"method": method, "site": site, "position": position}
            for name in ("regret", "spearman", "top_overlap"):
                one: Estimate = getattr(self, name)[number]
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
            row |= {name: getattr(self, name)[number] for name in ("forwards", "backwards", "seconds")}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Maps of every method beside measured effects, and their regret (``interp.plots.plot_search_comparison``)."""
        return draw("plot_search_comparison", self)
