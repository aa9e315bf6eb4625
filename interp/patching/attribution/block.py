"""One block of prompts: its runs, and where the scores of its cells add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.attribute import weigh
from interp.models.capture import head_results
from interp.models.hooks import HookEdit, installed_edits
from interp.models.model import Model
from interp.patching.attribution.change import Change, sums_are_fused
from interp.patching.attribution.nodes import GradientRun, Node, reading_edits
from interp.patching.attribution.reduce import Part, Wheres
from interp.patching.attribution.source import Replaced, Source
from interp.patching.cells import Sweep
from interp.patching.readout import Readout
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import PATTERN_COMPONENTS, Direction

Sums = list[Float[Tensor, "_layer _head _neurons _where prompt"]]
"""Scores of every sweep's cells, laid out in the order of its axes, which may be fewer."""


@dataclass(frozen=True)
class Gap:
    """How far the scores over a whole cut of the network are from its true effect, of each prompt."""

    cut: str
    summed: Float[Tensor, " prompt"]
    true: Float[Tensor, " prompt"]


@dataclass
class Found:
    """What one block of prompts comes to."""

    effects: Sums
    """Estimated change of the metric from the base run."""
    base: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"]
    """Metric of the two unpatched runs."""
    magnitudes: Sums | None = None
    gaps: list[Gap] = field(default_factory=list)
    """Of integrated gradients, always the same cuts in the same order."""


class Block:
    """Some prompts of a task, and everything that a method does with them."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        sweeps: Sequence[Sweep],
        source: Source,
        metric: Metric,
        direction: Direction,
        rows: Int[Tensor, " prompt"],
        first: int = 0,
    ) -> None:
        self.model = model
        self.first = first
        """Columns before it change nothing and are left out of every change and gradient."""
        self.rows = rows
        self.direction = direction
        self.source = source
        self.sweeps = sweeps
        self.task = task.select(rows.tolist())
        self.readout = Readout(self.task, metric)
        self.tokens = self.task.corrupted if direction == "denoise" else self.task.clean
        self.mask = self.task.attention_mask
        self.prompts = torch.arange(len(rows), device=self.tokens.device)
        self.parts: dict[Node, list[Part]] = defaultdict(list)
        for index, sweep in enumerate(sweeps):
            wheres = Wheres([self._real(where)[:, first:] for where in sweep.wheres], self.tokens.device)
            for slot, layer in enumerate(sweep.layers):
                self.parts[sweep.site.activation, layer].append(Part(index, slot, sweep, wheres))
        self.out = self.zeros()

    def _real(self, where: Bool[Tensor, "_all pos"]) -> Bool[Tensor, "prompt pos"]:
        """These prompts' columns of a set, padding left out."""
        chosen = where[self.rows.cpu()]
        return chosen if self.mask is None else chosen & self.mask.to(chosen.device)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything that is scored."""
        return tuple(self.parts)

    def zeros(self) -> Sums:
        """Nothing yet, for every sweep."""
        wide = torch.promote_types(self.model.dtype, torch.float32)
        return [
            torch.zeros(
                len(sweep.layers),
                len(sweep.heads),
                len(sweep.neurons),
                len(sweep.wheres),
                len(self.rows),
                dtype=wide,
                device=self.tokens.device,
            )
            for sweep in self.sweeps
        ]

    def run_source(self) -> tuple[Replaced, Tensor]:
        """The replacing activations, and what the metric reads of the source run."""
        return self.source.run(self.rows, self.readout, self.prompts, self.cut if self.first else None)

    def cut(self, node: Node, value: Tensor) -> Tensor:
        """The columns of an activation, or of its gradient, from the first that matters on."""
        axis = 2 if node[0] in PATTERN_COMPONENTS else 1
        return value.narrow(axis, self.first, value.shape[axis] - self.first) if self.first else value

    @torch.no_grad()
    def run_base(self, nodes: Iterable[Node], on_value: Callable[[Node, Tensor], None]) -> Tensor:
        """The base run without gradients; returns what the metric reads of it."""
        with installed_edits(self.model, reading_edits(self.model, nodes, on_value)):
            logits = self.model(self.tokens, self.mask, keep_columns=self.readout.columns)
        return self.readout.pick(logits, self.prompts)

    def run_gradient(
        self,
        nodes: Iterable[Node],
        on_gradient: Callable[[Node, Tensor], None],
        on_value: Callable[[Node, Tensor], None] | None = None,
        times: int = 1,
        edits: Iterable[HookEdit] = (),
        start: Callable[[Tensor], Tensor | None] | None = None,
    ) -> GradientRun:
        """The base run under autograd, ``times`` over in one forward."""
        mask = None if self.mask is None else self.mask.repeat(times, 1)
        tokens, prompts = self.tokens.repeat(times, 1), self.prompts.repeat(times)
        return GradientRun(
            self.model, tokens, mask, self.readout, prompts, nodes, on_value, on_gradient, edits, start
        )

    @torch.no_grad()
    def compare_runs(self, source: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Metric of the base and of the source run from what it reads of them."""
        self.readout.set_reference(source if self.direction == "denoise" else base.detach())
        return (
            self.readout.score_picked(base.detach(), self.prompts),
            self.readout.score_picked(source, self.prompts),
        )

    def add(
        self, node: Node, change: Change, gradient: Tensor, weights: Float[Tensor, " point"] | None = None
    ) -> None:
        """Score all cells of a node from its change and the gradient it meets.

        With ``weights`` the gradient is [point * prompt, ...], and its weighted sum over points is meant.
        """
        parts = self.parts.get(node, ())
        if not parts:
            return
        if sums_are_fused(gradient):
            for part in parts:
                self.put(part, part.contract(*self._at_heads(node, part, change, gradient), weights))
            return
        mean = gradient if weights is None else weigh_points(gradient, weights)
        mean = self.without_padding(node, mean)
        for part in parts:
            found, at_heads = self._at_heads(node, part, change, mean)
            self.put(part, part.collect(found.subtract(), at_heads))

    def without_padding(self, node: Node, value: Tensor) -> Tensor:
        """Zero in padding columns: no patch touches them, and where a row of scores sees nothing at all
        their gradient may be NaN."""
        real = self.real(node, value.ndim)
        return value if real is None else torch.where(real, value, 0.0)

    def real(self, node: Node, n_axes: int) -> Bool[Tensor, "..."] | None:
        """Which columns are no padding, along a node's axis of so many; ``None`` if all are."""
        if self.mask is None:
            return None
        mask = self.mask[:, self.first :].bool()
        shape = [len(mask), *[1] * (n_axes - 1)]
        shape[2 if node[0] in PATTERN_COMPONENTS else 1] = mask.shape[1]
        return mask.view(shape)

    def put(self, part: Part, slab: Tensor) -> None:
        """Add scores of a part's cells."""
        self.out[part.sweep][part.slot] += slab

    def _at_heads(self, node: Node, part: Part, change: Change, gradient: Tensor) -> tuple[Change, Tensor]:
        if node[0] != "result":
            return change, gradient
        W_O = self.model.weights.layers[node[1]].W_O
        if part.of.site.subspace is None:
            return change, torch.einsum("bpm,hdm->bphd", gradient.to(W_O.dtype), W_O)
        z = change.subtract()
        results = head_results(self.model, z.to(W_O.dtype), node[1]).to(z.dtype)
        return Change(results), gradient.unsqueeze(2).expand(-1, -1, results.shape[2], -1)


def weigh_points(gradient: Tensor, weights: Float[Tensor, " point"]) -> Tensor:
    """[point * prompt, ...] to the weighted sum over points, in fp32 at least."""
    return weigh(gradient.unflatten(0, (len(weights), -1)), weights)
