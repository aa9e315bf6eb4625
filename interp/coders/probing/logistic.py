"""Logistic regression: the probe that everything here is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CoderError


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe: yes where ``x @ weights + bias > 0``."""

    weights: Float[Tensor, " d"]
    bias: float

    def score(self, x: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
        """Log odds of yes."""
        return x @ self.weights.to(x) + self.bias

    def score_direction(self, directions: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
        """What adding a direction adds to the log odds."""
        return directions @ self.weights.to(directions)


def fit_probe(
    x: Float[Tensor, "row d"], answers: Bool[Tensor, " row"], *, l2: float = 1e-3, balanced: bool = False
) -> Probe:
    """The logistic regression of ``answers`` on ``x``: mean log loss plus ``l2 / 2`` times the squared weights.

    Columns are brought to variance 1 for the penalty (constant ones get no weight); weights are returned for ``x``
    as it is. The loss is convex with one minimum, found by L-BFGS. ``balanced`` gives yes and no the same weight.

    Raises :class:`CoderError` where all answers are the same, for ``l2`` not above 0, and for values that are not
    finite.
    """
    from scipy.optimize import minimize

    y = answers.cpu().numpy().astype(float)
    n_yes = int(y.sum())
    if not 0 < n_yes < len(y):
        raise CoderError(f"a probe needs rows of both answers; {n_yes} of {len(y)} are yes.")
    if not l2 > 0:
        raise CoderError(f"l2 must be above 0, or separable answers have no best weights; got {l2}.")
    values = x.detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise CoderError("activations hold NaN or infinity; a probe cannot be fitted.")
    mean, spread = values.mean(0), values.std(0)
    varies = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
    columns = (values[:, varies] - mean[varies]) / spread[varies]
    share = np.where(y > 0, 0.5 / n_yes, 0.5 / (len(y) - n_yes)) if balanced else np.full(len(y), 1 / len(y))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-1], flat[-1]
        odds = columns @ weights + bias
        error = share * (1 / (1 + np.exp(-np.clip(odds, -500, 500))) - y)
        value = share @ (np.logaddexp(0, odds) - y * odds) + l2 / 2 * weights @ weights
        return float(value), np.append(columns.T @ error + l2 * weights, error.sum())

    start = np.zeros(columns.shape[1] + 1)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options=dict(maxiter=1000, gtol=1e-6, ftol=1e-12)
    )
    weights = np.zeros(values.shape[1])
    weights[varies] = found.x[:-1] / spread[varies]
    return Probe(torch.from_numpy(weights).float(), float(found.x[-1] - weights @ mean))
