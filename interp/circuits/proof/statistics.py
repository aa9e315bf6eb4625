"""The statistics behind the tests of a circuit: numbers in, p-values out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from interp.errors import CircuitError, unknown_name

Correction = Literal["holm", "bonferroni", "none"]

_LARGEST = 1 << 22
"""Numbers that are permuted at once."""


def sign_p_value(differences: np.ndarray, epsilon: float, tie: float = 0.0) -> tuple[float, float]:
    """Share of differences above 0, and the p-value of ``|P(difference > 0) - 1/2| <= epsilon``.

    With ``t = |share - 1/2|``, ``p = P(|K / n - 1/2| >= t)`` for ``K`` binomial with ``1/2 + epsilon``: the
    largest that it can be under the null hypothesis, so the test is exact at its edge and conservative inside.
    Differences up to ``tie`` in size say that neither is ahead and count half to either side; those of
    nothing but ties are ``p = 1``.
    """
    from scipy.stats import binom

    n = len(differences)
    ahead = np.where(np.abs(differences) <= tie, 0.5, differences > 0).sum()
    far = abs(ahead - n / 2)
    below, above = np.floor(n / 2 - far + 1e-9), np.ceil(n / 2 + far - 1e-9)
    if below >= above:
        return float(ahead / n), 1.0
    tails = binom.cdf(below, n, 0.5 + epsilon) + binom.sf(above - 1, n, 0.5 + epsilon)
    return float(ahead / n), float(min(1.0, tails))


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Hilbert-Schmidt independence criterion of two samples [n] (Gretton et al. 2007, biased estimate).

    ``tr(K H L H) / (n - 1)^2`` with Gaussian kernels, each as wide as the median distance between
    two different values of its sample. Near 0 for independent samples, and 0 where one is constant.
    """
    return float((_centred(_kernel(x)) * _kernel(y)).sum() / (len(x) - 1) ** 2)


def permute_hsic(
    x: np.ndarray, y: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> tuple[float, np.ndarray, float]:
    """HSIC, those of permutations of ``y``, and the p-value of independence.

    ``p = (1 + number of permutations with at least this HSIC) / (1 + n_permutations)``: exact under
    exchangeability, whatever the kernels.
    """
    n = len(x)
    k, l = _centred(_kernel(x)), _kernel(y)  # noqa: E741
    seen = float((k * l).sum()) / (n - 1) ** 2
    drawn = []
    step = max(1, _LARGEST // n**2)
    for start in range(0, n_permutations, step):
        rows = min(step, n_permutations - start)
        orders = rng.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)
        drawn.append((k * l[orders[:, :, None], orders[:, None, :]]).sum((1, 2)) / (n - 1) ** 2)
    permuted = np.concatenate(drawn)
    # equal values must tie whatever the order they were summed in
    as_large = int((permuted >= seen - 1e-12).sum())
    return seen, permuted, (1 + as_large) / (1 + n_permutations)


def _kernel(x: np.ndarray) -> np.ndarray:
    distances = np.abs(x[:, None] - x[None])
    apart = distances[distances > 0]
    width = np.median(apart) if len(apart) else 1.0
    found: np.ndarray = np.exp(-(distances**2) / (2 * width**2))
    return found


def _centred(kernel: np.ndarray) -> np.ndarray:
    found: np.ndarray = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()
    return found


def rank_p_values(
    observed: np.ndarray, reference: np.ndarray, quantile: float, against: Literal["less", "greater"]
) -> np.ndarray:
    """[item] p-values of ``P(observed > a random draw) >= quantile`` (``"less"``) or ``<=`` (``"greater"``).

    The statistic is how many of the ``n`` draws lie below what was observed, binomial with
    ``quantile`` at the edge of the null hypothesis.
    """
    from scipy.stats import binom

    above = (observed[:, None] > reference[None]).sum(1)
    n = len(reference)
    found: np.ndarray = (
        binom.cdf(above, n, quantile) if against == "less" else binom.sf(above - 1, n, quantile)
    )
    return found


def correct(p_values: np.ndarray, how: Correction) -> np.ndarray:
    """p-values corrected so that the chance of any false rejection stays below the level.

    ``"bonferroni"`` multiplies by their number; ``"holm"`` (1979) steps down from the smallest and rejects no
    less. Both hold whatever the dependence. Raises :class:`CircuitError` for another name.
    """
    if how not in get_args(Correction):
        raise CircuitError(unknown_name("correction", str(how), get_args(Correction)))
    n = len(p_values)
    if how == "none":
        return p_values
    if how == "bonferroni":
        return np.minimum(1.0, p_values * n)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(n, 0, -1))
    found = np.empty(n)
    found[order] = np.minimum(1.0, stepped)
    return found
