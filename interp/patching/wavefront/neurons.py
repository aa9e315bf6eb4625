"""Single neurons of an MLP changed, or computed again: what the MLP adds to the stream then."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack, Trace
from interp.models.blocks.geometry import take_columns
from interp.patching.wavefront.heads import Columns


def change_of_units(
    stack: Stack,
    base: Trace,
    layer: int,
    place: tuple[Tensor, Tensor],
    delta: Float[Tensor, "token d_mlp"],
    units: Int[Tensor, " unit"],
) -> Float[Tensor, "token d_model"]:
    """Change of ``mlp_out`` at places (prompt, column) where these neurons of ``mlp_post`` change so."""
    block = stack.blocks[layer]
    out = delta[:, units] @ block.mlp_out.weight[units]
    if not stack.traits.post_norms:
        return out
    old = base["mlp_o", layer][place]
    return block.finish_mlp(old + out) - block.finish_mlp(old)


def change_of_neuron(
    stack: Stack,
    base: Trace,
    layer: int,
    rows: tuple[Int[Tensor, " row"], Columns],
    x: Float[Tensor, "source pos d_model"],
    which: Int[Tensor, " row"],
    neuron: Int[Tensor, " row"] | None,
    units: Int[Tensor, " unit"],
) -> Float[Tensor, "row pos d_model"]:
    """Change of ``mlp_out`` where one neuron of each row sees the normalised input ``x[which]``.

    With ``neuron=None`` all neurons see it but ``units``. ``rows`` are prompts and columns of the base run.
    """
    block = stack.blocks[layer]
    prompts, columns = rows
    flat = x.flatten(0, 1)
    pre = block.mlp_in(flat) if block.gate is None else block.gate(flat)
    linear = None if block.gate is None else block.mlp_in(flat)
    post = block.mlp_hidden(pre, linear).unflatten(0, x.shape[:2])
    if neuron is None:
        delta = post[which] - take_columns(base["mlp_post", layer], prompts, columns)
        delta.index_fill_(-1, units, 0.0)
        out = delta @ block.mlp_out.weight
    else:
        column = columns
        if isinstance(column, slice):
            column = torch.arange(column.start, column.stop, device=which.device)[None]
        old = base["mlp_post", layer][prompts[:, None], column, neuron[:, None]]
        change = post[which, :, neuron] - old
        out = change[..., None] * block.mlp_out.weight[neuron][:, None]
    if not stack.traits.post_norms:
        return out
    before = take_columns(base["mlp_o", layer], prompts, columns)
    return block.finish_mlp(before + out) - block.finish_mlp(before)
