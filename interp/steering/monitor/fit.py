"""Detectors from prompts, from steerings, and what they are worth on prompts held out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.capture import capture
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.sites import in_every_layer
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.models.text_digest import describe_data
from interp.results.detector import DetectorReport
from interp.results.provenance import Provenance
from interp.steering.contrast import ContrastRows
from interp.steering.extract.directions import find_direction
from interp.steering.monitor.detector import Detector, Measure, Pooling
from interp.steering.monitor.threshold import measure_auc, measure_rate
from interp.steering.places import Where
from interp.steering.steering import Steering, direction_of, place_of
from interp.types import Position, Site, SiteLike, parse_site, parse_sites

Reading = Literal["dot", "cosine", "prototypes"]
"""``"prototypes"``: cosine with the mean of the positives minus cosine with the mean of the negatives."""

Rows = Sequence[Int[Tensor, " _"]]


def fit_detector(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    site: SiteLike | Iterable[SiteLike],
    *,
    method: str = "mean-difference",
    measure: Reading = "dot",
    pooling: Pooling = "mean",
    where: Where | None = None,
    false_positive_rate: float = 0.05,
    calibration_share: float = 0.25,
    test_share: float = 0.25,
    name: str = "detector",
    confidence: float = 0.95,
    batch_size: int = 32,
    seed: int = 0,
) -> Detector:
    """A direction from some of the prompts, a threshold from others, and a report on the rest.

    ``site`` says where it reads, with the positions that are pooled (all tokens without any), narrowed by
    ``where``; a site without a layer, or several sites, make a mean over layers. The direction is that of
    ``method`` on the mean activations of each prompt's positions. Negatives are parted three ways: to fit, to
    calibrate the threshold to ``false_positive_rate``, to test; positives two ways.

    Example::

        detector = interp.fit_detector(model, harmful, harmless, "resid_post[2]@-1")
        print(detector.report)
        flagged = detector.flag(model, prompts)

    Raises :class:`SteeringError` for too few prompts, as :func:`conformal_threshold` does for the rate.
    """
    if measure not in ("dot", "cosine", "prototypes"):
        raise SteeringError(unknown_name("measure", measure, ("dot", "cosine", "prototypes")))
    sites = tuple(one for named in parse_sites(site) for one in in_every_layer(named, model.traits))
    p, p_test = _part(_rows(model, positive, "positive"), (test_share,), seed, "positive")
    n, n_test, n_held = _part(
        _rows(model, negative, "negative"), (test_share, calibration_share), seed + 1, "negative"
    )
    means = [_read_means(model, side, sites, where, batch_size) for side in (p, n)]
    if measure == "prototypes":
        directions, against = (torch.stack([part.mean(0) for part in side]) for side in means)
    else:
        pairs = zip(*means, strict=True)
        directions = torch.stack([find_direction(ContrastRows(a, b, False), method, seed) for a, b in pairs])
        against = None
    read: Measure = "cosine" if measure == "prototypes" else measure
    detector = Detector(
        sites,
        directions,
        pooling=pooling,
        measure=read,
        against=against,
        where=where,
        name=name,
        model_digest=digest_weights(model),
        data=f"positive: {describe_data(positive)}; negative: {describe_data(negative)}",
        provenance=_provenance(model, len(p) + len(n), "prototypes" if against is not None else method, seed),
    )
    detector = detector.calibrate(model, n_held, false_positive_rate, batch_size=batch_size)
    return report_on(model, detector, p_test, n_test, confidence=confidence, batch_size=batch_size, seed=seed)


def report_on(
    model: Model,
    detector: Detector,
    positive: Prompts,
    negative: Prompts,
    *,
    confidence: float = 0.95,
    batch_size: int = 32,
    seed: int = 0,
) -> Detector:
    """The detector with its report on these prompts, and its figures."""
    report = evaluate_detector(
        model, detector, positive, negative, confidence=confidence, batch_size=batch_size, seed=seed
    )
    figures = {"auc": report.auc.value}
    if report.true_rate is not None and report.false_rate is not None:
        figures |= {"true_rate": report.true_rate.value, "false_rate": report.false_rate.value}
    return replace(detector, report=report, figures=figures)


def evaluate_detector(
    model: Model,
    detector: Detector,
    positive: Prompts,
    negative: Prompts,
    *,
    confidence: float = 0.95,
    batch_size: int = 32,
    seed: int = 0,
) -> DetectorReport:
    """AUC, and what the threshold makes of prompts of both sides; give prompts that it was not fitted to."""
    if not 0 < confidence < 1:
        raise SteeringError(f"confidence lies between 0 and 1; got {confidence}.")
    begun = time.perf_counter()
    p, n = (detector.score(model, side, batch_size=batch_size) for side in (positive, negative))
    limit = detector.threshold
    rates = [
        None if limit is None else measure_rate(int((side > limit).sum()), len(side), confidence)
        for side in (p, n)
    ]
    return DetectorReport(
        name=detector.name,
        positive=p,
        negative=n,
        threshold=limit,
        wanted_rate=detector.false_positive_rate,
        n_calibration=detector.n_calibration,
        auc=measure_auc(p, n, confidence=confidence, seed=seed),
        true_rate=rates[0],
        false_rate=rates[1],
        confidence=confidence,
        provenance=replace(
            _provenance(model, len(p) + len(n), detector.measure, seed), seconds=time.perf_counter() - begun
        ),
    )


def detector_of(
    steering: Steering,
    site: SiteLike | None = None,
    *,
    at: Sequence[Position] | None = None,
    pooling: Pooling = "mean",
    measure: Measure = "dot",
    name: str | None = None,
) -> Detector:
    """The directions of a steering as a detector, without a threshold: :meth:`Detector.calibrate` sets one.

    It reads where the steering acts, or at the positions ``at``; ``site`` picks one of several steps. Raises
    :class:`SteeringError` for a steering without directions, or with several at one site.
    """
    steps = steering.steps
    if site is not None:
        wanted = place_of(parse_site(site))
        steps = tuple(step for step in steps if place_of(step.site) == wanted)
    places = [place_of(step.site) for step in steps]
    if not steps or len(set(places)) < len(places):
        here = ", ".join(str(step.site) for step in steering.steps)
        raise SteeringError(
            f"a detector needs one direction a site; got {site or 'all'} of a steering at {here}."
        )
    sites = [replace(step.site, rows=None) for step in steps]
    if at is not None:
        sites = [replace(one, positions=tuple(at) or None) for one in sites]
    return Detector(
        tuple(sites),
        torch.stack([direction_of(step.operation) for step in steps]),
        pooling=pooling,
        measure=measure,
        where=steps[0].where,
        name=name or steering.method,
        model_digest=steering.model_digest,
        data=steering.data,
        provenance=steering.provenance,
    )


def _rows(model: Model, prompts: Prompts, name: str) -> list[Tensor]:
    rows = [row for item in open_items(prompts) for row in encode_item(model, item)]
    if not rows:
        raise SteeringError(f"there are no {name} prompts; give at least one.")
    return rows


def _part(rows: list[Tensor], shares: Sequence[float], seed: int, name: str) -> list[list[Tensor]]:
    """What is left, then a part for each share, drawn at random."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes = [round(share * len(rows)) for share in shares]
    if min(sizes) < 1 or sum(sizes) >= len(rows):
        raise SteeringError(
            f"{len(rows)} {name} prompts cannot be parted into shares {list(shares)} and a rest to fit on; give more."
        )
    parts, start = [], 0
    for size in sizes:
        parts.append([rows[i] for i in order[start : start + size]])
        start += size
    return [[rows[i] for i in order[start:]], *parts]


def _read_means(
    model: Model, rows: Rows, sites: Sequence[Site], where: Where | None, batch_size: int
) -> list[Float[Tensor, "prompt d"]]:
    """Mean activation of each prompt's positions, at every site."""
    found: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(rows), batch_size):
        tokens, mask = pad_prompts(rows[start : start + batch_size])
        with torch.no_grad():
            cache = capture(model, tokens, [place_of(s) for s in sites], attention_mask=mask, unembed=False)
        chosen = cache.columns.select(sites[0], {})
        if where is not None:
            chosen = chosen & where.select(model, tokens, cache.columns)
        if not bool(chosen.any(1).all()):
            row = int((~chosen.any(1)).nonzero()[0]) + start
            raise SteeringError(
                f"{sites[0]} chooses no token of prompt {row}, which has {len(rows[row])} tokens."
            )
        for into, site in zip(found, sites, strict=True):
            value = cache[place_of(site)].flatten(2).float()
            weight = chosen.to(value.device)[..., None]
            # not a product with 0 and 1: padding may hold NaN
            into.append((torch.where(weight, value, 0).sum(1) / weight.sum(1)).cpu())
    return [torch.cat(parts) for parts in found]


def _provenance(model: Model, n: int, method: str, seed: int) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="detection",
        n_prompts=n,
        seed=seed,
        method=method,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )
