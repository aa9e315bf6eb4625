"""Circuits run by block functions: every reader gets a residual stream of its own.

Many circuits of many prompts go through the layers together. Columns before the first token that differs
are the clean run's in every circuit and are not run, nor are those after the last one that is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.runs.masks import Masks
from interp.models.blocks import Stack, Wave, mix_heads, mlp_in_parts
from interp.models.blocks.block import Block
from interp.patching.wavefront.pairs import PairRun
from interp.results import Graph


def kept_places(stack: Stack, graph: Graph) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """What is replaced, and what has to be kept of the base run, as (component, layer)."""
    traits = stack.traits
    replaced, kept = {("resid_pre", 0)}, set()
    for layer in range(traits.n_layers):
        replaced.add(("z", layer))
        if traits.post_norms:
            kept.add(("o", layer))
        if not traits.d_mlp:
            continue
        if graph.units_of(layer) is not None:
            replaced.add(("mlp_post", layer))
            if traits.post_norms:
                kept.add(("mlp_o", layer))
        replaced.add(("mlp_out", layer))
    return replaced, replaced | kept


@dataclass(frozen=True)
class _Sublayer:
    """An attention or MLP: its writers, and what it adds when all of them are ablated."""

    first: int
    n: int
    ablated: Float[Tensor, "prompt n d_model"] | None
    """Its output before a norm after it, where there is one and several writers share it."""
    block: Block
    is_mlp: bool

    def finish(self, out: Tensor) -> Tensor:
        """Its norm after the sublayer."""
        return self.block.finish_mlp(out) if self.is_mlp else self.block.finish_attention(out)


class CarriedRuns:
    """Runs circuits on one block of prompts."""

    def __init__(
        self,
        stack: Stack,
        graph: Graph,
        run: PairRun,
        places: Int[Tensor, "prompt pos"] | None,
        from_difference: bool,
    ) -> None:
        self.stack = stack
        self.graph = graph
        self.run = run
        n = run.task.clean.shape[1]
        self.start = min(int(run.differs_from.min()), n - 1) if from_difference else 0
        self.stop = int(run.read.max()) + 1
        self.start = min(self.start, self.stop - 1)
        self.places = None if places is None else places[:, self.start : self.stop]
        self._sublayers: list[_Sublayer] = []
        self._streams: dict[tuple[int, bool], Tensor] = {}
        self._ablate()

    @property
    def n_prompts(self) -> int:
        """Prompts of the block."""
        return len(self.run.task)

    def bytes_per_circuit(self) -> int:
        """Estimated memory of one circuit on all prompts of the block."""
        t, n = self.stack.traits, self.stop - self.start
        readers = t.n_heads + 2 * t.n_kv_heads
        stream = n * t.d_model * (len(self.graph.writers) + 3 * readers + 8)
        attention = n * self.stop * t.n_heads * 5 + n * 8 * (t.n_heads + t.n_kv_heads) * t.d_head
        logits = self.run.read.shape[1] * (t.d_vocab if self.run.vocab is None else self.run.vocab.shape[1])
        return (stream + attention + 3 * logits) * self.stack.model.dtype.itemsize * self.n_prompts

    def _cut(self, table: Tensor) -> Tensor:
        return table[:, self.start : self.stop]

    def _base(self, component: str, layer: int) -> Tensor:
        return self._cut(self.run.base[component, layer])

    def _new(self, component: str, layer: int) -> Tensor:
        return self._cut(self.run.new(component, layer))

    def _ablate(self) -> None:
        """The residual stream before every reader when everything is ablated."""
        traits, graph = self.stack.traits, self.graph
        change = self._new("resid_pre", 0) - self._base("resid_pre", 0)
        for layer, block in enumerate(self.stack.blocks):
            here = self._cut(self.run.base.stream[layer])
            self._streams[layer, False] = here + change
            z = self._new("z", layer) - self._base("z", layer)
            o = torch.einsum("pnhe,hed->pnd", z, block.weights.W_O)
            first = graph.find_node(f"a{layer}.h0")
            ablated = None
            if traits.post_norms:
                ablated = self._base("o", layer) + o
                o = block.finish_attention(ablated) - block.finish_attention(self._base("o", layer))
            self._sublayers.append(_Sublayer(first, traits.n_heads, ablated, block, False))
            after = change + o
            if not traits.d_mlp:
                change = after
                continue
            if traits.parallel_blocks:
                self._streams[layer, True] = here + change
            else:
                resid_mid = self._cut(self.run.base.stream[layer + 1]) - self._base("mlp_out", layer)
                self._streams[layer, True] = resid_mid + after
            out = self._ablated_mlp(layer, block) - self._base("mlp_out", layer)
            self._sublayers.append(self._mlp(layer, block, first + traits.n_heads))
            change = after + out
        self._final = self._cut(self.run.base.stream[-1]) + change

    def _ablated_mlp(self, layer: int, block: Block) -> Tensor:
        """``mlp_out`` with all of its writers ablated, unit by unit where it has units."""
        if self.graph.units_of(layer) is None:
            return self._new("mlp_out", layer)
        post = self._new("mlp_post", layer)
        return block.finish_mlp(block.mlp_out(post.flatten(0, 1)).unflatten(0, post.shape[:2]))

    def _mlp(self, layer: int, block: Block, first: int) -> _Sublayer:
        units = self.graph.units_of(layer)
        n = sum(writer.layer == layer and writer.kind != "head" for writer in self.graph.writers)
        ablated = None
        if units is not None and self.stack.traits.post_norms:
            post = self._new("mlp_post", layer)
            ablated = block.mlp_out(post.flatten(0, 1)).unflatten(0, post.shape[:2])
        return _Sublayer(first, n, ablated, block, True)

    @torch.no_grad()
    def score(
        self, included: Bool[Tensor, "circuit edge"], first_layer: int = 0
    ) -> Float[Tensor, "circuit prompt"]:
        """The metric of every prompt under each circuit.

        Nodes of layers before ``first_layer`` are the clean run's, whatever edges they have.
        """
        n_circuits, prompts = len(included), torch.arange(self.n_prompts, device=self.run.read.device)
        embedded = self._base("resid_pre", 0)
        masks = Masks(self.graph, included, self.places, embedded)
        shape = (n_circuits, self.n_prompts, len(self.graph.writers), *embedded.shape[1:])
        made = embedded.new_zeros(shape)
        made[:, :, 0] = embedded - self._new("resid_pre", 0)
        for layer in range(self.stack.traits.n_layers):
            if layer < first_layer:
                self._take_clean(made, layer)
                continue
            self._attend(made, masks, layer)
            if self.stack.traits.d_mlp:
                self._run_mlp(made, masks, layer)
        resid = self._final + self._sum(made, masks, len(self.graph.readers) - 1, 1)[:, :, 0]
        at = (self.run.read - self.start).clamp(min=0)
        at = at[None, :, :, None].expand(n_circuits, -1, -1, resid.shape[-1])
        resid = resid.gather(2, at).flatten(0, 1)
        rows = prompts.repeat(n_circuits)
        picked = self.stack.unembed(resid, None if self.run.vocab is None else self.run.vocab[rows])
        before = self.run.read[rows] < self.start
        if bool(before.any()):
            picked = torch.where(before[:, :, None], self.run.picked[rows], picked)
        if self.run.readout.metric.whole_batch:
            parts = [self.run.readout.score_picked(part, prompts) for part in picked.split(self.n_prompts)]
            return torch.stack(parts).float()
        return self.run.readout.score_picked(picked, rows).float().view(n_circuits, -1)

    def _take_clean(self, made: Tensor, layer: int) -> None:
        """Outputs of a layer's nodes as in the clean run."""
        block = self.stack.blocks[layer]
        heads = self._head_outputs(layer, self._base("z", layer))
        first = self.graph.find_node(f"a{layer}.h0")
        made[:, :, first : first + heads.shape[1]] = heads
        if self.stack.traits.d_mlp:
            units = self.graph.units_of(layer)
            post = None if units is None else self._base("mlp_post", layer)
            self._store_mlp(made, layer, block, post, self._base("mlp_out", layer))

    def _head_outputs(self, layer: int, z: Float[Tensor, "*rows n head d_head"]) -> Tensor:
        """What each head writes less what it writes when ablated, [*rows, head, n, d_model]."""
        change = (z - self._new("z", layer)).transpose(-3, -2)
        return change @ self.stack.blocks[layer].weights.W_O

    def _sum(self, made: Tensor, masks: Masks, reader: int, n: int) -> Float[Tensor, "c p reader n d"]:
        """What the edges into some readers change of the ablated stream there."""
        mask = masks.into(reader, n)
        reach = mask.shape[2]
        if not self.stack.traits.post_norms:
            return masks.add_up(mask, made[:, :, :reach])
        total = masks.add_up(mask[:, :, :1], made[:, :, :1])
        for part in self._sublayers:
            if part.first >= reach:
                break
            ends = slice(part.first, part.first + part.n)
            summed = masks.add_up(mask[:, :, ends], made[:, :, ends])
            if part.ablated is not None:
                old = part.ablated[None, :, None]
                summed = part.finish(old + summed) - part.finish(old)
            total = total + summed
        return total

    def _attend(self, made: Tensor, masks: Masks, layer: int) -> None:
        block, traits = self.stack.blocks[layer], self.stack.traits
        weights, n_heads, n_kv = block.weights, traits.n_heads, traits.n_kv_heads
        first = self.graph.reader_names.index(f"a{layer}.h0<q>")
        stream = self._streams[layer, False][None, :, None]
        x = stream + self._sum(made, masks, first, n_heads + 2 * n_kv)
        x = block.normalise(x, weights.ln1).flatten(0, 1)
        parts = x.split([n_heads, n_kv, n_kv], dim=1)
        maps = (
            (weights.W_Q, weights.b_Q),
            (weights.W_K, weights.b_K),
            (weights.W_V, weights.b_V),
        )
        q, k, v = (_project(part, *each).transpose(1, 2) for part, each in zip(parts, maps, strict=True))
        prompts = torch.arange(self.n_prompts, device=x.device).repeat(len(made))
        wave = Wave(0, self.start, self.stop, prompts, x[:, 0])
        z = mix_heads(block, wave, q, k, v, self.run.base).unflatten(0, made.shape[:2])
        at = self.graph.find_node(f"a{layer}.h0")
        made[:, :, at : at + n_heads] = self._head_outputs(layer, z)

    def _run_mlp(self, made: Tensor, masks: Masks, layer: int) -> None:
        block, graph = self.stack.blocks[layer], self.graph
        units = graph.units_of(layer)
        n_units = 0 if units is None else len(units.indices)
        has_rest = f"m{layer}" in graph.reader_names
        first = graph.reader_names.index(f"m{layer}" if units is None else f"m{layer}.n{units.indices[0]}")
        stream = self._streams[layer, True][None, :, None]
        x = stream + self._sum(made, masks, first, n_units + has_rest)
        x = block.normalise(x, block.weights.ln2)
        rest = x[:, :, -1]
        if units is None:
            out = mlp_in_parts(block, rest.flatten(0, 2))
            self._store_mlp(made, layer, block, None, block.finish_mlp(out).view_as(rest))
            return
        post = _hidden(block, rest) if has_rest else self._new("mlp_post", layer).expand(*rest.shape[:3], -1)
        post = post.clone()
        for number, unit in enumerate(units.indices):
            post[..., unit] = _one_hidden(block, x[:, :, number], unit)
        self._store_mlp(made, layer, block, post, None)

    def _store_mlp(
        self, made: Tensor, layer: int, block: Block, post: Tensor | None, out: Tensor | None
    ) -> None:
        """What an MLP's writers put out less what they put out when ablated, from its hidden layer or output."""
        at = self.graph.find_node(f"a{layer}.h0") + self.stack.traits.n_heads
        units = self.graph.units_of(layer)
        if units is None:
            assert out is not None
            made[:, :, at] = out - self._new("mlp_out", layer)
            return
        assert post is not None
        change, W_out = post - self._new("mlp_post", layer), block.mlp_out.weight
        index = torch.tensor(units.indices, device=change.device)
        single = change[..., index]
        made[:, :, at : at + len(index)] = single.transpose(-1, -2)[..., None] * W_out[index][:, None]
        if f"m{layer}" in self.graph.reader_names:
            rest = change.index_fill(-1, index, 0.0)
            made[:, :, at + len(index)] = rest @ W_out


def _project(
    x: Float[Tensor, "row head n d_model"],
    weight: Float[Tensor, "head d_model d_head"],
    bias: Float[Tensor, "head d_head"] | None,
) -> Float[Tensor, "row head n d_head"]:
    """Each head's own input through its own map."""
    found = x @ weight
    return found if bias is None else found + bias[:, None]


def _hidden(block: Block, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_mlp"]:
    flat = x.flatten(0, -2)
    pre = block.mlp_in(flat) if block.gate is None else block.gate(flat)
    linear = None if block.gate is None else block.mlp_in(flat)
    return block.mlp_hidden(pre, linear).unflatten(0, x.shape[:-1])


def _one_hidden(block: Block, x: Float[Tensor, "*rest d_model"], unit: int) -> Float[Tensor, "*rest"]:
    """``mlp_post`` of one neuron."""
    main = block.mlp_in if block.gate is None else block.gate
    pre = x @ main.weight[:, unit] + (0.0 if main.bias is None else main.bias[unit])
    post = block.act(pre)
    if block.gate is not None:
        linear = block.mlp_in
        post = post * (x @ linear.weight[:, unit] + (0.0 if linear.bias is None else linear.bias[unit]))
    return post if block.weights.b_post is None else post + block.weights.b_post[unit]
