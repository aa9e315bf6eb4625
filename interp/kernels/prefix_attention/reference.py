"""Attention of rows in flight in plain PyTorch: every row with a copy of its prompt's prefix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.prefix_attention.rows import Rows


def attend_prefix_reference(
    q: Float[Tensor, "query head d_head"],
    k: Float[Tensor, "key kv_head d_head"],
    v: Float[Tensor, "key kv_head d_head"],
    prefix_k: Float[Tensor, "prompt kv_head pos d_head"],
    prefix_v: Float[Tensor, "prompt kv_head pos d_head"],
    rows: Sequence[Rows],
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    real: Bool[Tensor, "#prompt column"] | None = None,
) -> Float[Tensor, "query head d_head"]:
    """See :func:`~interp.kernels.prefix_attention.attend_prefix`."""
    made, query, key = [], 0, 0
    for part in rows:
        n_queries, n_keys = len(part.prompts) * part.n_queries, len(part.prompts) * part.n_keys
        if n_queries:
            own = [x[key : key + n_keys].unflatten(0, (-1, part.n_keys)) for x in (k, v)]
            asked = q[query : query + n_queries].unflatten(0, (-1, part.n_queries))
            base = [x[:, :, : part.start] for x in (prefix_k, prefix_v)]
            made.append(_attend(asked, own, base, part, scale, soft_cap, window, real).flatten(0, 1))
        query, key = query + n_queries, key + n_keys
    return torch.cat(made) if made else q.clone()


def _attend(
    q: Tensor,
    own: Sequence[Tensor],
    base: Sequence[Tensor],
    rows: Rows,
    scale: float,
    soft_cap: float | None,
    window: int | None,
    real: Tensor | None,
) -> Tensor:
    group = q.shape[2] // own[0].shape[2]
    keys, values = (
        torch.cat([before[rows.prompts], after.transpose(1, 2)], dim=2).repeat_interleave(group, dim=1)
        for before, after in zip(base, own, strict=True)
    )
    scores = q.transpose(1, 2) @ keys.transpose(-1, -2) * scale
    if soft_cap is not None:
        scores = (scores / soft_cap).tanh() * soft_cap
    source = torch.arange(rows.stop, device=q.device)
    columns = source[None, rows.start :] if rows.columns is None else rows.columns
    visible = source <= columns[:, :, None]
    if window is not None:
        visible = visible & (source > columns[:, :, None] - window)
    if real is not None:
        seen = real.expand(len(base[0]), -1) if len(real) == 1 else real
        visible = visible & seen[rows.prompts, None, : rows.stop]
    scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    pattern = scores.softmax(-1, dtype=wide).to(scores.dtype)
    return (pattern @ values).transpose(1, 2)
