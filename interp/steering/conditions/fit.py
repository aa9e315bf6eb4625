"""From prompts to a condition: direction, layer and threshold, each chosen on prompts of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.sites import in_every_layer
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_gate import ConditionReport
from interp.steering.conditions.condition import Condition, Pooling, Similarity
from interp.steering.contrast import ContrastRows
from interp.steering.extract.directions import find_direction
from interp.steering.gated.rates import area, rate_above, threshold_at_best_f1
from interp.steering.gated.scored import (
    check_reading,
    last_chosen,
    read_prompts,
    read_rows,
    read_site,
    score_gates,
)
from interp.steering.monitor.threshold import conformal_threshold, measure_auc
from interp.types import Site, SiteLike, parse_sites

_SHARES = (0.5, 0.25)
"""Of the prompts: to find the direction, and to choose layer and threshold; the others are reported on."""
Rows = list[Int[Tensor, " _"]]


@dataclass(frozen=True)
class FittedCondition:
    """A condition, and how well it tells prompts that played no part in choosing it."""

    condition: Condition
    report: ConditionReport


def fit_condition(
    model: Model,
    yes_prompts: Prompts,
    no_prompts: Prompts,
    sites: SiteLike | Iterable[SiteLike],
    *,
    fpr: float | None = None,
    method: str = "mean-difference",
    pooling: Pooling = "mean",
    similarity: Similarity = "cosine",
    confidence: float = 0.95,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> FittedCondition:
    """A condition that is open on prompts like the first and closed on prompts like the second.

    Half of the prompts, drawn by ``seed``, give a direction at every site (``method``: one of
    :data:`interp.steering.extract.DIRECTIONS`); a quarter chooses the site with the largest AUC and the threshold:
    that of the false-positive rate ``fpr``, or of the best F1 without one; the last quarter is reported on.
    A site without a layer stands for all layers. After the grid search of CAST (Lee et al. 2024), with every choice
    made on prompts of its own.

    Example::

        music = interp.fit_condition(model, about_music, others, "resid_post", fpr=0.05).condition
        with vector.gated(music).apply(model, dose=0.5):
            tokens = model.generate(["The band", "The cook"])

    Raises :class:`SteeringError` for too few prompts, and for sites that no gate can read.
    """
    begun = time.perf_counter()
    _check_confidence(confidence)
    wanted = [read_site(whole) for site in parse_sites(sites) for whole in in_every_layer(site, model.traits)]
    parts = [
        _part(read_rows(model, side), seed, name) for name, side in (("yes", yes_prompts), ("no", no_prompts))
    ]
    (yes, yes_choose, yes_test), (no, no_choose, no_test) = parts
    pooled = [_pool(model, side, wanted, pooling, batch_size, progress) for side in (yes, no)]
    directions = [
        find_direction(ContrastRows(pooled[0][site], pooled[1][site], False), method, seed) for site in wanted
    ]
    conditions = [
        Condition(site, direction, 0.0, pooling, similarity)
        for site, direction in zip(wanted, directions, strict=True)
    ]
    scores = [
        score_gates(model, conditions, part, batch_size=batch_size)
        for part in (yes_choose, no_choose, yes_test, no_test)
    ]
    best = max(range(len(wanted)), key=lambda i: area(scores[0][i], scores[1][i]))
    threshold = (
        threshold_at_best_f1(scores[0][best], scores[1][best])
        if fpr is None
        else conformal_threshold(scores[1][best], fpr)
    )
    n, how = len(yes_test) + len(no_test), f"{method}, {pooling} {similarity}"
    provenance = _provenance(model, n, seed, how, time.perf_counter() - begun)
    report = _report(wanted, scores, best, threshold, fpr, confidence, provenance)
    return FittedCondition(conditions[best].at_threshold(threshold), report)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SteeringError(f"confidence lies between 0 and 1; got {confidence}.")


def _provenance(model: Model, n: int, seed: int, method: str, seconds: float) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="condition",
        n_prompts=n,
        seed=seed,
        method=method,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
    )


def _report(
    sites: Sequence[Site],
    scores: Sequence[Float[Tensor, "site _"]],
    chosen: int,
    threshold: float,
    fpr: float | None,
    confidence: float,
    provenance: Provenance,
) -> ConditionReport:
    """``scores`` of yes and no prompts that chose, then of those that did not."""
    yes_choose, no_choose, yes, no = scores
    seed = provenance.seed or 0
    by_site = [measure_auc(a, b, confidence=confidence, seed=seed) for a, b in zip(yes, no, strict=True)]
    return ConditionReport(
        yes=yes[chosen],
        no=no[chosen],
        threshold=threshold,
        auc=by_site[chosen],
        tpr=rate_above(yes[chosen], threshold, confidence),
        fpr=rate_above(no[chosen], threshold, confidence),
        target="best F1" if fpr is None else f"false-positive rate {fpr:g}",
        sites=tuple(map(str, sites)),
        chosen=chosen,
        site_auc=torch.tensor([[e.value, e.low, e.high] for e in by_site]),
        choosing_auc=torch.tensor([area(a, b) for a, b in zip(yes_choose, no_choose, strict=True)]),
        confidence=confidence,
        provenance=provenance,
    )


def _part(rows: Rows, seed: int, name: str) -> tuple[Rows, Rows, Rows]:
    """To find the direction, to choose, and to report on."""
    if len(rows) < 8:
        raise SteeringError(
            f"a condition needs at least 8 {name} prompts, to be fitted and judged; got {len(rows)}."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = (round(share * len(rows)) for share in (_SHARES[0], sum(_SHARES)))
    picked = [rows[i] for i in order]
    return picked[:first], picked[first:second], picked[second:]


def _pool(
    model: Model, rows: Rows, sites: Sequence[Site], pooling: Pooling, batch_size: int, progress: bool
) -> dict[Site, Float[Tensor, "n d"]]:
    """A vector a prompt: that of the last chosen token, or the mean over the chosen ones."""
    from tqdm.auto import tqdm

    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in tqdm(range(0, len(rows), batch_size), disable=not progress, desc="condition"):
        readings = read_prompts(model, sites, rows[start : start + batch_size])
        for site, reading in readings.items():
            check_reading(site, reading, reading.values.shape[-1])
            pooled = last_chosen(reading) if pooling == "last" else reading.mean()
            found[site].append(pooled.float().cpu())
    return {site: torch.cat(parts) for site, parts in found.items()}
