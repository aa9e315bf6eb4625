"""Scores of edges in PyTorch: the truth, and what runs on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def score_pairs(
    changed: Float[Tensor, "writer prompt pos d_model"],
    gradient: Float[Tensor, "reader prompt pos d_model"],
    base: Float[Tensor, "writer prompt pos d_model"] | None,
    reach: Int[Tensor, " reader"] | None,
    places: Int[Tensor, "prompt pos"] | None,
    n_places: int,
) -> Float[Tensor, "prompt reader writer place"]:
    """See :func:`interp.kernels.edge_scores.score_pairs`."""
    change, gradient = _change(changed, base), _widen(gradient)
    if places is None:
        by_prompt = gradient.transpose(0, 1).flatten(2), change.permute(1, 2, 3, 0).flatten(1, 2)
        found = torch.bmm(*by_prompt)[..., None]
    else:
        each = gradient.permute(1, 2, 0, 3) @ change.permute(1, 2, 3, 0)
        found = sum_by_place(each.permute(0, 2, 3, 1), places, n_places)
    return found if reach is None else torch.where(_is_edge(found[..., 0], reach)[..., None], found, 0.0)


def sum_pairs(
    changed: Float[Tensor, "writer prompt pos d_model"],
    gradient: Float[Tensor, "reader prompt pos d_model"],
    base: Float[Tensor, "writer prompt pos d_model"] | None,
    reach: Int[Tensor, " reader"] | None,
) -> Float[Tensor, "reader writer"]:
    """See :func:`interp.kernels.edge_scores.sum_pairs`."""
    found = _widen(gradient).flatten(1) @ _change(changed, base).flatten(1).T
    return found if reach is None else torch.where(_is_edge(found, reach), found, 0.0)


def sum_by_place(
    each: Float[Tensor, "prompt *rest pos"], places: Int[Tensor, "prompt pos"], n_places: int
) -> Float[Tensor, "prompt *rest place"]:
    """Numbers by column summed over the columns of each place; columns at -1 count for nothing."""
    place = torch.arange(n_places, device=places.device)
    there = (places[..., None] == place).to(each.dtype)
    return torch.einsum("k...c,kcp->k...p", each, there)


def _change(changed: Tensor, base: Tensor | None) -> Tensor:
    return _widen(changed) if base is None else _widen(changed) - _widen(base)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _is_edge(found: Tensor, reach: Tensor) -> Tensor:
    return torch.arange(found.shape[-1], device=found.device) < reach[:, None]
