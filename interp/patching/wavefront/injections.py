"""Rows that begin by one launch of a kernel: which sites that covers, and as what patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.inject import DirectionPatch, Patch, PositionPatch, inject_runs, start_rows
from interp.kernels.norm import Norm
from interp.models.blocks import Stack, Trace
from interp.patching.wavefront.cells import CellTable
from interp.patching.wavefront.heads import Columns, stream_at
from interp.patching.wavefront.values import Values


@dataclass(frozen=True)
class Newborn:
    """Rows as they enter."""

    resid: Float[Tensor, "row pos d_model"]
    normed: Float[Tensor, "row pos d_model"] | None = None
    """Through the norm of the sublayer that reads them next, where a kernel made it along with them."""

    @classmethod
    def join(cls, parts: Sequence[tuple[Int[Tensor, " some"], Newborn]]) -> Newborn:
        """Several made apart, each with where its rows stand; their norm is kept where all have one."""
        n = sum(len(at) for at, _ in parts)
        resid = parts[0][1].resid.new_empty(n, *parts[0][1].resid.shape[1:])
        normed = None if any(part.normed is None for _, part in parts) else torch.empty_like(resid)
        for at, part in parts:
            resid[at] = part.resid
            if normed is not None and part.normed is not None:
                normed[at] = part.normed
        return cls(resid, normed)


def norm_at(stack: Stack, entry: int) -> Norm | None:
    """The norm through which rows are read that enter there; ``None`` at the readout and where there is none."""
    layer, phase = divmod(entry, 2)
    if layer == len(stack.blocks):
        return None
    block = stack.blocks[layer]
    return block.mlp_norm if phase else block.attention_norm


class Injections:
    """Starts rows by a kernel, where it runs and covers their sites."""

    def __init__(self, stack: Stack, base: Trace, new: Values, cells: CellTable) -> None:
        self.stack = stack
        self.base = base
        self.new = new
        self.cells = cells
        self._sources: dict[tuple[str, int], _Source | None] = {}

    def runs(self) -> bool:
        """Whether a kernel runs at all; which sites it covers, :meth:`start` says."""
        return inject_runs([self.base.stream[0]])

    def start(
        self,
        component: str,
        layer: int,
        entry: int,
        cells: Int[Tensor, " row"],
        prompts: Int[Tensor, " row"],
        columns: Columns,
    ) -> Newborn | None:
        """Rows with their cells patched, all of one component and layer; ``None`` where that is not covered."""
        if (component, layer) not in self._sources:
            self._sources[component, layer] = self._find_source(component, layer)
        source = self._sources[component, layer]
        if source is None:
            return None
        where = self.cells.mask(cells, prompts, columns)
        patch: Patch
        if source.directions is None:
            patch = PositionPatch(source.new, source.old, where)
        else:
            part = torch.zeros_like(cells) if source.part is None else source.part[cells]
            patch = DirectionPatch(source.new, source.directions, part, source.old, where)
        return self.begin(entry, prompts, columns, patch)

    def begin(
        self, entry: int, prompts: Int[Tensor, " row"], columns: Columns, patch: Patch | None = None
    ) -> Newborn:
        """Rows that enter with the base run's stream, and what a patch writes into it."""
        stream, norm = stream_at(self.base, entry), norm_at(self.stack, entry)
        return Newborn(*start_rows(stream, prompts, columns, patch, norm))

    def _find_source(self, component: str, layer: int) -> _Source | None:
        """What all cells of a component and layer write; ``None`` where they differ in kind or are not covered."""
        cells = [self.cells.cells[number] for number in self.cells.by_place()[component, layer]]
        basis = cells[0].subspace
        if any(cell.subspace is not basis for cell in cells):
            return None
        if component in ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            new, old = self.new(component, layer), self.base[component, layer]
            if basis is not None:
                basis = basis.to(new)
                return _Source(((new - old) @ basis.T)[:, :, None], directions=basis[None])
            # the old stream is the one that rows begin with
            return _Source(new, None if component.startswith("resid") else old)
        if self.stack.traits.post_norms:
            return None
        if component in ("z", "result"):
            return self._source_of_heads(component, layer, basis)
        if component == "mlp_post" and basis is None and all(len(cell.neurons or ()) == 1 for cell in cells):
            new, old = self.new(component, layer)[..., None], self.base[component, layer][..., None]
            W_out = self.stack.blocks[layer].mlp_out.weight
            return _Source(new, old, W_out[:, None], self.cells.neurons)
        return None

    def _source_of_heads(self, component: str, layer: int, basis: Tensor | None) -> _Source:
        new, old = self.new("z", layer), self.base["z", layer]
        W_O = self.stack.blocks[layer].weights.W_O
        if basis is None:
            return _Source(new, old, W_O, self.cells.heads)
        basis = basis.to(new)
        if component == "z":
            return _Source((new - old) @ basis.T, None, basis @ W_O, self.cells.heads)
        along = torch.einsum("pshe,hed,kd->pshk", new - old, W_O, basis)
        return _Source(along, None, basis[None], self.cells.heads)


@dataclass(frozen=True)
class _Source:
    """Tables of a patch without its rows, see :class:`PositionPatch` and :class:`DirectionPatch`."""

    new: Tensor
    old: Tensor | None = None
    directions: Tensor | None = None
    part: Tensor | None = None
    """The part that each cell changes; ``None``: the first."""
