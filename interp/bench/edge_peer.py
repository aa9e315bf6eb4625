"""What edges cost without the engine: the published formulas, straight from caches, in TransformerLens.

The gradients need its options for a query, key and value input of every head, and an input of every MLP; they
copy the residual stream once a head. A ``HookedTransformer`` has them for GPT-2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.clock import time_call
from interp.bench.peer import Peer
from interp.results import Graph
from interp.results.graph import Reader, Writer


class EdgePeer:
    """Edges of a peer's model; the clean run is patched with the corrupted one's values."""

    def __init__(self, peer: Peer, graph: Graph) -> None:
        self.peer = peer
        self.graph = graph
        self.kind = peer.kind

    @contextmanager
    def _options(self) -> Iterator[Any]:
        module = self.peer.module
        setters = (module.set_use_split_qkv_input, module.set_use_attn_result, module.set_use_hook_mlp_in)
        for switch in setters:
            switch(True)
        module.reset_hooks()
        try:
            yield module
        finally:
            module.reset_hooks()
            module.zero_grad(set_to_none=True)
            for switch in setters:
                switch(False)

    def attribute(self) -> Float[Tensor, " edge"]:
        """EAP of every edge: both runs' outputs of every writer, the gradient at every reader's input, and one
        product of the two (Syed et al. 2023, arXiv 2310.10348)."""
        graph, task = self.graph, self.peer.task
        with self._options() as module:
            names = set(map(_writer_hook, graph.writers)) | set(map(_reader_hook, graph.readers))
            with torch.no_grad():
                _, corrupted = module.run_with_cache(task.corrupted, names_filter=lambda name: name in names)
            clean: dict[str, Tensor] = {}
            gradients: dict[str, Tensor] = {}

            def keep(value: Tensor, hook: Any) -> None:
                clean[hook.name] = value.detach()

            def keep_gradient(value: Tensor, hook: Any) -> None:
                gradients[hook.name] = value.detach()

            module.add_hook(lambda name: name in names, keep, "fwd")
            module.add_hook(lambda name: name in names, keep_gradient, "bwd")
            with torch.enable_grad():
                self.peer.metric(module(task.clean)).backward()
        difference = torch.stack(
            [_written(corrupted, writer) - _written(clean, writer) for writer in graph.writers], dim=2
        )
        gradient = torch.stack([_read(gradients, reader) for reader in graph.readers], dim=2)
        found = torch.einsum("bpwd,bprd->rw", difference, gradient)
        return torch.cat([row[:n] for row, n in zip(found, graph.reach.tolist(), strict=True)])

    @torch.no_grad()
    def patch_some(self, edges: Sequence[int], seconds: list[float] | None = None) -> Float[Tensor, " edge"]:
        """The metric with each edge patched alone, one forward an edge; ``seconds`` gets the time of each."""
        graph, task = self.graph, self.peer.task
        found: list[Tensor] = []
        with self._options() as module:
            names = {_writer_hook(graph.writers[graph.edge_writer[edge]]) for edge in edges}
            caches = [
                module.run_with_cache(tokens, names_filter=lambda name: name in names)[1]
                for tokens in (task.clean, task.corrupted)
            ]
            for edge in edges:
                writer, reader = (
                    graph.writers[graph.edge_writer[edge]],
                    graph.readers[graph.edge_reader[edge]],
                )
                change = _written(caches[1], writer) - _written(caches[0], writer)
                hook = partial(_add, reader, change)
                hooks = [(_reader_hook(reader), hook)]
                taken = time_call(partial(self._run_one, module, hooks, found), change.device)
                if seconds is not None:
                    seconds.append(taken)
        return torch.stack(found)

    def _run_one(self, module: Any, hooks: Sequence[Any], found: list[Tensor]) -> None:
        found.append(self.peer.metric(module.run_with_hooks(self.peer.task.clean, fwd_hooks=hooks)))


def _add(reader: Reader, change: Tensor, value: Tensor, hook: Any) -> Tensor:
    if reader.kind in ("q", "k", "v"):
        value = value.clone()
        value[:, :, reader.index] += change
        return value
    return value + change


def _writer_hook(writer: Writer) -> str:
    if writer.kind == "input":
        return "blocks.0.hook_resid_pre"
    if writer.kind == "head":
        return f"blocks.{writer.layer}.attn.hook_result"
    return f"blocks.{writer.layer}.hook_mlp_out"


def _reader_hook(reader: Reader) -> str:
    if reader.kind in ("q", "k", "v"):
        return f"blocks.{reader.layer}.hook_{reader.kind}_input"
    if reader.kind == "mlp":
        return f"blocks.{reader.layer}.hook_mlp_in"
    return f"blocks.{reader.layer - 1}.hook_resid_post"


def _written(cache: Any, writer: Writer) -> Float[Tensor, "batch pos d_model"]:
    value: Tensor = cache[_writer_hook(writer)]
    return value[:, :, writer.index] if writer.kind == "head" else value


def _read(cache: Any, reader: Reader) -> Float[Tensor, "batch pos d_model"]:
    value: Tensor = cache[_reader_hook(reader)]
    return value[:, :, reader.index] if reader.kind in ("q", "k", "v") else value
