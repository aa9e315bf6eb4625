"""The encoder: a dense product forward, and gradients from the entries that fire only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.kernels.coder_step.latents import SparseLatents, kernels_run


def pre_activations(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"] | None = None,
    out: Float[Tensor, "row d_sae"] | None = None,
) -> Float[Tensor, "row d_sae"]:
    """``x @ W_enc.T + b_enc``, apart from any gradient: choose entries of it, then :func:`attach_encoder`.

    It is written to ``out`` where that is given: memory that was used before, such as a :class:`Workspace`'s.
    """
    with torch.no_grad():
        if out is None:
            return F.linear(x, W_enc, b_enc)
        if b_enc is None:
            return torch.mm(x, W_enc.T, out=out)
        return torch.addmm(b_enc, x, W_enc.T, out=out)


class Workspace:
    """Memory that every training step writes anew.

    The pages of a fresh [row, d_sae] matrix cost a step as much as choosing its latents. A copy begins empty.
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def take(self, n_rows: int, d_sae: int, like: Tensor) -> Float[Tensor, "row d_sae"]:
        """A matrix of this size with whatever was in it; what was taken before is overwritten with it."""
        held = self._held
        if (
            held is None
            or held.numel() < n_rows * d_sae
            or held.dtype != like.dtype
            or held.device != like.device
        ):
            held = self._held = torch.empty(n_rows * d_sae, dtype=like.dtype, device=like.device)
        return held[: n_rows * d_sae].view(n_rows, d_sae)

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspace:
        return Workspace()


def attach_encoder(
    chosen: SparseLatents,
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"] | None = None,
) -> SparseLatents:
    """Entries of the pre-activations, with their gradient towards ``x``, ``W_enc`` and ``b_enc``.

    ``chosen.values`` must be ``x[row] . W_enc[latent] + b_enc[latent]``, as :func:`pre_activations` gives.
    The gradient of an entry that was not chosen is zero, so none of size [row, d_sae] is made.
    """
    before = chosen.values.detach()
    values: Tensor
    if chosen.sparse_pays and kernels_run(before, x, W_enc, b_enc):
        from interp.kernels.coder_step.sums.ops import encode

        groups = groups_for(chosen, W_enc, b_enc)
        values = encode(before, x, W_enc, b_enc, chosen.latents, chosen.starts, *groups)
    else:
        values = _Encode.apply(before, x, W_enc, b_enc, chosen)
    return chosen.with_values(values)


def groups_for(
    entries: SparseLatents, *weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
    """The shared sort, as the gradient of one of these will need it."""
    if not torch.is_grad_enabled() or not any(one is not None and one.requires_grad for one in weights):
        return None, None, None
    grouped = entries.by_latent
    return grouped.order, grouped.rows, grouped.starts


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor | None, chosen: SparseLatents
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.chosen = chosen
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        _, of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        chosen = ctx.chosen
        if not chosen.sparse_pays:
            dense = chosen.with_values(grad).to_dense()
            return (
                None,
                dense @ W_enc if of_x else None,
                dense.T @ x if of_weight else None,
                dense.sum(0) if of_bias else None,
                None,
            )
        return (
            None,
            sum_by_row(chosen, grad, W_enc) if of_x else None,
            sum_by_latent(chosen, grad, x) if of_weight else None,
            add_by_latent(chosen, grad) if of_bias else None,
            None,
        )


def sum_by_row(
    entries: SparseLatents, weights: Float[Tensor, " entry"], vectors: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "row d"]:
    """For every row the sum of its latents' vectors, weighted."""
    if kernels_run(weights, vectors):
        from interp.kernels.coder_step.sums.ops import sum_by_row as sum_rows

        summed: Tensor = sum_rows(weights, entries.latents, entries.starts, vectors, None, None, None)
        return summed
    return _bags(entries.latents, entries.starts, weights, vectors)


def sum_by_latent(
    entries: SparseLatents, weights: Float[Tensor, " entry"], vectors: Float[Tensor, "row d"]
) -> Float[Tensor, "d_sae d"]:
    """For every latent the sum of its rows' vectors, weighted: the gradient of a decoder or encoder."""
    by_latent = entries.by_latent
    if kernels_run(weights, vectors):
        from interp.kernels.coder_step.sums.ops import sum_by_latent as sum_latents

        summed: Tensor = sum_latents(
            weights.detach(),
            entries.latents,
            by_latent.order,
            by_latent.rows,
            by_latent.starts,
            vectors.detach(),
        )[0]
        return summed
    return _bags(by_latent.rows, by_latent.starts, weights[by_latent.order], vectors)


def add_by_latent(entries: SparseLatents, weights: Float[Tensor, " entry"]) -> Float[Tensor, " d_sae"]:
    """For every latent the sum of its entries' weights, in one fixed order."""
    by_latent = entries.by_latent
    if kernels_run(weights):
        from interp.kernels.coder_step.sums.ops import add_by_latent as add_latents

        added: Tensor = add_latents(weights.detach(), by_latent.order, by_latent.starts)
        return added
    return torch.segment_reduce(weights[by_latent.order], "sum", lengths=by_latent.starts.diff(), initial=0.0)


def take_by_latent(vector: Float[Tensor, " d_sae"], entries: SparseLatents) -> Float[Tensor, " entry"]:
    """The number of every entry's latent (a threshold, a bias), with its gradient."""
    taken: Tensor = _Take.apply(vector, entries)
    return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, entries: SparseLatents) -> Tensor:
        ctx.entries = entries
        return vector[entries.latents]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return add_by_latent(ctx.entries, grad), None


def dot_entries(
    entries: SparseLatents, of_rows: Float[Tensor, "row d"], of_latents: Float[Tensor, "d_sae d"]
) -> Float[Tensor, " entry"]:
    """The product of each entry's row vector and latent vector; no gradients pass here."""
    if kernels_run(of_rows, of_latents):
        from interp.kernels.coder_step.sums.ops import dot

        products: Tensor = dot(entries.latents, entries.starts, of_rows.detach(), of_latents.detach())
        return products.to(of_latents.dtype)
    weights = torch.zeros_like(entries.values, dtype=of_latents.dtype, requires_grad=True)
    if not len(weights):
        return weights.detach()
    # it is what a weighted sum of the latents' vectors has as its weights' gradient
    with torch.enable_grad():
        summed = sum_by_row(entries, weights, of_latents.detach())
    return torch.autograd.grad(summed, weights, of_rows.detach().to(of_latents))[0]


def _bags(members: Tensor, starts: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
    if len(members) == 0:
        # an empty list of bags' members is refused
        return vectors.new_zeros(len(starts) - 1, vectors.shape[1])
    return F.embedding_bag(
        members, vectors, starts, mode="sum", per_sample_weights=weights.to(vectors), include_last_offset=True
    )
