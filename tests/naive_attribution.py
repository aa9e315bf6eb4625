"""Attribution written out on the naive transformer, in float64: every estimate from its definition.

The second route to what ``interp.patch(method=...)`` gives. A cell of a sweep is a change of one
activation, and its first-order effect the derivative of the metric as that change is scaled up from
nothing. It shares no code with the package but the parsed site.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from model_zoo import Specimen
from naive_interventions import Prompts, spots_of
from torch import Tensor

from interp.models.interventions import other_rows
from interp.results import SiteScores
from interp.tasks.base import PromptPairs
from interp.types import PATTERN_COMPONENTS, Site

Place = tuple[str, int]
"""A component and its layer; ``embed`` is in layer 0."""
Metric = str | Callable[[Tensor], Tensor]
THROUGH_SOFTMAX = ("q", "k", "attn_scores")


def cells_of(site: Site, scores: SiteScores) -> list[Site]:
    """The place of every entry of a sweep, in the order of its axes; nothing is left to sweep over."""
    found = []
    for index in itertools.product(*map(range, scores.raw.shape)):
        changes: dict[str, Any] = {}
        for axis, i in zip(scores.axes, index, strict=True):
            name = {"layer": "layer", "head": "head", "kv_head": "head", "neuron": "neurons"}.get(axis)
            changes[name or "positions"] = i if name in ("layer", "head") else (i,)
        found.append(replace(site, **changes))
    return found


def place_of(cell: Site) -> Place:
    return cell.component, cell.layer or 0


@dataclass(frozen=True)
class NaiveAttribution:
    """A task on a model, what replaces its activations, and the metric."""

    on: Specimen
    task: PromptPairs
    direction: str = "denoise"
    ablation: str = "source"
    metric: Metric = "logit_diff"
    seed: int = 0
    reference: PromptPairs | None = None
    _moves: dict[Place, Tensor] = field(default_factory=dict, repr=False)

    @property
    def _denoise(self) -> bool:
        return self.direction == "denoise"

    @property
    def prompts(self) -> Prompts:
        """The base run's."""
        return Prompts(self.task.corrupted if self._denoise else self.task.clean, self.task.attention_mask)

    def run(
        self,
        edits: Mapping[Place, Callable[[Tensor], Tensor]] | None = None,
        record: dict[Place, Tensor] | None = None,
        prompts: Prompts | None = None,
    ) -> Tensor:
        """Logits of the base run (or of other prompts), edited."""
        prompts = prompts or self.prompts
        return self.on.naive(prompts.tokens, prompts.mask, edits, record)

    def _recorded(self, tokens: Tensor, mask: Tensor | None) -> dict[Place, Tensor]:
        record: dict[Place, Tensor] = {}
        with torch.no_grad():
            self.run(record=record, prompts=Prompts(tokens, mask))
        return record

    @cached_property
    def base(self) -> dict[Place, Tensor]:
        """Every activation of the base run."""
        return self._recorded(self.prompts.tokens, self.prompts.mask)

    @cached_property
    def source(self) -> dict[Place, Tensor]:
        """Every activation of the source run."""
        tokens = self.task.clean if self._denoise else self.task.corrupted
        return self._recorded(tokens, self.task.attention_mask)

    @cached_property
    def clean_logits(self) -> Tensor:
        with torch.no_grad():
            return self.run(prompts=Prompts(self.task.clean, self.task.attention_mask))

    def replacing(self, place: Place) -> Tensor:
        """What replaces an activation, in its shape."""
        own = self.source[place]
        if self.ablation == "source":
            return own
        if self.ablation == "zero":
            return torch.zeros_like(own)
        if self.ablation == "resample":
            return own[other_rows(len(own), self.seed)]
        data, prompts = own, Prompts(self.task.clean, self.task.attention_mask)
        if self.reference is not None:
            prompts = Prompts(self.reference.clean, self.reference.attention_mask)
            data = self._recorded(prompts.tokens, prompts.mask)[place]
        if place[0] in PATTERN_COMPONENTS:
            return data.mean(0).expand_as(own)
        found: dict[int, list[Tensor]] = {}
        for row in range(len(data)):
            for position, column in enumerate(prompts.columns_of(row, data.shape[1])):
                found.setdefault(position, []).append(data[row, column])
        new = own.clone()
        for row, column, position in spots_of(Site(place[0]), self.prompts, {}, own.shape[1]):
            pool = found[position] if self.ablation != "mean" else list(itertools.chain(*found.values()))
            new[row, column] = torch.stack(pool).mean(0)
        return new

    def change(self, cell: Site) -> Tensor:
        """By how much one cell's replacement moves the activation that it is a part of."""
        place, pattern = place_of(cell), cell.component in PATTERN_COMPONENTS
        if place not in self._moves:
            self._moves[place] = self.replacing(place) - self.base[place]
        whole = self._moves[place].transpose(1, 2) if pattern else self._moves[place]
        neurons = slice(None) if not cell.neurons else list(cell.neurons)
        moved = torch.zeros_like(whole)
        moved[..., neurons] = whole[..., neurons]
        if cell.subspace is not None:
            basis = cell.subspace.double()
            moved[..., neurons] = (moved[..., neurons] @ basis.T) @ basis
        spots = torch.zeros(whole.shape[:2], dtype=torch.bool)
        for row, column, _ in spots_of(cell, self.prompts, self.task.labels, whole.shape[1]):
            spots[row, column] = True
        moved[~spots] = 0
        if cell.head is not None:
            others = [head for head in range(whole.shape[2]) if head != cell.head]
            moved[:, :, others] = 0
        return moved.transpose(1, 2) if pattern else moved

    def score(self, logits: Tensor) -> Tensor:
        """The metric of every prompt; a function that gives one number gives it to all."""
        if not isinstance(self.metric, str):
            return self.metric(logits).expand(len(self.task))
        name, _, label = self.metric.partition("@")
        rows = torch.arange(len(self.task))
        columns = self.task.columns_of(label or "END")
        right, wrong = self.task.answers[:, 0], self.task.wrong[:, 0]
        last = logits[rows, columns]
        if name == "logit_diff":
            return last[rows, right] - last[rows, wrong]
        p = last.softmax(-1)
        if name == "prob_diff":
            return p[rows, right] - p[rows, wrong]
        if name == "loss":
            return -p[rows, right].log()
        q = self.clean_logits[rows, columns].log_softmax(-1)
        return (q.exp() * (q - last.log_softmax(-1))).sum(-1)

    @property
    def base_score(self) -> Tensor:
        """The metric of the base run."""
        with torch.no_grad():
            return self.score(self.run())

    def patched(self, cell: Site, share: float = 1.0) -> Tensor:
        """The metric with one cell moved by a share of its change; 1 is exact patching."""
        moved = share * self.change(cell)
        with torch.no_grad():
            return self.score(self.run({place_of(cell): lambda value: value + moved}))

    def derivatives(self, cells: Sequence[Site]) -> Tensor:
        """[cell, prompt]: how fast the metric moves as each cell's change is scaled up from nothing."""
        share = torch.zeros(len(cells), len(self.task), dtype=torch.float64, requires_grad=True)
        by_place: dict[Place, list[int]] = {}
        for i, cell in enumerate(cells):
            by_place.setdefault(place_of(cell), []).append(i)

        def edit(numbers: Sequence[int]) -> Callable[[Tensor], Tensor]:
            changes = torch.stack([self.change(cells[i]) for i in numbers])
            return lambda value: value + torch.einsum("cb,cb...->b...", share[list(numbers)], changes)

        logits = self.run({place: edit(numbers) for place, numbers in by_place.items()})
        return torch.autograd.grad(self.score(logits).sum(), share)[0]

    def gradients(
        self,
        places: Sequence[Place],
        moved: Mapping[Place, Tensor] | None = None,
        dropped: int | None = None,
    ) -> dict[Place, Tensor]:
        """The metric's gradient at every place, with some activations moved, and without what flows
        through the outputs of a dropped layer."""
        moved = moved or {}
        # the embeddings too: all other places may lie in the dropped layer
        probes = {p: torch.zeros_like(self.base[p]).requires_grad_() for p in {*places, ("embed", 0)}}
        blocked = {(name, dropped) for name in ("attn_out", "mlp_out")} & set(self.base)

        def edit(place: Place) -> Callable[[Tensor], Tensor]:
            def run(value: Tensor) -> Tensor:
                value = value + moved.get(place, 0.0)
                value = value + probes[place] if place in probes else value
                return value.detach() if place in blocked else value

            return run

        logits = self.run({place: edit(place) for place in {*probes, *moved, *blocked}})
        found = torch.autograd.grad(self.score(logits).sum(), list(probes.values()), allow_unused=True)
        return {
            place: torch.zeros_like(probe) if gradient is None else gradient
            for (place, probe), gradient in zip(probes.items(), found, strict=True)
        }

    def star(self, cells: Sequence[Site], qk_fix: bool = True) -> tuple[Tensor, Tensor]:
        """AtP*: effects with the softmax taken exactly, and magnitudes by GradDrop, both [cell, prompt]."""
        n_layers = self.on.model.traits.n_layers
        moves = [
            self._through_softmax(cell) if qk_fix else (place_of(cell), self.change(cell)) for cell in cells
        ]
        places = sorted({place for place, _ in moves})

        def effects(dropped: int | None) -> Tensor:
            gradients = self.gradients(places, dropped=dropped)
            return torch.stack([(change * gradients[place]).flatten(1).sum(1) for place, change in moves])

        if n_layers == 1:
            return effects(None), effects(None).abs()
        each = torch.stack([effects(layer).abs() for layer in range(n_layers)])
        sizes = []
        for i, cell in enumerate(cells):
            stream = cell.component.startswith("resid") or cell.component == "embed"
            kept = [layer for layer in range(n_layers) if stream or layer != cell.layer]
            sizes.append(each[kept, i].mean(0))
        return effects(None), torch.stack(sizes)

    def _through_softmax(self, cell: Site) -> tuple[Place, Tensor]:
        """Where the first order begins, and the change that arrives there."""
        if cell.component not in THROUGH_SOFTMAX:
            return place_of(cell), self.change(cell)
        moved, record = self.change(cell), {}
        with torch.no_grad():
            self.run({place_of(cell): lambda value: value + moved}, record)
        place = ("pattern", cell.layer or 0)
        return place, record[place] - self.base[place]

    def along_inputs(self, cells: Sequence[Site], points: Sequence[tuple[float, float]]) -> Tensor:
        """Integrated gradients over the inputs, [cell, prompt]; ``points`` are (where, weight)."""
        way = self.change(Site("embed"))
        places = sorted({place_of(cell) for cell in cells})
        total = torch.zeros(len(cells), len(self.task), dtype=torch.float64)
        for where, weight in points:
            gradients = self.gradients(places, {("embed", 0): where * way})
            for i, cell in enumerate(cells):
                total[i] += weight * (self.change(cell) * gradients[place_of(cell)]).flatten(1).sum(1)
        return total

    def along_activation(self, cells: Sequence[Site], points: Sequence[tuple[float, float]]) -> Tensor:
        """Integrated gradients along each layer's own activation, [cell, prompt]."""
        total = torch.zeros(len(cells), len(self.task), dtype=torch.float64)
        means: dict[Site, Tensor] = {}
        for i, cell in enumerate(cells):
            neurons = None if cell.subspace is None else cell.neurons
            whole = Site(cell.component, cell.layer, neurons=neurons, subspace=cell.subspace)
            place = place_of(cell)
            if whole not in means:
                way = self.change(whole)
                along = [self.gradients([place], {place: where * way})[place] for where, _ in points]
                means[whole] = sum(w * g for (_, w), g in zip(points, along, strict=True))  # type: ignore[assignment]
            total[i] = (self.change(cell) * means[whole]).flatten(1).sum(1)
        return total
