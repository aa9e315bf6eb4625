"""Steps of semi-NMF, none of which raises ``|A - G F^T|^2``, and how G begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

_FLOOR = 0.2
"""Added where G would begin with zeros, which the updates never leave (Ding et al., section 2.3)."""
TIMES = 4
"""Multiplications of G an iteration."""
_LARGEST_FACTOR = 1e6


def improve(
    a: Float[Tensor, "row d_mlp"],
    g: Float[Tensor, "row k"],
    f: Float[Tensor, "d_mlp k"] | None,
    kept: int,
    loss: float,
) -> tuple[Float[Tensor, "row k"], Float[Tensor, "d_mlp k"]]:
    """The next G and F, F with ``kept`` entries a column; no worse than ``loss``, that of ``g`` and ``f``."""
    features = solve_features(a, g, kept)
    weights = multiply_weights(a, g, features)
    if f is None or measure_loss(a, weights, features) <= loss:
        return weights, features
    features = descend_features(a, g, f, kept)
    return multiply_weights(a, g, features), features


def solve_features(
    a: Float[Tensor, "row d_mlp"], g: Float[Tensor, "row k"], kept: int
) -> Float[Tensor, "d_mlp k"]:
    """F by least squares for a given G, cut to its largest entries; the cut can raise the loss."""
    gram, product = (g.T @ g).double(), (g.T @ a).double()
    # latents that are nowhere active make it singular
    ridge = torch.finfo(a.dtype).eps * gram.diagonal().mean()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return keep_largest(torch.linalg.solve(gram + ridge * eye, product).T.to(a), kept)


def descend_features(
    a: Float[Tensor, "row d_mlp"], g: Float[Tensor, "row k"], f: Float[Tensor, "d_mlp k"], kept: int
) -> Float[Tensor, "d_mlp k"]:
    """F after a gradient step as long as the curvature allows, then cut; never raises the loss."""
    gram, product = (g.T @ g).double(), (g.T @ a).double()
    steepest = torch.linalg.eigvalsh(gram)[-1]
    return keep_largest((f.double() - (f.double() @ gram - product.T) / steepest).to(a), kept)


def keep_largest(f: Float[Tensor, "d_mlp k"], kept: int) -> Float[Tensor, "d_mlp k"]:
    """The ``kept`` entries of largest magnitude in each column; zeros elsewhere."""
    places = f.abs().topk(min(kept, len(f)), dim=0).indices
    return torch.zeros_like(f).scatter(0, places, f.gather(0, places))


def multiply_weights(
    a: Float[Tensor, "row d_mlp"], g: Float[Tensor, "row k"], f: Float[Tensor, "d_mlp k"], times: int = TIMES
) -> Float[Tensor, "row k"]:
    """G for a given F: equation 10 of Ding et al., ``times`` over; never raises the loss."""
    product, gram = a @ f, f.T @ f
    for _ in range(times):
        up = product.clamp(min=0) + g @ (-gram).clamp(min=0)
        down = (-product).clamp(min=0) + g @ gram.clamp(min=0)
        # part of the way is no worse; without a bound, zeros would be multiplied by infinity
        g = g * (up / down.clamp(min=torch.finfo(a.dtype).tiny)).clamp(max=_LARGEST_FACTOR).sqrt()
    return g


def measure_loss(
    a: Float[Tensor, "row d_mlp"], g: Float[Tensor, "row k"], f: Float[Tensor, "d_mlp k"]
) -> float:
    """``|A - G F^T|^2 / |A|^2``."""
    return float((a - g @ f.T).square().sum(dtype=torch.float64) / a.square().sum(dtype=torch.float64))


def normalise(g: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of G of length 1; the product stays."""
    lengths = g.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1)
    return g / lengths, f * lengths


def unit_rows(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1)


def _start_nearest(a: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Each row's nearest of k rows that are drawn far apart (k-means++, by the cosine)."""
    rows = unit_rows(a)
    first = int(torch.randint(len(a), (1,), generator=generator).item())
    centres, distance = [first], 1 - rows @ rows[first]
    for _ in range(k - 1):
        chances = distance.clamp(min=0).double().cpu() + 1e-12
        chosen = int(torch.multinomial(chances, 1, generator=generator).item())
        centres.append(chosen)
        distance = torch.minimum(distance, 1 - rows @ rows[chosen])
    nearest = (rows @ rows[centres].T).argmax(dim=1, keepdim=True)
    return torch.full((len(a), k), _FLOOR).to(a).scatter_add(1, nearest, torch.ones_like(nearest).to(a))


def _start_random(a: Tensor, k: int, generator: torch.Generator) -> Tensor:
    return torch.rand(len(a), k, generator=generator).to(a) + _FLOOR


def _start_svd(a: Tensor, k: int, generator: torch.Generator) -> Tensor:
    u, _, _ = torch.linalg.svd(a, full_matrices=False)
    u = u[:, :k]
    turned = u.clamp(min=0).norm(dim=0) < u.clamp(max=0).norm(dim=0)
    larger = torch.where(turned, -u, u).clamp(min=0)
    return larger / larger.mean(dim=0).clamp(min=torch.finfo(a.dtype).tiny) + _FLOOR


STARTS: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "nearest": _start_nearest,
    "random": _start_random,
    "svd": _start_svd,
}
"""How G begins, by name."""
