"""What attribution adds up, in PyTorch: the truth for the kernels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import KernelError


def subtract(
    source: Float[Tensor, "*rest d"] | None, base: Float[Tensor, "*rest d"] | None
) -> Float[Tensor, "*rest d"]:
    """``source - base`` in fp32 at least; one that is not given is 0."""
    if source is None:
        if base is None:
            raise KernelError(
                "attribution: neither a source nor a base was given; expected at least one of them."
            )
        return -base.to(torch.promote_types(base.dtype, torch.float32))
    wide = torch.promote_types(source.dtype, torch.float32)
    if base is None:
        return source.to(wide)
    return source.to(wide) - base


def weigh(gradient: Float[Tensor, "point *rest"], weights: Float[Tensor, " point"]) -> Float[Tensor, "*rest"]:
    """The weighted sum over points, in fp32 at least."""
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return torch.einsum("n,n...->...", weights.detach().to(wide), wide)


def sum_rows(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Float[Tensor, " point"] | None,
    mask: Bool[Tensor, "*#rest"] | None,
) -> Float[Tensor, "*rest"]:
    """See :func:`interp.kernels.attribute.attribute_rows`."""
    change = subtract(source, base)
    mean = gradient if weights is None else weigh(gradient, weights)
    rows = torch.linalg.vecdot(change, mean.to(change.dtype))
    return rows if mask is None else torch.where(mask, rows, 0.0)


def sum_columns(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Float[Tensor, " point"] | None,
    sets: Bool[Tensor, "where batch pos"] | None,
    columns: Int[Tensor, "where batch"] | None,
) -> Float[Tensor, "where batch n d"]:
    """See :func:`interp.kernels.attribute.attribute_units`; tensors are [batch, pos, n, d]."""
    change = subtract(source, base)
    mean = gradient if weights is None else weigh(gradient, weights)
    product = change * mean.to(change.dtype)
    if columns is not None:
        rows = torch.arange(len(product), device=product.device)
        picked = product[rows, columns.clamp(min=0)]
        return torch.where((columns >= 0)[..., None, None], picked, 0.0)
    if sets is None:
        return product.sum(1).unsqueeze(0)
    # a column of no set may hold NaN
    product = torch.where(sets.any(0)[..., None, None], product, 0.0)
    return torch.einsum("wbp,bpnd->wbnd", sets.to(product.dtype), product)


def rows_backward(
    grad: Float[Tensor, "*rest d"],
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Float[Tensor, " point"] | None,
    inside: Bool[Tensor, "*#rest #d"] | None,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of source, base and gradient from that of each entry's product; 0 where not ``inside``."""
    change = subtract(source, base)
    mean = gradient if weights is None else weigh(gradient, weights)
    to_change, to_mean = grad * mean.to(change.dtype), grad * change
    if inside is not None:
        to_change, to_mean = (torch.where(inside, value, 0.0) for value in (to_change, to_mean))
    if weights is not None:
        to_mean = weights.to(to_mean.dtype).view(-1, *[1] * to_mean.ndim) * to_mean
    return (
        None if source is None else to_change.to(source.dtype),
        None if base is None else (-to_change).to(base.dtype),
        to_mean.to(gradient.dtype),
    )
