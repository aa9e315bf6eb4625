"""From a change and the gradient it meets to one number a cell and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.attribute import attribute_rows, attribute_units
from interp.patching.attribution.change import Change
from interp.patching.cells import Sweep
from interp.types import HEAD_COMPONENTS, PATTERN_COMPONENTS

Slab = Float[Tensor, "_head _neurons where prompt"]
"""Scores of one sweep at one layer."""


class Wheres:
    """Sets of columns, and the sum over each."""

    def __init__(self, masks: Sequence[Bool[Tensor, "prompt pos"]], device: torch.device) -> None:
        self.masks = torch.stack(list(masks)).to(device)

    @cached_property
    def single(self) -> Int[Tensor, "where prompt"] | None:
        """The column of each set, -1 where it has none; ``None`` if a set has several in a prompt."""
        if int(self.masks.sum(-1).max()) > 1:
            return None
        return torch.where(self.masks.any(-1), self.masks.int().argmax(-1), -1)

    @cached_property
    def touched(self) -> Bool[Tensor, "prompt pos"]:
        """Columns of any set."""
        return self.masks.any(0)

    @cached_property
    def is_every_column(self) -> bool:
        """Whether set i is column i in every prompt."""
        single, n = self.single, self.masks.shape[-1]
        if single is None or len(single) != n:
            return False
        return bool((single == torch.arange(n, device=single.device)[:, None]).all())

    def total(self, product: Float[Tensor, "prompt pos k"]) -> Float[Tensor, "where prompt k"]:
        """The sum over each set's columns."""
        if self.single is None:
            return torch.einsum("wbp,bpk->wbk", self.masks.to(product.dtype), product)
        if self.is_every_column:
            return product.transpose(0, 1)
        rows = torch.arange(product.shape[0], device=product.device)
        picked = product[rows, self.single.clamp(min=0)]
        return picked * (self.single >= 0)[..., None]


@dataclass(frozen=True)
class Part:
    """One sweep at one layer, for some of the prompts."""

    sweep: int
    """Which of the sweeps, in the order they were asked for."""
    slot: int
    """Which of the sweep's layers."""
    of: Sweep
    wheres: Wheres

    @property
    def component(self) -> str:
        return self.of.site.activation

    def narrow(self, delta: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
        """The part of a change within the site's subspace, which is one of its neurons if it names some."""
        basis = self.of.site.subspace
        if basis is None:
            return delta
        basis = basis.to(delta)
        if self.of.neurons == (None,):
            return delta @ basis.T @ basis
        inside = torch.zeros_like(delta)
        for group in self.of.neurons:
            columns = list(group or ())
            inside[..., columns] = delta[..., columns] @ basis.T @ basis
        return inside

    def collect(self, delta: Float[Tensor, "..."], gradient: Float[Tensor, "..."]) -> Slab:
        """``sum_d delta * gradient`` of every cell and prompt, in fp32 at least."""
        delta, gradient = self.narrow(delta), gradient.to(delta.dtype)
        if self.component in PATTERN_COMPONENTS:
            return self.arrange((delta * gradient).sum(-1).transpose(1, 2)[..., None])
        groups = self.of.neurons
        if groups == (None,):
            product = torch.linalg.vecdot(delta, gradient)[..., None]
        else:
            whole = delta * gradient
            if self.of.takes_each_neuron and len(groups) == whole.shape[-1]:
                product = whole
            else:
                product = torch.stack([whole[..., list(group or ())].sum(-1) for group in groups], -1)
        return self.arrange(product if self.component in HEAD_COMPONENTS else product.unsqueeze(2))

    def contract(
        self, change: Change, gradient: Float[Tensor, "..."], weights: Float[Tensor, " point"] | None = None
    ) -> Slab:
        """:meth:`collect` by kernels; with ``weights`` the gradient has its points beside its prompts."""
        if self.of.site.subspace is not None:
            change = Change(self.narrow(change.subtract()))
        source, base = change.source, change.base
        if weights is not None:
            gradient = gradient.unflatten(0, (len(weights), -1))
        touched, has_heads = self.wheres.touched, self.component in HEAD_COMPONENTS
        if self.component in PATTERN_COMPONENTS:
            rows = attribute_rows(source, base, gradient, weights=weights, mask=touched.unsqueeze(1))
            return self.arrange(rows.transpose(1, 2)[..., None])
        groups = self.of.neurons
        if groups == (None,):
            mask = touched.unsqueeze(2) if has_heads else touched
            rows = attribute_rows(source, base, gradient, weights=weights, mask=mask)
            return self.arrange((rows if has_heads else rows.unsqueeze(2))[..., None])
        columns = self.wheres.single
        sets = self.wheres.masks if columns is None else None
        units = attribute_units(source, base, gradient, weights=weights, sets=sets, columns=columns)
        units = units if has_heads else units.unsqueeze(2)
        if not (self.of.takes_each_neuron and len(groups) == units.shape[-1]):
            units = torch.stack([units[..., list(group or ())].sum(-1) for group in groups], -1)
        return self.choose_heads(units).permute(2, 3, 0, 1)

    def arrange(self, product: Float[Tensor, "prompt pos head neurons"]) -> Slab:
        """Contributions by column laid out as this part's cells."""
        product = self.choose_heads(product)
        n_heads, n_groups = product.shape[2:]
        summed = self.wheres.total(product.flatten(2))
        return summed.unflatten(-1, (n_heads, n_groups)).permute(2, 3, 0, 1)

    def choose_heads(self, product: Float[Tensor, "a b head k"]) -> Float[Tensor, "a b _head k"]:
        """This part's heads of all."""
        heads = self.of.heads
        if heads == (None,) or (self.of.takes_all_heads and len(heads) == product.shape[2]):
            return product
        return product[:, :, [head for head in heads if head is not None]]
