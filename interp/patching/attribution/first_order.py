"""First order at the base run: attribution patching, and relevance patching with other coefficients."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor

from interp.models.relevance import RelevanceRules, relevance_rules
from interp.patching.attribution.block import Block, Found
from interp.patching.attribution.change import Change
from interp.patching.attribution.nodes import Node


def run_first_order(block: Block, rules: str | RelevanceRules | None = None) -> Found:
    """Two forwards and one backward; each change is let go of once its gradient has come."""
    replaced, source = block.run_source()
    changes: dict[Node, Change] = {}

    def take_value(node: Node, value: Tensor) -> None:
        changes[node] = replaced.take_pair(node, block.cut(node, value))

    def take_gradient(node: Node, gradient: Tensor) -> None:
        block.add(node, changes.pop(node), block.cut(node, gradient))

    with nullcontext() if rules is None else relevance_rules(block.model, rules):
        run = block.run_gradient(block.nodes, take_gradient, take_value)
    base_score, source_score = block.compare_runs(source, run.picked)
    run.backward(run.scores())
    return Found(block.out, base_score, source_score)
