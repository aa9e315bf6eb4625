"""Scores of sites: what exact and approximate patching return."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError, SiteError, unknown_name
from interp.results.provenance import Provenance
from interp.results.record import Record
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


@dataclass(frozen=True, eq=False)
class PatchScores(Record, Mapping[str, SiteScores]):
    """Scores of one patching call: ``scores["z"].values``, and where they came from."""

    sites: dict[str, SiteScores]
    provenance: Provenance
    reports: dict[str, SubspaceReport] = field(default_factory=dict)
    """For sites restricted to a subspace: whether the effect at each layer may be an illusion."""

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

    def effects(self, site: str) -> Float[Tensor, "*axes"]:
        """How far each score of ``site`` is from having done nothing: see :attr:`RankedSite.effect`."""
        return self[site].values - (1.0 if self.direction == "noise" else 0.0)

    def top(self, k: int = 10, site: str | None = None) -> list[RankedSite]:
        """The ``k`` sites with the largest effect in magnitude, over all sites or one of them.

        NaN scores come last; ties keep the order of the axes.
        """
        chosen = list(self.sites) if site is None else [self[site].site]
        rows = [row for key in chosen for row in self._top_of(key, k)]
        rows.sort(key=lambda row: -abs(row.effect) if row.effect == row.effect else float("inf"))
        return rows[:k]

    def _top_of(self, site: str, k: int) -> Iterator[RankedSite]:
        scores, effects = self[site], self.effects(site)
        values = scores.values
        magnitude = effects.abs().flatten()
        magnitude = torch.where(magnitude.isnan(), -1.0, magnitude)
        for flat in magnitude.argsort(descending=True, stable=True)[:k]:
            index = tuple(int(i) for i in torch.unravel_index(flat, scores.raw.shape))
            yield _rank(scores, index, float(values[index]), float(effects[index]))

    def to_frame(self) -> pd.DataFrame:
        """One row a site: name, component, every axis as a column, value, raw, effect."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for key, scores in self.sites.items():
            values, effects = scores.values.flatten().tolist(), self.effects(key).flatten().tolist()
            indices = itertools.product(*(range(n) for n in scores.raw.shape))
            for index, value, effect in zip(indices, values, effects, strict=True):
                row = _rank(scores, index, value, effect)
                where = {axis: scores.labels[axis][i] for axis, i in zip(scores.axes, index, strict=True)}
                named = {"name": row.name, "site": row.site, "component": row.component}
                rows.append({**named, **where, "value": value, "raw": row.raw, "effect": effect})
        return pd.DataFrame(rows)

    def plot(self, site: str | None = None) -> go.Figure:
        """Heatmaps of these scores (``interp.plots.plot_patching``)."""
        return draw("plot_patching", self, site=site)


def _rank(scores: SiteScores, index: tuple[int, ...], value: float, effect: float) -> RankedSite:
    return RankedSite(
        name=scores.name_at(index),
        site=scores.site,
        component=scores.component,
        index=index,
        value=value,
        raw=float(scores.raw[index]),
        effect=effect,
    )
