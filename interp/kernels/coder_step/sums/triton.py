"""Kernels that add up entries."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import tuned

PIECE = 64
"""Sorted entries to a piece: at most twice as many are left to the program that ends their latent."""

# rows of vectors in flight against programs; narrow blocks where vectors are short
_BY_ROW = [
    triton.Config({"ENTRIES": 8, "BLOCK_D": 256}, num_warps=4),
    triton.Config({"ENTRIES": 8, "BLOCK_D": 512}, num_warps=4),
    triton.Config({"ENTRIES": 16, "BLOCK_D": 256}, num_warps=4),
    triton.Config({"ENTRIES": 4, "BLOCK_D": 1024}, num_warps=4),
]
# many latents a program where few rows fire them, fewer where each has a loop worth of entries
_BY_LATENT = [
    triton.Config({"LATENTS": 8, "BLOCK_D": 256}, num_warps=4),
    triton.Config({"LATENTS": 4, "BLOCK_D": 256}, num_warps=2),
    triton.Config({"LATENTS": 4, "BLOCK_D": 512}, num_warps=4),
    triton.Config({"LATENTS": 2, "BLOCK_D": 1024}, num_warps=4),
]


@tuned(_BY_ROW, key=["d"])
@triton.jit
def _sum_by_row(
    weights, latents, starts, vectors, out, d, vector_stride, ENTRIES: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Some columns of one row's sum; entries of weight zero read nothing."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    total = tl.zeros([ENTRIES, BLOCK_D], tl.float32)
    for first in range(begin, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        latent = tl.load(latents + entry, mask=entry < end, other=0).to(tl.int64)
        weight = tl.load(weights + entry, mask=entry < end, other=0).to(tl.float32)
        wanted = (weight != 0)[:, None] & (column < d)[None, :]
        vector = tl.load(vectors + latent[:, None] * vector_stride + column[None, :], mask=wanted, other=0)
        total += weight[:, None] * vector.to(tl.float32)
    tl.store(out + row * d + column, tl.sum(total, 0).to(out.dtype.element_ty), mask=column < d)


@tuned(_BY_ROW, key=["d"])
@triton.jit
def _multiply_entries(
    latents,
    starts,
    of_rows,
    of_latents,
    out,
    d,
    row_stride,
    latent_stride,
    PARTS: tl.constexpr,
    ENTRIES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Products of some of one row's entries; ``PARTS`` programs share a row's."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    for first in range(begin + tl.program_id(1) * ENTRIES, end, PARTS * ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        there = entry < end
        latent = tl.load(latents + entry, mask=there, other=0).to(tl.int64)
        total = tl.zeros([ENTRIES, BLOCK_D], tl.float32)
        for from_column in range(0, d, BLOCK_D):
            column = from_column + tl.arange(0, BLOCK_D)
            one = tl.load(of_rows + row * row_stride + column, mask=column < d, other=0)
            other = tl.load(
                of_latents + latent[:, None] * latent_stride + column[None, :],
                mask=there[:, None] & (column < d)[None, :],
                other=0,
            )
            total += one.to(tl.float32)[None, :] * other.to(tl.float32)
        tl.store(out + entry, tl.sum(total, 1), mask=there)


@triton.jit
def _sum_pieces(
    weights,
    latents,
    order,
    rows,
    vectors,
    sums,
    weight_sums,
    d,
    vector_stride,
    PIECE: tl.constexpr,
    ENTRIES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The sum of one piece, if all of it is one latent's."""
    piece = tl.program_id(0).to(tl.int64)
    begin = piece * PIECE
    latent = tl.load(latents + tl.load(order + begin))
    if latent == tl.load(latents + tl.load(order + begin + PIECE - 1)):
        column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros([ENTRIES, BLOCK_D], tl.float32)
        weight_total = tl.zeros([ENTRIES], tl.float32)
        for first in range(0, PIECE, ENTRIES):
            at = begin + first + tl.arange(0, ENTRIES)
            weight = tl.load(weights + tl.load(order + at)).to(tl.float32)
            row = tl.load(rows + at).to(tl.int64)
            wanted = (weight != 0)[:, None] & (column < d)[None, :]
            vector = tl.load(vectors + row[:, None] * vector_stride + column[None, :], mask=wanted, other=0)
            total += weight[:, None] * vector.to(tl.float32)
            weight_total += weight
        tl.store(sums + piece * d + column, tl.sum(total, 0), mask=column < d)
        if tl.program_id(1) == 0:
            tl.store(weight_sums + piece, tl.sum(weight_total))


@tuned(_BY_LATENT, key=["d", "d_sae"])
@triton.jit
def _sum_by_latent(
    weights,
    order,
    rows,
    starts,
    vectors,
    sums,
    weight_sums,
    out,
    weight_out,
    d_sae,
    d,
    vector_stride,
    PIECE: tl.constexpr,
    LATENTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Some columns of the sums of a few latents: entries before and after their whole pieces, then the pieces."""
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (column < d)[None, :]
    # a thread holds these for every latent: half the bits are half the registers
    begin = tl.load(starts + latent, mask=latent < d_sae, other=0).to(tl.int32)
    end = tl.load(starts + latent + 1, mask=latent < d_sae, other=0).to(tl.int32)
    first_piece = (begin + PIECE - 1) // PIECE
    n_pieces = tl.maximum(end // PIECE - first_piece, 0)
    n_head = tl.where(n_pieces > 0, first_piece * PIECE, end) - begin
    n_single = end - begin - n_pieces * PIECE
    total = tl.zeros([LATENTS, BLOCK_D], tl.float32)
    weight_total = tl.zeros([LATENTS], tl.float32)
    for number in range(tl.max(n_single)):
        there = number < n_single
        at = begin + number + tl.where(number < n_head, 0, n_pieces * PIECE)
        weight = tl.load(weights + tl.load(order + at, mask=there, other=0), mask=there, other=0)
        weight = weight.to(tl.float32)
        row = tl.load(rows + at, mask=there, other=0).to(tl.int64)
        wanted = (weight != 0)[:, None] & inside
        vector = tl.load(vectors + row[:, None] * vector_stride + column[None, :], mask=wanted, other=0)
        total += weight[:, None] * vector.to(tl.float32)
        weight_total += weight
    for number in range(tl.max(n_pieces)):
        there = number < n_pieces
        piece = (first_piece + number).to(tl.int64)
        total += tl.load(sums + piece[:, None] * d + column[None, :], mask=there[:, None] & inside, other=0)
        weight_total += tl.load(weight_sums + piece, mask=there, other=0)
    stored = (latent < d_sae)[:, None] & inside
    tl.store(
        out + latent.to(tl.int64)[:, None] * d + column[None, :], total.to(out.dtype.element_ty), mask=stored
    )
    if tl.program_id(1) == 0:
        tl.store(weight_out + latent, weight_total.to(weight_out.dtype.element_ty), mask=latent < d_sae)


@triton.jit
def _add_by_latent(weights, order, starts, out, d_sae, LATENTS: tl.constexpr, LANES: tl.constexpr):
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    begin = tl.load(starts + latent, mask=latent < d_sae, other=0)
    length = tl.load(starts + latent + 1, mask=latent < d_sae, other=0) - begin
    total = tl.zeros([LATENTS, LANES], tl.float32)
    for first in range(0, tl.max(length), LANES):
        number = first + tl.arange(0, LANES)[None, :]
        there = number < length[:, None]
        entry = tl.load(order + begin[:, None] + number, mask=there, other=0)
        total += tl.load(weights + entry, mask=there, other=0).to(tl.float32)
    tl.store(out + latent, tl.sum(total, 1).to(out.dtype.element_ty), mask=latent < d_sae)


def sum_rows(weights: Tensor, latents: Tensor, starts: Tensor, vectors: Tensor) -> Tensor:
    """For every row the sum of its latents' vectors, weighted."""
    vectors = _with_whole_rows(vectors)
    d, n_rows = vectors.shape[1], len(starts) - 1
    out = vectors.new_empty(n_rows, d)
    if out.numel():
        _sum_by_row[lambda meta: (n_rows, triton.cdiv(d, meta["BLOCK_D"]))](
            weights.contiguous(), latents, starts, vectors, out, d, vectors.stride(0)
        )
    return out


def multiply_entries(latents: Tensor, starts: Tensor, of_rows: Tensor, of_latents: Tensor) -> Tensor:
    """For every entry the product of its row's vector and its latent's, in fp32."""
    of_rows, of_latents = _with_whole_rows(of_rows), _with_whole_rows(of_latents)
    n_rows = len(starts) - 1
    out = torch.empty(len(latents), dtype=torch.float32, device=latents.device)
    if len(latents):
        # programs of about sixty-four entries
        parts = min(16, triton.next_power_of_2(triton.cdiv(len(latents), 64 * n_rows)))
        _multiply_entries[(n_rows, parts)](
            latents,
            starts,
            of_rows,
            of_latents,
            out,
            of_rows.shape[1],
            of_rows.stride(0),
            of_latents.stride(0),
            PARTS=parts,
        )
    return out


def sum_latents(
    weights: Tensor, latents: Tensor, order: Tensor, rows: Tensor, starts: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """For every latent the sum of its rows' vectors, weighted, and of its weights."""
    vectors, weights = _with_whole_rows(vectors), weights.contiguous()
    d, d_sae = vectors.shape[1], len(starts) - 1
    n_pieces = len(order) // PIECE
    out, weight_out = vectors.new_empty(d_sae, d), weights.new_empty(d_sae)
    sums = torch.empty(max(n_pieces, 1), d, dtype=torch.float32, device=vectors.device)
    weight_sums = torch.empty(max(n_pieces, 1), dtype=torch.float32, device=vectors.device)
    if n_pieces and d:
        block = min(512, max(16, triton.next_power_of_2(d)))
        _sum_pieces[(n_pieces, triton.cdiv(d, block))](
            weights,
            latents,
            order,
            rows,
            vectors,
            sums,
            weight_sums,
            d,
            vectors.stride(0),
            PIECE=PIECE,
            ENTRIES=8,
            BLOCK_D=block,
            num_warps=4,
        )
    if d_sae and d:
        _sum_by_latent[lambda meta: (triton.cdiv(d_sae, meta["LATENTS"]), triton.cdiv(d, meta["BLOCK_D"]))](
            weights,
            order,
            rows,
            starts,
            vectors,
            sums,
            weight_sums,
            out,
            weight_out,
            d_sae,
            d,
            vectors.stride(0),
            PIECE=PIECE,
        )
    return out, weight_out


def add_latents(weights: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """For every latent the sum of its entries' weights."""
    d_sae = len(starts) - 1
    out = weights.new_empty(d_sae)
    if d_sae:
        _add_by_latent[(triton.cdiv(d_sae, 8),)](
            weights.contiguous(), order, starts, out, d_sae, LATENTS=8, LANES=32, num_warps=2
        )
    return out


def _with_whole_rows(vectors: Tensor) -> Tensor:
    return vectors if vectors.stride(1) == 1 or vectors.shape[1] == 1 else vectors.contiguous()
