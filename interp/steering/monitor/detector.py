"""Detectors: directions that are read instead of written, with a threshold.

A token's score is its activation's product with the unit direction, its cosine with it, or, where there is a
second vector ``against``, its cosine with the first minus that with the second; the mean over layers where
there are several. A prompt's score pools those of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.capture import capture
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.positions import Columns
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.results.detector import DetectorReport
from interp.results.provenance import Provenance
from interp.steering.monitor.threshold import conformal_threshold
from interp.steering.places import Where
from interp.steering.steering import place_of
from interp.types import PATTERN_COMPONENTS, Position, Site

Measure = Literal["dot", "cosine"]
Pooling = Literal["mean", "max", "last"]
MEASURES: tuple[Measure, ...] = ("dot", "cosine")
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "last")


@dataclass(frozen=True, eq=False)
class Detector:
    """Directions at sites, how they are read, and the score above which a prompt is flagged.

    Made by :func:`interp.fit_detector`, :func:`interp.detector_of`, or by hand. Raises :class:`SteeringError` for
    sites and directions that do not fit.
    """

    sites: tuple[Site, ...]
    """One layer each, of one component and with the same positions: those that are pooled (all without any)."""
    directions: Float[Tensor, "site d"]
    threshold: float | None = None
    pooling: Pooling = "mean"
    measure: Measure = "dot"
    against: Float[Tensor, "site d"] | None = None
    """Cosine with this is taken off; with means of both sides as vectors, Zhao et al. 2025's reading."""
    where: Where | None = None
    """Narrows the positions by a rule: the end of the instruction, a text pattern."""
    name: str = "detector"
    false_positive_rate: float | None = None
    """That the threshold was calibrated to."""
    n_calibration: int | None = None
    """Negative prompts that the threshold rests on."""
    model_digest: str | None = None
    data: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """AUC and rates on prompts held out."""
    provenance: Provenance | None = None
    report: DetectorReport | None = field(default=None, repr=False)
    """On prompts held out; not part of a file."""

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("measure", self.measure, MEASURES),
            ("pooling", self.pooling, POOLINGS),
        ):
            if name not in known:
                raise SteeringError(unknown_name(kind, name, known))
        self._check_sites()
        for vectors in (self.directions, self.against):
            if vectors is None:
                continue
            if vectors.shape != self.directions.shape or len(vectors) != len(self.sites):
                raise SteeringError(
                    f"a detector at {len(self.sites)} sites takes vectors [{len(self.sites)}, d]; got "
                    f"{list(vectors.shape)}."
                )
            if not bool(torch.isfinite(vectors).all()) or not bool(vectors.any(1).all()):
                raise SteeringError("a detector's vectors are finite and none is 0.")
        if self.against is not None and self.measure != "cosine":
            raise SteeringError("a detector with two vectors a site reads cosines; give measure='cosine'.")

    def _check_sites(self) -> None:
        if not self.sites or len({(s.component, s.head, s.positions) for s in self.sites}) > 1:
            raise SteeringError(
                "a detector reads one component at the same positions in one or more layers; got "
                f"{', '.join(map(str, self.sites)) or 'no site'}."
            )
        for site in self.sites:
            if site.component in PATTERN_COMPONENTS or site.rows or site.latents is not None:
                raise SteeringError(f"a detector reads vectors of tokens of every prompt; {site} is none.")
            if site.layer is None and site.component != "embed":
                raise SteeringError(f"a detector's site has one layer; {site} names all. List them.")

    def __repr__(self) -> str:
        sites = ", ".join(map(str, self.sites[:4])) + (", ..." if len(self.sites) > 4 else "")
        limit = "no threshold" if self.threshold is None else f"threshold {self.threshold:.4g}"
        if self.false_positive_rate is not None:
            limit += f" for a rate of {self.false_positive_rate:g}, on {self.n_calibration} prompts"
        known = ", ".join(f"{name} {value:.3f}" for name, value in self.figures.items())
        known = f"; {known}" if known else ""
        return f"Detector({self.name}: {self.pooling} {self.measure} at {sites}; {limit}{known})"

    def read(self, values: Mapping[Site, Float[Tensor, "batch pos d"]]) -> Float[Tensor, "batch pos"]:
        """Score of every token, from the activations by site without positions; in double precision."""
        total: Tensor | None = None
        for number, site in enumerate(self.sites):
            h = values[place_of(site)].double()
            if h.shape[-1] != self.directions.shape[1]:
                raise SteeringError(
                    f"{self.name} reads {self.directions.shape[1]} entries; the activation at {site} has "
                    f"{h.shape[-1]}. Was it made for another model?"
                )
            found = _project(h, self.directions[number], self.measure)
            if self.against is not None:
                found = found - _project(h, self.against[number], self.measure)
            total = found if total is None else total + found
        assert total is not None
        return total / len(self.sites)

    def choose(
        self, model: Model, tokens: Int[Tensor, "batch seen"], columns: Columns
    ) -> Bool[Tensor, "batch n"]:
        """Which columns of a forward count; ``tokens`` are all up to them."""
        chosen = columns.select(self.sites[0], {})
        return chosen if self.where is None else chosen & self.where.select(model, tokens.cpu(), columns)

    def token_scores(
        self,
        model: Model,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Score of every token of prompts (NaN on padding), and which tokens are pooled."""
        self.check_model(model)
        return read_tokens(model, [self], tokens, attention_mask)[0]

    def score(
        self, model: Model, prompts: Prompts, *, batch_size: int = 32, progress: bool = False
    ) -> Float[Tensor, " prompt"]:
        """Pooled score of every prompt, one pass. Raises :class:`SteeringError` where none of its tokens counts."""
        return score_prompts(model, [self], prompts, batch_size=batch_size, progress=progress)[:, 0]

    def pool(
        self, scores: Float[Tensor, "batch pos"], chosen: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, " batch"]:
        """One score a prompt. Raises :class:`SteeringError` for a prompt none of whose tokens is chosen."""
        empty = (~chosen.any(1)).nonzero()[:, 0].tolist()
        if empty:
            raise SteeringError(f"{self.name} reads no token of prompts {empty[:10]}; check its positions.")
        return self.running(scores, chosen)[:, -1]

    def running(
        self, scores: Float[Tensor, "batch pos"], chosen: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos"]:
        """The pooled score of the tokens chosen up to each; NaN before the first."""
        kept = torch.where(chosen, scores, 0.0)
        count = chosen.long().cumsum(1)
        if self.pooling == "mean":
            found = kept.cumsum(1) / count.clamp(min=1)
        elif self.pooling == "max":
            found = torch.where(chosen, scores, -torch.inf).cummax(1).values
        else:
            columns = torch.arange(chosen.shape[1]).expand_as(chosen)
            last = torch.where(chosen, columns, 0).cummax(1).values
            found = scores.gather(1, last)
        return torch.where(count > 0, found, torch.nan)

    def flag(
        self, model: Model, prompts: Prompts, *, batch_size: int = 32, progress: bool = False
    ) -> Bool[Tensor, " prompt"]:
        """Which prompts score above the threshold. Raises :class:`SteeringError` without one."""
        return self.score(model, prompts, batch_size=batch_size, progress=progress) > self.limit

    @property
    def limit(self) -> float:
        """The threshold. Raises :class:`SteeringError` where none was set."""
        if self.threshold is None:
            raise SteeringError(
                f"{self.name} has no threshold; call detector.calibrate(model, negatives, rate)."
            )
        return self.threshold

    def calibrate(
        self,
        model: Model,
        negative: Prompts,
        false_positive_rate: float = 0.05,
        *,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Detector:
        """The same with the threshold that flags further negatives with at most this probability.

        Raises :class:`SteeringError` as :func:`conformal_threshold`.
        """
        scores = self.score(model, negative, batch_size=batch_size, progress=progress)
        return self.with_threshold(scores, false_positive_rate)

    def with_threshold(self, negative: Float[Tensor, " n"], false_positive_rate: float) -> Detector:
        """The same with the threshold calibrated on scores of negatives."""
        threshold = conformal_threshold(negative, false_positive_rate)
        return replace(
            self,
            threshold=threshold,
            false_positive_rate=false_positive_rate,
            n_calibration=len(negative),
            figures={},
            report=None,
        )

    def check_model(self, model: Model) -> None:
        """Raise :class:`SteeringError` for a model of other weights than it was made for."""
        if self.model_digest is not None and self.model_digest != digest_weights(model):
            raise SteeringError(
                f"{self.name} was made for weights {self.model_digest}; model {model.name!r} has "
                f"{digest_weights(model)}. Fit it anew."
            )

    def at(self, *positions: Position) -> Detector:
        """The same reading other positions (``"gen"``, ``-1``); its threshold is to be calibrated anew."""
        sites = tuple(replace(site, positions=tuple(positions) or None) for site in self.sites)
        cleared: dict[str, Any] = dict(threshold=None, false_positive_rate=None, n_calibration=None)
        return replace(self, sites=sites, figures={}, report=None, **cleared)

    def save(self, path: str | Path) -> Path:
        """Write it to one safetensors file: :func:`load_detector` reads it again."""
        from interp.steering.monitor.files import save_detector

        return save_detector(self, path)


def _project(h: Tensor, vector: Tensor, measure: Measure) -> Tensor:
    unit = (vector / vector.norm()).to(h)
    along = h @ unit
    # an activation of 0 has no direction: neither near nor far
    return along if measure == "dot" else along / h.norm(dim=-1).clamp(min=1e-30)


def read_tokens(
    model: Model,
    detectors: Sequence[Detector],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
) -> list[tuple[Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
    """Score of every token by each detector, and which tokens it pools, from one forward."""
    places = list(dict.fromkeys(place_of(site) for one in detectors for site in one.sites))
    with torch.no_grad():
        cache = capture(model, tokens, places, attention_mask=attention_mask, unembed=False)
    values, columns = {place: cache[place].flatten(2) for place in places}, cache.columns
    found = []
    for one in detectors:
        scores = torch.where(columns.real, one.read(values).cpu(), torch.nan)
        found.append((scores, one.choose(model, tokens, columns)))
    return found


def score_prompts(
    model: Model,
    detectors: Sequence[Detector],
    prompts: Prompts,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Float[Tensor, "prompt detector"]:
    """Pooled scores of every prompt by several detectors, in one pass over the prompts.

    Raises :class:`SteeringError` for no prompts, and a prompt none of whose tokens a detector reads.
    """
    from tqdm.auto import tqdm

    for one in detectors:
        one.check_model(model)
    found: list[Tensor] = []
    pending: list[Tensor] = []

    def read(rows: list[Tensor]) -> None:
        tokens, mask = pad_prompts(rows)
        read = read_tokens(model, detectors, tokens, mask)
        found.append(torch.stack([d.pool(*pair) for d, pair in zip(detectors, read, strict=True)], dim=1))
        bar.update(len(rows))

    with tqdm(disable=not progress, desc=", ".join(one.name for one in detectors)) as bar:
        for item in open_items(prompts):
            pending += encode_item(model, item)
            while len(pending) >= batch_size:
                read(pending[:batch_size])
                pending = pending[batch_size:]
        if pending:
            read(pending)
    if not found:
        raise SteeringError("there are no prompts to score; give at least one.")
    return torch.cat(found)
