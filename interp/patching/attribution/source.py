"""What replaces the base run's activations, a few prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models.hooks import installed_edits
from interp.models.interventions import other_rows
from interp.models.model import Model
from interp.models.positions import Columns, Prompt
from interp.patching.attribution.change import Change, sums_are_fused
from interp.patching.attribution.nodes import Node, reading_edits
from interp.patching.readout import Readout
from interp.patching.replacement import check_kind, mean_over_prompts, refuse_meanless, spread_mean
from interp.tasks.base import PromptPairs
from interp.types import Ablation, Direction


class Replaced:
    """The replacing activations of some prompts."""

    def __init__(
        self,
        kind: Ablation,
        values: dict[Node, Tensor],
        means: dict[Node, Tensor],
        positions: Int[Tensor, "prompt pos"],
    ) -> None:
        self._kind = kind
        self._values = values
        self._means = means
        self._positions = positions

    def take_pair(self, node: Node, own: Tensor) -> Change:
        """The same as :meth:`take_change`, subtracted where that does not save anything to put off."""
        if own.dtype.itemsize > 2 or node[0] == "attn_scores" or not sums_are_fused(own):
            return Change(self.take_change(node, own))
        return Change(None if self._kind == "zero" else self._take(node, own), own)

    def take_change(self, node: Node, own: Tensor) -> Tensor:
        """From the base run's activation to the one that replaces it, in fp32 at least.

        The source run's activation is let go of.
        """
        wide = torch.promote_types(own.dtype, torch.float32)
        new = self._take(node, own)
        return as_finite(node, new).to(wide) - as_finite(node, own)

    def _take(self, node: Node, own: Tensor) -> Tensor:
        if self._kind == "zero":
            return torch.zeros_like(own)
        if node in self._values:
            return self._values.pop(node)
        per_position = self._kind == "mean-per-position"
        return spread_mean(self._means[node], own, node[0], self._positions, per_position)


def as_finite(node: Node, value: Tensor) -> Tensor:
    """Scores that a HookedTransformer masks by -inf, which has no difference from itself, masked as
    elsewhere by the least number there is."""
    return value.clamp(min=torch.finfo(value.dtype).min) if node[0] == "attn_scores" else value


class Source:
    """The source run of a task and the ablation made from it; ``result`` is read and replaced as z."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        nodes: Iterable[Node],
        direction: Direction,
        ablation: Ablation,
        reference: PromptPairs | Tensor | None,
        seed: int,
    ) -> None:
        check_kind(task, ablation)
        self.model = model
        self.nodes = tuple(sorted(set(nodes)))
        self.kind: Ablation = ablation
        self.tokens = task.clean if direction == "denoise" else task.corrupted
        self.mask = task.attention_mask
        self._others = other_rows(len(task), seed) if ablation == "resample" else None
        self._means: dict[Node, Tensor] = {}
        if ablation.startswith("mean"):
            self._means = self._take_means(reference)

    def _take_means(self, reference: PromptPairs | Tensor | None) -> dict[Node, Tensor]:
        for component, _ in self.nodes:
            refuse_meanless(component, self.kind)
        tokens, mask = self.tokens, self.mask
        if isinstance(reference, PromptPairs):
            tokens, mask = reference.clean.to(tokens.device), reference.attention_mask
            mask = None if mask is None else mask.to(tokens.device)
        elif isinstance(reference, Tensor):
            tokens, mask = torch.atleast_2d(reference).to(tokens.device), None
        per_position = self.kind == "mean-per-position"
        return mean_over_prompts(self._read, tokens, mask, self.nodes, per_position, self.model.dtype)

    @torch.no_grad()
    def _read(self, tokens: Tensor, mask: Tensor | None) -> dict[Node, Tensor]:
        values: dict[Node, Tensor] = {}
        with installed_edits(self.model, reading_edits(self.model, self.nodes, values.__setitem__)):
            self.model(tokens, mask, keep_columns=torch.zeros(1, dtype=torch.long))
        return values

    def first_change(self, rows: Int[Tensor, " prompt"], base: Int[Tensor, "row pos"]) -> int:
        """The first column where anything can change when these prompts' ``base`` tokens are patched.

        Before it both runs have seen the same tokens. Column 0 where something else than the source
        run replaces, or interventions are active, which may carry anything anywhere.
        """
        if self.kind != "source" or self.model.active_edits or not self.model.is_causal:
            return 0
        differs = (self.tokens[rows] != base[rows]).any(0)
        return int(differs.int().argmax()) if bool(differs.any()) else len(differs) - 1

    @torch.no_grad()
    def run(
        self,
        rows: Int[Tensor, " prompt"],
        readout: Readout,
        prompts: Int[Tensor, " prompt"],
        cut: Callable[[Node, Tensor], Tensor] | None = None,
    ) -> tuple[Replaced, Tensor]:
        """The replacing activations of some prompts, and what the metric reads of their source run.

        ``cut`` takes the part of each activation that is kept.
        """
        mask = None if self.mask is None else self.mask[rows]
        values: dict[Node, Tensor] = {}

        def keep(node: Node, value: Tensor) -> None:
            part = value if cut is None else cut(node, value)
            # a view would hold on to the whole
            values[node] = value if part is value else part.clone()

        edits = reading_edits(self.model, self.nodes, keep) if self.kind == "source" else []
        with installed_edits(self.model, edits):
            logits = self.model(self.tokens[rows], mask, keep_columns=readout.columns)
        if self._others is not None:
            values = self._read(self.tokens[self._others[rows]], mask)
        replaced = Replaced(self.kind, values, self._means, self._positions(rows, mask))
        return replaced, readout.pick(logits, prompts)

    def _positions(self, rows: Tensor, mask: Bool[Tensor, "prompt pos"] | None) -> Int[Tensor, "prompt pos"]:
        n = self.tokens.shape[1]
        return Columns(Prompt.from_mask(len(rows), n, mask), 0, n).positions
