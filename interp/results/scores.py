"""Scores of sites: what exact and approximate patching return."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError, SiteError, unknown_name
from interp.results.agreement import MethodAgreement
from interp.results.provenance import Provenance
from interp.results.record import NOT_SAVED, Record
from interp.results.subspace import SubspaceReport
from interp.results.token_text import visible_token
from interp.results.views import draw
from interp.types import ALL, EACH, parse_site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class SiteScores:
    """Patching scores over one kind of site, on named axes.

    ``raw`` is the metric after patching, averaged over prompts; ``values`` is the recovered
    score ``(raw - corrupted) / (clean - corrupted)``: 0 = corrupted, 1 = clean. Raises
    :class:`PatchError` when shapes and labels do not agree.
    """

    site: str
    """The site as asked, e.g. ``"z"``, ``"z@pos"``, ``"resid_pre[4]@END"``."""
    component: str
    axes: tuple[str, ...]
    """E.g. ``("layer", "head")``; some of layer, head, kv_head, pos, dest_pos, src_pos, neuron, latent."""
    labels: dict[str, tuple[str, ...]]
    """Tick labels of every axis: ``"9"`` for a layer, the token for a position."""
    raw: Float[Tensor, "*axes"]
    """The metric after patching, in its own units."""
    clean: float
    """The metric of the clean run, averaged over prompts; ``corrupted`` likewise."""
    corrupted: float
    per_prompt: Float[Tensor, "*axes prompt"] | None = None
    """The metric of every prompt after patching, in its own units."""
    magnitude: Float[Tensor, "*axes"] | None = None
    """What a method ranks by instead of the size of its effects, on the same scale: AtP*'s GradDrop, the mean
    size over backward passes without one layer each, which does not vanish where effects cancel. It is
    no estimate of the effect."""

    def __post_init__(self) -> None:
        unlabelled = [axis for axis in self.axes if axis not in self.labels]
        if unlabelled:
            raise PatchError(f"scores of {self.site!r} have no labels for axes {unlabelled}.")
        expected = tuple(len(self.labels[axis]) for axis in self.axes)
        if tuple(self.raw.shape) != expected:
            raise PatchError(
                f"scores of {self.site!r} have shape {tuple(self.raw.shape)}; labels of axes {self.axes} "
                f"say {expected}."
            )
        if self.per_prompt is not None and tuple(self.per_prompt.shape[:-1]) != expected:
            raise PatchError(
                f"per-prompt scores of {self.site!r} have shape {tuple(self.per_prompt.shape)}; expected "
                f"{(*expected, 'prompts')}."
            )
        if self.magnitude is not None and tuple(self.magnitude.shape) != expected:
            raise PatchError(
                f"magnitudes of {self.site!r} have shape {tuple(self.magnitude.shape)}; expected {expected}."
            )

    @property
    def values(self) -> Float[Tensor, "*axes"]:
        """Recovered score: 0 = corrupted, 1 = clean. NaN when both baselines are equal."""
        gap = self.clean - self.corrupted
        if gap == 0:
            return torch.full_like(self.raw, float("nan"))
        return (self.raw - self.corrupted) / gap

    def name_at(self, index: tuple[int, ...]) -> str:
        """A person's name for one entry, different for every entry.

        ``L9H6``, ``L9H6 q``, ``resid_pre L4 @ 10 ·Mary``, ``mlp_post L3 n1207``. A position is
        numbered where the labels of its axis repeat (two equal tokens); what has no axis is taken
        from the site (``z[9]`` over heads).
        """
        where = dict(zip(self.axes, index, strict=True))
        parts = self._fixed_parts | {axis: self._label_at(axis, i) for axis, i in where.items()}
        kv_head = parts.pop("kv_head", None)
        head = parts.pop("head", kv_head)
        layer = parts.pop("layer", None)
        lead = "" if layer is None else f"L{layer}"
        if head is not None:
            lead += f"H{head}" + ("" if self.component == "z" else f" {self.component}")
        else:
            lead = f"{self.component} {lead}".strip()
        named = {"pos": "@", "dest_pos": "to", "src_pos": "from"}
        rest = [
            f"n{label}" if axis == "neuron" else f"{named.get(axis, axis)} {label}"
            for axis, label in parts.items()
        ]
        return " ".join([lead, *rest])

    @cached_property
    def _fixed_parts(self) -> dict[str, str]:
        """What the site itself says about a place, for the parts that have no axis."""
        try:
            site = parse_site(self.site)
        except SiteError:  # several sites in one, which the axes tell apart
            return {}
        fixed: dict[str, str] = {}
        if site.layer is not None:
            fixed["layer"] = str(site.layer)
        if site.head is not None:
            fixed["head"] = str(site.head)
        if site.positions is not None and site.positions not in ((EACH,), (ALL,)):
            fixed["pos"] = ",".join(str(position) for position in site.positions)
        for axis, units in (("neuron", site.neurons), ("latent", site.latents)):
            if units:
                fixed[axis] = ",".join(str(unit) for unit in units)
        if any(axis.endswith("pos") for axis in self.axes):
            fixed.pop("pos", None)
        return fixed

    def _label_at(self, axis: str, index: int) -> str:
        labels = self.labels[axis]
        label = visible_token(labels[index]) if axis.endswith("pos") else labels[index]
        repeated = axis.endswith("pos") and len(set(labels)) < len(labels)
        return f"{index} {label}" if repeated else label


@dataclass(frozen=True)
class RankedSite:
    """One row of :meth:`PatchScores.top`."""

    name: str
    site: str
    component: str
    index: tuple[int, ...]
    value: float
    """Recovered score: 0 = corrupted, 1 = clean."""
    raw: float
    effect: float
    """How far the score is from having done nothing: ``value`` for denoising, ``value - 1`` for noising."""
    magnitude: float
    """What the ranking went by: the size of the effect, or the method's own magnitude if that is larger."""


@dataclass(frozen=True, eq=False)
class PatchScores(Record, Mapping[str, SiteScores]):
    """Scores of one patching call: ``scores["z"].values``, and where they came from.

    Those of an approximate method can check themselves against exact patching: :meth:`verify`.
    """

    sites: dict[str, SiteScores]
    provenance: Provenance
    reports: dict[str, SubspaceReport] = field(default_factory=dict)
    """For sites restricted to a subspace: whether the effect at each layer may be an illusion."""
    gaps: dict[str, float] = field(default_factory=dict)
    """Completeness gaps of integrated gradients: at each cut of the network, the sum of its scores less
    the true change of the metric, averaged over prompts, in the metric's units."""
    exactly: Callable[..., MethodAgreement] | None = field(default=None, repr=False, metadata=NOT_SAVED)
    """Exact patching of the same sites, for :meth:`verify`; lost when saved."""

    def __getitem__(self, key: str) -> SiteScores:
        if key in self.sites:
            return self.sites[key]
        same = [scores for scores in self.sites.values() if scores.component == key]
        if len(same) == 1:
            return same[0]
        raise KeyError(unknown_name("site in these scores", key, self.sites))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def direction(self) -> str:
        """``denoise`` or ``noise``."""
        return self.provenance.direction or "denoise"

    def magnitudes(self, site: str) -> Float[Tensor, "*axes"]:
        """What :meth:`top` ranks by: the size of the effects, or the method's own magnitude where that is larger.

        GradDrop alone would rank a site at nothing whose effect goes through one layer only, as in models of
        two layers; so a magnitude can raise a site and never lowers it.
        """
        size, found = self.effects(site).abs(), self[site].magnitude
        return size if found is None else torch.maximum(size, found)

    def effects(self, site: str) -> Float[Tensor, "*axes"]:
        """How far each score of ``site`` is from having done nothing: see :attr:`RankedSite.effect`."""
        return self[site].values - (1.0 if self.direction == "noise" else 0.0)

    def top(self, k: int = 10, site: str | None = None) -> list[RankedSite]:
        """The ``k`` sites with the largest effect in magnitude, over all sites or one of them.

        AtP* ranks by :meth:`magnitudes`. NaN scores come last; ties keep the order of the axes.
        """
        chosen = list(self.sites) if site is None else [self[site].site]
        rows = [row for key in chosen for row in self._top_of(key, k)]
        rows.sort(key=lambda row: -row.magnitude if row.magnitude == row.magnitude else float("inf"))
        return rows[:k]

    def _top_of(self, site: str, k: int) -> Iterator[RankedSite]:
        scores, effects, sizes = self[site], self.effects(site), self.magnitudes(site)
        values = scores.values
        magnitude = sizes.flatten()
        magnitude = torch.where(magnitude.isnan(), -1.0, magnitude)
        for flat in magnitude.argsort(descending=True, stable=True)[:k]:
            index = tuple(int(i) for i in torch.unravel_index(flat, scores.raw.shape))
            yield _rank(scores, index, float(values[index]), float(effects[index]), float(sizes[index]))

    def to_frame(self) -> pd.DataFrame:
        """One row a site: name, component, every axis as a column, value, raw, effect, magnitude."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for key, scores in self.sites.items():
            numbers = (scores.values, self.effects(key), self.magnitudes(key))
            indices = itertools.product(*(range(n) for n in scores.raw.shape))
            for index, *found in zip(indices, *(x.flatten().tolist() for x in numbers), strict=True):
                row = _rank(scores, index, *found)
                where = {axis: scores.labels[axis][i] for axis, i in zip(scores.axes, index, strict=True)}
                named = {"name": row.name, "site": row.site, "component": row.component}
                scored = {"value": row.value, "raw": row.raw, "effect": row.effect}
                rows.append({**named, **where, **scored, "magnitude": row.magnitude})
        return pd.DataFrame(rows)

    def plot(self, site: str | None = None) -> go.Figure:
        """Heatmaps of these scores (``interp.plots.plot_patching``)."""
        return draw("plot_patching", self, site=site)

    def verify(
        self, top: int | None = 20, sample: int = 20, *, seed: int = 0, **options: Any
    ) -> MethodAgreement:
        """Patch the ``top`` sites and a random ``sample`` of the others exactly, and compare.

        ``top=None`` takes every site. ``options`` as of :func:`interp.verify_scores`. Raises
        :class:`PatchError` for exact scores, and for scores read from a file, which no longer know
        their model and prompts: there use :func:`interp.verify_scores`.
        """
        if self.exactly is None:
            raise PatchError(
                "these scores are exact; there is nothing to verify."
                if self.provenance.method == "exact"
                else "these scores do not know their model and prompts (they were read from a file, or made by "
                "hand); use interp.verify_scores(model, task, scores)."
            )
        return self.exactly(self, top=top, sample=sample, seed=seed, **options)

    def plot_against_exact(self, top: int | None = 20, sample: int = 20, **options: Any) -> go.Figure:
        """Scatter of these scores against exact ones; arguments as of :meth:`verify`."""
        return self.verify(top, sample, **options).plot()


def _rank(
    scores: SiteScores, index: tuple[int, ...], value: float, effect: float, magnitude: float
) -> RankedSite:
    return RankedSite(
        name=scores.name_at(index),
        site=scores.site,
        component=scores.component,
        index=index,
        value=value,
        raw=float(scores.raw[index]),
        effect=effect,
        magnitude=magnitude,
    )
