"""A task on a model, a graph and a method: what every block of prompts shares."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.circuits.gradients.block import EdgeBlock, Found
from interp.circuits.gradients.blockwise import BlockwisePasses
from interp.circuits.gradients.first_order import run_first_order
from interp.circuits.gradients.hooked import HookedPasses
from interp.circuits.gradients.integrated import run_over_activations, run_over_both, run_over_inputs
from interp.circuits.gradients.methods import (
    EdgeAttributionStar,
    EdgeIntegratedGradients,
    EdgeMethod,
    EdgeRelevance,
)
from interp.circuits.gradients.readers import Readers
from interp.circuits.gradients.star import run_star
from interp.circuits.gradients.totals import EdgeTotals
from interp.circuits.gradients.writers import ThroughNorm, Writers
from interp.circuits.graph import place_columns
from interp.errors import CircuitError
from interp.models.blocks import Stack, UnsupportedError, stack_of
from interp.models.model import Model
from interp.models.norms import norm_jvp, norm_vjp, pull_back, push_forward
from interp.models.relevance.operations import list_operations
from interp.models.relevance.rules import resolve_rules
from interp.patching.attribution.block import Block
from interp.patching.attribution.source import Source
from interp.patching.budget import bytes_of_changes, bytes_under_autograd
from interp.patching.readout import Readout
from interp.results import Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation, Direction

_TILE = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Numbers in a tile of edges; larger ones are no faster."""


class EdgeSetting:
    """Bound once a call; :meth:`run` takes some of the prompts."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        graph: Graph,
        method: EdgeMethod,
        metric: Metric,
        direction: Direction,
        ablation: Ablation,
        reference: PromptPairs | Tensor | None,
        seed: int,
    ) -> None:
        self.model = model
        self.task = task
        self.graph = graph
        self.method = method
        self.metric = metric
        self.direction: Direction = direction
        self.places = place_columns(graph, task).to(model.device)
        self.weights = model.weights
        self.push, self.back = _norm_maps(model, method)
        self.stack = _find_stack(model, method)
        self.source = Source(model, task, self._writers().nodes, direction, ablation, reference, seed)
        self.dtype = torch.promote_types(model.dtype, torch.float32)

    def _writers(self) -> Writers:
        return Writers(self.graph, self.weights, self.model.traits, self.push)

    def prompts_within(self, budget: int) -> int:
        """How many prompts at once need no more bytes than the budget; at least one."""
        n_pos, wide = self.task.clean.shape[1], self.dtype.itemsize
        traits, n_kept = self.model.traits, len(Readout(self.task, self.metric).columns)
        run = bytes_under_autograd(self.model, n_pos, n_kept)
        if self.stack is not None:
            logits = 4 * n_kept * traits.d_vocab * wide
            kept = traits.n_layers * (traits.d_model + 2 * traits.n_kv_heads * traits.d_head) * n_pos * wide
            run = logits + (run - logits) // traits.n_layers + kept
        scored = 3 if isinstance(self.method, EdgeAttributionStar) and self.method.grad_drop else 1
        run += scored * self.graph.n_edges * wide
        run += bytes_of_changes(self.model, self.source.nodes, n_pos)
        return max(1, (budget - 2 * wide * self._tile(budget)) // run)

    def _tile(self, budget: int) -> int:
        largest = _TILE.get(self.model.device.type, _TILE["cuda"])
        return max(1, min(largest, budget // (8 * self.dtype.itemsize)))

    def run(self, rows: Int[Tensor, " prompt"], budget: int) -> Found:
        """Scores of the edges of some prompts."""
        base = self.task.corrupted if self.direction == "denoise" else self.task.clean
        first = self.source.first_change(rows, base)
        block = Block(self.model, self.task, (), self.source, self.metric, self.direction, rows, first)
        writers = self._writers()
        readers = Readers(self.graph, self.weights, self.model.traits, self.back)
        places = self.places[rows.to(self.places.device), first:]
        totals = EdgeTotals(self.graph, writers, readers, places, self.dtype, self._tile(budget))
        if isinstance(self.method, EdgeAttributionStar):
            assert self.stack is not None
            passes = BlockwisePasses(block, self.stack)
            return run_star(EdgeBlock(block, passes, totals), passes, self.method)
        return self._run(block, totals)

    def _run(self, block: Block, totals: EdgeTotals) -> Found:
        method = self.method
        rules = method.rules if isinstance(method, EdgeRelevance) else None
        passes = HookedPasses(block, rules) if self.stack is None else BlockwisePasses(block, self.stack)
        edges = EdgeBlock(block, passes, totals)
        if not isinstance(method, EdgeIntegratedGradients):
            return run_first_order(edges)
        if method.over == "inputs":
            return run_over_inputs(edges, method)
        return run_over_activations(edges, method) if method.over == "activations" else run_over_both(edges)


def _find_stack(model: Model, method: EdgeMethod) -> Stack | None:
    """Block functions to run by, ``None`` for the model's own module and hooks.

    Raises :class:`CircuitError` for a method that has no other way.
    """
    if isinstance(method, EdgeRelevance):
        return None
    try:
        return stack_of(model)
    except UnsupportedError as error:
        if isinstance(method, EdgeAttributionStar):
            raise CircuitError(
                f"atp* at edges computes queries, keys and layers again by block functions, which do not cover "
                f"{model.name!r}: {error}. Take method='eap' or 'eap-ig'."
            ) from error
        return None


def _norm_maps(model: Model, method: EdgeMethod) -> tuple[ThroughNorm, ThroughNorm]:
    """A change through a norm forwards, and a gradient through it backwards.

    Raises :class:`CircuitError` for a rule of the user's own at a norm of the residual stream.
    """
    if not isinstance(method, EdgeRelevance):
        return norm_jvp, norm_vjp
    rules = resolve_rules(method.rules)
    for operation in list_operations(model) if rules.custom else ():
        # norms of queries and keys, and the last one, lie beyond where edges end
        before_reader = (
            operation.kind == "norm" and operation.layer is not None and "attn." not in operation.name
        )
        own = rules.user_rule(operation) if before_reader else None
        if own is not None:
            raise CircuitError(
                f"rule {own.name!r} stands at {operation.name}, a norm that edges end before, and edges know "
                "norm='ln' and norm='gradient' only; let its pattern leave these norms out."
            )
    return (push_forward, pull_back) if rules.norm == "ln" else (norm_jvp, norm_vjp)
