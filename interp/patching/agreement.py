"""How well two lists of effects agree, with bootstrap intervals over sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError
from interp.results import Estimate, MethodAgreement, Provenance
from interp.results.agreement import SITE_EFFECT

N_RESAMPLES = 1000
_LARGEST = 1 << 22
"""Numbers that are resampled at once."""

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two arrays [sample, site] to one number a sample, NaN where it is undefined."""


def measure_agreement(
    names: Sequence[str],
    exact: Float[Tensor, " site"],
    approximate: Float[Tensor, " site"],
    provenance: Provenance,
    *,
    chosen_as: Sequence[str] = (),
    ranking: Float[Tensor, " site"] | None = None,
    k: int | None = None,
    n_sites: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    effect: str = SITE_EFFECT,
) -> MethodAgreement:
    """Pearson, Spearman, sign agreement and top-k overlap of two lists of effects.

    Intervals are percentiles of 1000 resamples of the sites. ``ranking`` is what the approximation
    ranks by where that is not the size of its effects; ``k`` is a tenth of the sites by default; ``effect`` says
    what the numbers are.
    Statistics that are undefined (fewer than two different effects) are NaN. Raises
    :class:`PatchError` for a confidence outside (0, 1).
    """
    check_confidence(confidence)
    x, y = (effects.detach().double().cpu().numpy() for effects in (exact, approximate))
    order = np.abs(y) if ranking is None else ranking.detach().double().cpu().numpy()
    k = min(len(x), max(1, round(len(x) / 10)) if k is None else k)

    def estimate(statistic: Statistic, against: np.ndarray = y) -> Estimate:
        return _bootstrap(statistic, x, against, confidence, seed)

    return MethodAgreement(
        names=tuple(names),
        exact=exact.detach().cpu(),
        approximate=approximate.detach().cpu(),
        pearson=estimate(_pearson),
        spearman=estimate(_spearman),
        sign_agreement=estimate(_sign_agreement),
        confidence=confidence,
        provenance=provenance,
        chosen_as=tuple(chosen_as),
        top_overlap=estimate(lambda a, b: _overlap(np.abs(a), b, k), order),
        k=k,
        n_sites=n_sites,
        effect=effect,
    )


def _bootstrap(statistic: Statistic, x: np.ndarray, y: np.ndarray, confidence: float, seed: int) -> Estimate:
    value = float(statistic(x[None], y[None])[0])
    draw = np.random.default_rng(seed)
    size = max(1, _LARGEST // len(x))
    found: list[np.ndarray] = []
    for start in range(0, N_RESAMPLES, size):
        picked = draw.integers(0, len(x), (min(size, N_RESAMPLES - start), len(x)))
        found.append(statistic(x[picked], y[picked]))
    every = np.concatenate(found)
    every = every[np.isfinite(every)]
    if not len(every) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"))
    return estimate_from(value, every, confidence)


def check_confidence(confidence: float) -> None:
    """Raise :class:`PatchError` for a coverage that is no share between 0 and 1."""
    if not 0 < confidence < 1:
        raise PatchError(f"confidence must lie between 0 and 1; got {confidence}.")


def choose_checked(
    ranking: Float[Tensor, " site"], top: int | None, sample: int, seed: int
) -> tuple[list[int], tuple[str, ...]]:
    """Which sites are checked exactly, and why each: the ``top`` of a ranking and a random sample of the others.

    ``top=None`` is all of them, in their order.
    """
    order = torch.where(ranking.isnan(), -1.0, ranking).argsort(descending=True, stable=True).tolist()
    if top is None:
        return list(range(len(order))), ()
    first, rest = order[:top], order[top:]
    shuffled = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:sample]
    drawn = [rest[i] for i in shuffled.tolist()]
    return [*first, *drawn], ("top",) * len(first) + ("random",) * len(drawn)


def estimate_from(value: float, resamples: np.ndarray, confidence: float) -> Estimate:
    """A number with the percentile interval of its resamples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resamples, (tail, 1 - tail))
    return Estimate(float(value), float(low), float(high))


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (a - a.mean(1, keepdims=True) for a in (x, y))
    size = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (x * y).sum(1) / size, np.nan)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(x, axis=1), rankdata(y, axis=1))


def _sign_agreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.sign(x) == np.sign(y)).mean(1)


def _overlap(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    first, second = (np.argsort(-a, axis=1, kind="stable")[:, :k] for a in (x, y))
    marks = np.zeros(x.shape, dtype=bool)
    np.put_along_axis(marks, first, True, axis=1)
    return np.take_along_axis(marks, second, axis=1).mean(1)
