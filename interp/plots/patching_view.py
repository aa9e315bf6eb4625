"""Scores of one site as a picture needs them: arrays in drawing order, names, hover texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.plots.heatmaps import Ticks, name_ticks, to_array, token_ticks
from interp.plots.tokens import escape_text
from interp.results.phrases import is_estimate
from interp.results.scores import PatchScores, RankedSite, SiteScores

MOST_COLUMNS = 192
"""Neurons or latents drawn one a column; more are put into bins, each showing its strongest one."""

_ORDER = ("layer", "head", "kv_head", "pos", "dest_pos", "src_pos", "neuron", "latent")
_TITLES = {"pos": "position", "kv_head": "key/value head", "dest_pos": "destination", "src_pos": "source"}


@dataclass(frozen=True)
class SiteView:
    """Scores of one site. Arrays and indices here follow :attr:`axes`, not the record's order."""

    scores: SiteScores
    axes: tuple[str, ...]
    """Facets first, then rows, then columns."""
    values: NDArray[Any]
    effects: NDArray[Any]
    """How far each value is from having done nothing: what is coloured."""
    raw: NDArray[Any]
    magnitudes: NDArray[Any] | None
    """What entries are ranked by, where that is not the size of the effect."""
    patched: PatchScores

    @classmethod
    def of(cls, patched: PatchScores, site: str) -> SiteView:
        """The view of one site of a patching result."""
        scores = patched[site]
        axes = tuple(sorted(scores.axes, key=_ORDER.index))
        order = [scores.axes.index(axis) for axis in axes]
        values, effects, raw = (
            to_array(array).transpose(order) for array in (scores.values, patched.effects(site), scores.raw)
        )
        ranked_by = patched.magnitudes(site)
        magnitudes = None if scores.magnitude is None else to_array(ranked_by).transpose(order)
        return cls(scores, axes, values, effects, raw, magnitudes, patched)

    @property
    def has_units(self) -> bool:
        """Whether the last axis runs over neurons or latents."""
        return bool(self.axes) and self.axes[-1] in ("neuron", "latent")

    @property
    def effect_title(self) -> str:
        """What colours and bars show."""
        return "recovered score − 1" if self.patched.direction == "noise" else "recovered score"

    def name(self, index: Sequence[int]) -> str:
        """Name of one entry, not escaped."""
        where = dict(zip(self.axes, index, strict=True))
        return self.scores.name_at(tuple(int(where[axis]) for axis in self.scores.axes))

    def top(self, k: int) -> list[RankedSite]:
        """The ``k`` strongest entries of this site."""
        return self.patched.top(k, site=self.scores.site)

    def indices(self) -> NDArray[Any]:
        """Index of the entry that each cell shows, [*axes, axis], thinned over many neurons."""
        grid = np.moveaxis(np.indices(self.effects.shape), 0, -1)
        width = self.bin_width
        if width == 1:
            return grid
        n = self.effects.shape[-1]
        bins = -(-n // width)
        strength = np.nan_to_num(np.abs(self.effects), nan=-1.0, posinf=np.inf)
        padding = [(0, 0)] * (strength.ndim - 1) + [(0, bins * width - n)]
        strength = np.pad(strength, padding, constant_values=-2.0)
        strongest = strength.reshape(*strength.shape[:-1], bins, width).argmax(axis=-1)
        kept = strongest + np.arange(bins) * width
        return np.take_along_axis(grid, kept[..., None], axis=-2)

    @property
    def bin_width(self) -> int:
        """How many neurons or latents share a column; 1 for every other axis."""
        return -(-self.effects.shape[-1] // MOST_COLUMNS) if self.has_units else 1

    def ticks(self, axis: str) -> Ticks:
        """Names along an axis; along binned neurons, the first of each bin."""
        labels, title = self.scores.labels[axis], _TITLES.get(axis, axis)
        if axis.endswith("pos"):
            return token_ticks(labels, title)
        if axis == self.axes[-1] and self.has_units:
            if self.bin_width > 1:
                title = f"{axis} (each column: the strongest of {self.bin_width})"
            return name_ticks(labels[:: self.bin_width], title, spacing=48)
        return name_ticks(labels, title)

    def facet_title(self, index: Sequence[int]) -> str:
        """Title of the facet at ``index`` of the leading axes."""
        labels = {axis: self.scores.labels[axis][i] for axis, i in zip(self.axes, index, strict=False)}
        if not labels:
            return self.scores.site
        if set(labels) == {"layer", "head"}:
            return f"{self.scores.site} · L{labels['layer']}H{labels['head']}"
        return f"{self.scores.site} · " + ", ".join(
            f"{_TITLES.get(a, a)} {text}" for a, text in labels.items()
        )

    def details(self, picked: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        """What :attr:`hover` says of the entries at ``picked``, on a last axis of its own."""
        every = [self.values, self.raw, *([] if self.magnitudes is None else [self.magnitudes])]
        return np.stack([array[picked] for array in every], axis=-1)

    @property
    def hover(self) -> str:
        """Template of what one cell says: its name, recovered score, raw metric, and its magnitude if any."""
        size = "" if self.magnitudes is None else self._magnitude("%{customdata[2]:.3f}")
        return f"<b>%{{hovertext}}</b>{self._numbers('%{customdata[0]:.3f}', '%{customdata[1]:.4g}')}{size}"

    def describe(self, row: RankedSite) -> str:
        """What a bar says on hover, escaped; the same as :attr:`hover`."""
        size = "" if self.magnitudes is None else self._magnitude(f"{row.magnitude:.3f}")
        return f"<b>{escape_text(row.name)}</b>{self._numbers(f'{row.value:.3f}', f'{row.raw:.4g}')}{size}"

    def _numbers(self, value: str, raw: str) -> str:
        estimated = "estimated " if is_estimate(self.patched.provenance) else ""
        return (
            f"<br>{estimated}recovered {value}<br>{self.metric} {raw} "
            f"(corrupted {self.scores.corrupted:.3g}, clean {self.scores.clean:.3g})"
        )

    def _magnitude(self, size: str) -> str:
        return f"<br>magnitude {size} (ranks it)"

    @property
    def metric(self) -> str:
        """Escaped name of the metric, safe inside a hover template."""
        return escape_text(self.patched.provenance.metric or "metric").replace("%{", "%&#123;")
