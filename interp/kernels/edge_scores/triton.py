"""Changes of writers times gradients at readers: a matrix product in segments of columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import block_of, needs_widening, tuned

PROGRAMS = 528
"""So many programs are wanted, four for each multiprocessor of an H100: some skip, and none should wait for one."""
FEWEST_STEPS = 16
"""Steps along ``d_model`` that a program takes at least, lest loading ahead never pays."""

# deeper loading ahead hides more latency, wider steps need fewer barriers (both take shared memory), and small tiles
# have no work for eight warps
CONFIGS = [
    triton.Config({"BLOCK_K": 32}, num_warps=8, num_stages=5),
    triton.Config({"BLOCK_K": 64}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_K": 32}, num_warps=4, num_stages=4),
]


@tuned(CONFIGS, key=["BLOCK_W", "BLOCK_R", "IS_LONG", "HAS_BASE", "ORDERED"])
@triton.jit
def _multiply_pairs(
    changed,
    base,
    gradient,
    order,
    starts,
    reach,
    out,
    n_writers,
    n_readers,
    n_segments,
    n_pos,
    n_tokens,
    d_model,
    of_writer,
    of_prompt,
    of_pos,
    of_d,
    base_of_writer,
    base_of_prompt,
    base_of_pos,
    base_of_d,
    of_reader,
    reader_of_prompt,
    reader_of_pos,
    reader_of_d,
    n_splits,
    IS_LONG: tl.constexpr,
    HAS_BASE: tl.constexpr,
    ORDERED: tl.constexpr,
    HAS_REACH: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # tiles of one stretch of columns run side by side: each reads what the others have in the cache
    n_across = tl.cdiv(n_writers, BLOCK_W)
    n_tiles = n_across * tl.cdiv(n_readers, BLOCK_R)
    tile = tl.program_id(0) % n_tiles
    part = tl.program_id(0) // n_tiles
    split = part % n_splits
    segment = part // n_splits
    writer = (tile % n_across) * BLOCK_W + tl.arange(0, BLOCK_W)
    reader = (tile // n_across) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_writer, is_reader = writer < n_writers, reader < n_readers

    if ORDERED:
        first = tl.load(starts + segment).to(tl.int32)
        n_mine = tl.load(starts + segment + 1).to(tl.int32) - first
    else:
        first = segment * n_tokens
        n_mine = n_tokens
    n_chunks = tl.cdiv(d_model, BLOCK_K)
    # in int64: a sum over everything may have more steps than int32 counts
    n = n_mine.to(tl.int64) * n_chunks
    each = (n + n_splits - 1) // n_splits
    begin = tl.minimum(split * each, n)
    n_steps = (tl.minimum(begin + each, n) - begin).to(tl.int32)
    first_token, first_chunk = (begin // n_chunks).to(tl.int32) + first, (begin % n_chunks).to(tl.int32)
    if HAS_REACH:
        fed_by = tl.load(reach + reader, mask=is_reader, other=0)
        n_steps = tl.where(tl.max(fed_by, 0) > (tile % n_across) * BLOCK_W, n_steps, 0)

    change_at = changed + writer[:, None].to(tl.int64) * of_writer
    base_at = base + writer[:, None].to(tl.int64) * base_of_writer
    gradient_at = gradient + reader[None, :].to(tl.int64) * of_reader
    acc = tl.zeros([BLOCK_W, BLOCK_R], dtype=tl.float32)
    for step in range(n_steps):
        chunk = first_chunk + step
        token = first_token + chunk // n_chunks
        if ORDERED:
            token = tl.load(order + token)
        prompt, pos = (token // n_pos).to(tl.int64), (token % n_pos).to(tl.int64)
        k = (chunk % n_chunks) * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = k < d_model
        x = tl.load(
            change_at + (prompt * of_prompt + pos * of_pos) + k[None, :] * of_d,
            mask=is_writer[:, None] & inside[None, :],
            other=0.0,
        )
        g = tl.load(
            gradient_at + (prompt * reader_of_prompt + pos * reader_of_pos) + k[:, None] * reader_of_d,
            mask=inside[:, None] & is_reader[None, :],
            other=0.0,
        )
        if HAS_BASE:
            b = tl.load(
                base_at + (prompt * base_of_prompt + pos * base_of_pos) + k[None, :] * base_of_d,
                mask=is_writer[:, None] & inside[None, :],
                other=0.0,
            )
            # in fp16 it may overflow, in bf16 lose half its bits
            x = x.to(tl.float32) - b.to(tl.float32)
        if WIDEN:
            x, g = x.to(tl.float32), g.to(tl.float32)
        acc = tl.dot(x, g, acc, input_precision=PRECISION)

    if HAS_REACH:
        acc = tl.where(writer[:, None] < fed_by[None, :], acc, 0.0)
    row = (split.to(tl.int64) * n_segments + segment) * n_readers + reader[None, :]
    tl.store(out + row * n_writers + writer[:, None], acc, mask=is_writer[:, None] & is_reader[None, :])


def multiply_pairs(
    changed: Tensor,
    gradient: Tensor,
    base: Tensor | None,
    reach: Tensor | None,
    segment: Tensor | None,
    n_segments: int,
) -> Tensor:
    """[segment, reader, writer] in fp32; see :func:`interp.kernels.edge_scores.ops.edge_scores`."""
    n_writers, n_prompts, n_pos, d_model = changed.shape
    n_readers, n_tokens = gradient.shape[0], n_prompts * n_pos
    if not (n_segments and n_readers and n_writers and n_tokens and d_model):
        return changed.new_zeros(n_segments, n_readers, n_writers, dtype=torch.float32)
    is_half = changed.dtype != torch.float32
    order = starts = None
    if segment is None:
        n_tokens = n_tokens if n_segments == 1 else n_pos
    else:
        order, starts = _sort_columns(segment, n_segments)
    block_w, block_r = _choose_tile(n_writers, n_readers, changed.dtype)
    n_tiles = triton.cdiv(n_writers, block_w) * triton.cdiv(n_readers, block_r)
    # of segments of unknown lengths, the mean
    n_steps = max(1, n_prompts * n_pos * triton.cdiv(d_model, 64) // n_segments)
    splits = max(1, min(triton.cdiv(PROGRAMS, n_tiles * n_segments), n_steps // FEWEST_STEPS))
    out = changed.new_empty(splits, n_segments, n_readers, n_writers, dtype=torch.float32)
    of_base = base if base is not None else changed
    _multiply_pairs[(n_tiles * n_segments * splits,)](
        changed,
        of_base,
        gradient,
        order if order is not None else changed,
        starts if starts is not None else changed,
        reach.contiguous() if reach is not None else changed,
        out,
        n_writers,
        n_readers,
        n_segments,
        n_pos,
        n_tokens,
        d_model,
        *changed.stride(),
        *of_base.stride(),
        *gradient.stride(),
        splits,
        IS_LONG=n_steps >= 8 * FEWEST_STEPS,
        HAS_BASE=base is not None,
        ORDERED=order is not None,
        HAS_REACH=reach is not None,
        WIDEN=is_half and (base is not None or needs_widening(changed.dtype)),
        # three TF32 products have a few roundings of fp32; of a half precision number TF32 keeps every bit
        PRECISION="tf32" if is_half else "tf32x3",
        BLOCK_W=block_w,
        BLOCK_R=block_r,
    )
    return out[0] if splits == 1 else out.sum(0)


def _sort_columns(segment: Tensor, n_segments: int) -> tuple[Tensor, Tensor]:
    """Columns one segment after another, in their order within it, and where each begins; others come last."""
    flat = segment.reshape(-1)
    key, order = torch.where(flat < 0, n_segments, flat).sort(stable=True)
    bounds = torch.arange(n_segments + 1, device=flat.device, dtype=key.dtype)
    return order, torch.searchsorted(key, bounds)


def _choose_tile(n_writers: int, n_readers: int, dtype: torch.dtype) -> tuple[int, int]:
    """Sizes of a tile: the least padding, weighed against what is read for it; three TF32 products want registers."""
    most = 64 if dtype == torch.float32 else 128
    weight = 20 if dtype == torch.float32 else 64
    found = []
    for w in {block_of(n_writers, 16, 64), block_of(n_writers, 16, 128)}:
        for r in {block_of(n_readers, 16, 64), block_of(n_readers, 16, most)}:
            n_tiles = triton.cdiv(n_writers, w) * triton.cdiv(n_readers, r)
            found.append((n_tiles * (w * r + weight * (w + r)), w, r))
    return min(found)[1:]
