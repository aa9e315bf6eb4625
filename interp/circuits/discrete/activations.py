"""What every head adds to the residual stream, averaged over positions of a prompt.

A head's output is its ``z`` times ``W_O``, and the mean of the products is the product of the mean. So only
means of ``z`` are kept, [prompt, layer, head, d_head], and outputs are made from them where they are
needed: a few rows, or one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import CircuitError
from interp.lenses.prompts import PromptBatch, Where, site_at
from interp.models.capture import split_heads
from interp.models.hooks import HookEdit, installed_edits
from interp.models.model import Model
from interp.models.sites import tap
from interp.patching.budget import halve_on_out_of_memory, rows_within
from interp.types import Site


@dataclass(frozen=True)
class HeadOutputs:
    """Outputs of all heads on some prompts, scaled and, if asked for, centred."""

    z: Float[Tensor, "prompt layer head d_head"]
    """Means over positions."""
    W_O: tuple[Float[Tensor, "head d_head d_model"], ...]
    """One a layer."""
    scale: float = 1.0
    """Outputs are divided by this."""

    @property
    def n_rows(self) -> int:
        """Outputs there are: one a prompt and head."""
        return self.z.shape[0] * self.z.shape[1] * self.z.shape[2]

    def of_head(self, layer: int, head: int) -> Float[Tensor, "prompt d_model"]:
        """One head's output on every prompt."""
        return self.z[:, layer, head] @ self.W_O[layer][head].float() / self.scale

    def rows(self, numbers: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """Outputs by number, prompts outermost and heads innermost."""
        n_heads, heads = self.z.shape[2], self.z.shape[1] * self.z.shape[2]
        order = (numbers % heads).argsort(stable=True)
        counts = (numbers % heads).bincount(minlength=heads).tolist()
        parts = self.z.flatten(0, 2)[numbers[order]].split(counts)
        by_head = torch.cat(
            [
                part @ self.W_O[number // n_heads][number % n_heads].float()
                for number, part in enumerate(parts)
                if len(part)
            ]
        )
        found = torch.empty_like(by_head)
        found[order] = by_head
        return found / self.scale

    def mean_output(self) -> Float[Tensor, " d_model"]:
        """The mean over prompts and heads."""
        means = self.z.mean(0)
        parts = [torch.einsum("hd,hdm->m", z, W.float()) for z, W in zip(means, self.W_O, strict=True)]
        return torch.stack(parts).sum(0) / (means.shape[0] * means.shape[1]) / self.scale

    def mean_square(self, around: Float[Tensor, " d_model"]) -> float:
        """Mean squared distance of an output from a vector."""
        _, n_layers, n_heads, _ = self.z.shape
        total = sum(
            float((self.of_head(layer, head) - around).square().sum(1).double().mean())
            for layer in range(n_layers)
            for head in range(n_heads)
        )
        return total / (n_layers * n_heads)

    def shifted(self, means: Float[Tensor, "layer head d_head"]) -> HeadOutputs:
        """Outputs less those of ``means``."""
        return HeadOutputs(self.z - means, self.W_O, self.scale)

    def scaled(self, scale: float) -> HeadOutputs:
        """Outputs divided by ``scale`` once more."""
        return HeadOutputs(self.z, self.W_O, self.scale * scale)

    def select(self, prompts: Tensor) -> HeadOutputs:
        """Some of the prompts, by number or by a mask."""
        return HeadOutputs(self.z[prompts], self.W_O, self.scale)


@torch.no_grad()
def read_head_outputs(
    model: Model, batches: Sequence[PromptBatch], at: Where | None, memory_budget: int, progress: bool
) -> HeadOutputs:
    """Outputs of all heads on the prompts of all batches, in their order, in fp32.

    Each layer's ``z`` is averaged as it is made, over the positions ``at`` (all real ones for ``None``).
    Raises :class:`CircuitError` while an intervention on ``result`` is in force, which ``z`` does not show,
    and :class:`LensError` for a prompt without a token at these positions.
    """
    found = []
    with tqdm(total=sum(map(len, batches)), desc="heads", unit="prompt", disable=not progress) as bar:
        for batch in batches:
            rows = rows_within(model, memory_budget, batch.tokens.shape[1], 1)
            chunks = halve_on_out_of_memory(range(len(batch)), rows)
            for chunk in chunks:
                z = chunks.attempt(partial(_mean_z, model, batch.rows(chunk[0], chunk[-1] + 1), at))
                if z is not None:
                    found.append(z)
                    bar.update(len(chunk))
    W_O = tuple(layer.W_O.detach() for layer in model.weights.layers)
    return HeadOutputs(torch.cat(found), W_O)


def _mean_z(model: Model, batch: PromptBatch, at: Where | None) -> Float[Tensor, "prompt layer head d_head"]:
    # refuses a prompt without such a position, by name
    batch.chosen_columns(at)
    chosen = batch.columns.select(Site("z") if at is None else site_at(at), batch.labels)
    weights = (chosen / chosen.sum(1, keepdim=True)).to(model.device)
    found: dict[int, Tensor] = {}

    def average(layer: int, value: Tensor) -> None:
        z = split_heads(value, taps[layer]).float()
        found[layer] = torch.einsum("bphd,bp->bhd", z, weights)

    taps = [tap(model.family, model.traits, "z", layer) for layer in range(model.traits.n_layers)]
    edits = [HookEdit(tap.read, partial(average, layer)) for layer, tap in enumerate(taps)]
    with installed_edits(model, edits):
        model(batch.tokens, batch.attention_mask, keep_columns=torch.tensor([0]))
        if model.edited_results:
            raise CircuitError(
                "an intervention on 'result' is in force, but heads are read through their z here; intervene on z, or "
                "leave it out."
            )
    return torch.stack([found[layer] for layer in range(len(taps))], dim=1)
