"""Integrated gradients, along the inputs or along each layer's own activation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.kernels.attribute import attribute_rows
from interp.models.capture import head_results
from interp.models.hooks import Edit, HookEdit
from interp.models.sites import tap
from interp.patching.attribution.block import Block, Found, Gap, weigh_points
from interp.patching.attribution.change import Change, sums_are_fused
from interp.patching.attribution.methods import IntegratedGradients
from interp.patching.attribution.nodes import GradientRun, Node, as_read
from interp.patching.attribution.reduce import Part
from interp.patching.attribution.source import as_finite

EMBED: Node = ("embed", 0)


def quadrature(method: IntegratedGradients) -> tuple[list[float], list[float]]:
    """Points in (0, 1) and their weights, which add up to 1."""
    if method.quadrature == "midpoint":
        n = method.steps
        return [(i + 0.5) / n for i in range(n)], [1 / n] * n
    points, weights = np.polynomial.legendre.leggauss(method.steps)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


def run_along_inputs(block: Block, method: IntegratedGradients, rows_within: int) -> Found:
    """The path from the base prompts' embeddings to what replaces them; gradients at all nodes along it.

    ``rows_within`` is how many rows a forward may have.
    """
    replaced, source = block.run_source()
    changes: dict[Node, Change] = {}

    def take_value(node: Node, value: Tensor) -> None:
        # the path itself is made of the embeddings' change
        whole = node == EMBED
        changes[node] = (
            Change(replaced.take_change(node, value)) if whole else replaced.take_pair(node, value)
        )

    nodes = tuple(dict.fromkeys((*block.nodes, EMBED)))
    base_picked = block.run_base(nodes, take_value)
    base, source_score = block.compare_runs(source, base_picked)
    along = changes[EMBED].subtract()
    summed = torch.zeros_like(base, dtype=along.dtype)
    end = source_score

    for points, weights in _chunks(method, rows_within // len(block.rows)):
        weights_of = torch.tensor(weights, dtype=along.dtype, device=along.device)

        def take_gradient(node: Node, gradient: Tensor, weights: Tensor = weights_of) -> None:
            if node == EMBED:
                summed.add_(_total(along, gradient, weights))
            block.add(node, changes[node], gradient, weights)

        def start(value: Tensor, points: list[float] = points) -> Tensor:
            moved = _repeat_along(points, along).to(value.dtype)
            return (value.detach() + moved).requires_grad_(True)

        run = block.run_gradient(nodes, take_gradient, times=len(points), start=start)
        run.backward(run.scores())
    if block.source.kind != "source":
        end = _score_at_end(block, along)
    return Found(block.out, base, source_score, gaps=[Gap("the embeddings", summed, end - base)])


def _total(change: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
    """The whole of a change times its mean gradient along a path, of each prompt."""
    if sums_are_fused(gradient):
        return _fused_total(change, gradient, weights)
    return (change * weigh_points(gradient, weights)).flatten(1).sum(1)


def _fused_total(change: Tensor, gradient: Tensor, weights: Tensor, real: Tensor | None = None) -> Tensor:
    points = gradient.unflatten(0, (len(weights), -1))
    return attribute_rows(change, None, points, weights=weights, mask=real).flatten(1).sum(1)


@torch.no_grad()
def _score_at_end(block: Block, change: Tensor) -> Tensor:
    embed = block.model.family.hook_names(block.model.traits)["embed"]
    edit = HookEdit(embed, lambda value: value + change.to(value.dtype))
    run = GradientRun(
        block.model, block.tokens, block.mask, block.readout, block.prompts, (), None, _ignore, (edit,)
    )
    return run.scores().detach()


def _ignore(node: Node, gradient: Tensor) -> None:
    return None


@dataclass(frozen=True)
class _OwnPath:
    """A layer's activation on its way, in the subspace that its parts share."""

    node: Node
    parts: tuple[Part, ...]
    change: Tensor

    @property
    def name(self) -> str:
        return self.node[0] if self.node[0] == "embed" else f"{self.node[0]}[{self.node[1]}]"


def run_along_activations(block: Block, method: IntegratedGradients, rows_within: int) -> Found:
    """A path of its own for every node, from the base run's activation to what replaces it.

    The end of each path is run too, for the completeness gap.
    """
    replaced, source = block.run_source()
    changes: dict[Node, Tensor] = {}

    def take_value(node: Node, value: Tensor) -> None:
        changes[node] = replaced.take_change(node, value)

    base_picked = block.run_base(block.nodes, take_value)
    base, source_score = block.compare_runs(source, base_picked)
    gaps = []
    for node in block.nodes:
        change = block.without_padding(node, changes.pop(node))
        for path in _paths(block, node, change):
            summed, end = _run_path(block, path, method, rows_within)
            gaps.append(Gap(path.name, summed, end - base))
    return Found(block.out, base, source_score, gaps=gaps)


def _paths(block: Block, node: Node, change: Tensor) -> Iterator[_OwnPath]:
    by_subspace: dict[tuple[object, ...], list[Part]] = {}
    for part in block.parts[node]:
        site = part.of.site
        # a subspace of some neurons is another one for others
        of = None if site.subspace is None else site.neurons
        by_subspace.setdefault((id(site.subspace), of), []).append(part)
    for parts in by_subspace.values():
        narrowed = parts[0].of.site.subspace is not None
        if node[0] == "result":
            W_O = block.model.weights.layers[node[1]].W_O
            results = head_results(block.model, change.to(W_O.dtype), node[1]).to(change.dtype)
            yield _OwnPath(node, tuple(parts), parts[0].narrow(results))
        else:
            yield _OwnPath(node, tuple(parts), parts[0].narrow(change) if narrowed else change)


def _run_path(
    block: Block, path: _OwnPath, method: IntegratedGradients, rows_within: int
) -> tuple[Tensor, Tensor]:
    """The sum of scores over the whole path's activation, and the metric at its end, of each prompt."""
    summed = torch.zeros(len(block.rows), dtype=path.change.dtype, device=path.change.device)
    end = summed
    found = tap(block.model.family, block.model.traits, *path.node)

    def move(points: list[float], weights: list[float]) -> Edit:
        def edit(value: Tensor) -> Tensor:
            change = path.change.sum(2) if path.node[0] == "result" else path.change
            moved = _repeat_along(points, change).to(value.dtype).reshape(value.shape)
            new = (as_finite(path.node, value.detach()) + moved).requires_grad_(True)
            at_points = torch.tensor(weights, dtype=change.dtype, device=change.device)
            new.register_hook(lambda gradient: collect(as_read(gradient, found), at_points))
            leaves.append(new)
            return new

        return edit

    def collect(gradient: Tensor, weights: Tensor) -> None:
        if path.node[0] == "result":
            gradient = gradient.unsqueeze(2).expand(-1, -1, path.change.shape[2], -1)
        if sums_are_fused(gradient):
            real = block.real(path.node, path.change.ndim - 1)
            summed.add_(_fused_total(path.change, gradient, weights, real))
            for part in path.parts:
                block.put(part, part.contract(Change(path.change), gradient, weights))
            return
        mean = block.without_padding(path.node, weigh_points(gradient, weights))
        summed.add_((path.change * mean).flatten(1).sum(1))
        for part in path.parts:
            block.put(part, part.collect(path.change, mean))

    for points, weights in _chunks(method, rows_within // len(block.rows), end=True):
        leaves: list[Tensor] = []
        edit = HookEdit(found.write, move(points, weights), found.stage)
        run = block.run_gradient((), _ignore, times=len(points), edits=(edit,), start=lambda value: None)
        scores = run.scores()
        torch.autograd.grad(scores, leaves, torch.ones_like(scores))
        if points[-1] == 1.0:
            end = scores.detach()[-len(block.rows) :]
    return summed, end


def _chunks(
    method: IntegratedGradients, size: int, end: bool = False
) -> Iterator[tuple[list[float], list[float]]]:
    """Points and weights, some at a time; with ``end`` the end of the path too, which weighs nothing."""
    points, weights = quadrature(method)
    if end:
        points, weights = [*points, 1.0], [*weights, 0.0]
    for start in range(0, len(points), max(1, size)):
        chosen = slice(start, start + max(1, size))
        yield points[chosen], weights[chosen]


def _repeat_along(points: list[float], change: Tensor) -> Tensor:
    """[point * prompt, ...]: the change times each point."""
    return torch.cat([point * change for point in points])
