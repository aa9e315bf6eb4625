"""What goes into a patch: the source run's activations, or an ablation made from them.

One object for patching, and later for scoring and evaluating circuits, so that "mean ablation"
means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import PatchError, TaskError, unknown_name
from interp.models.blocks.geometry import find_positions
from interp.models.cache import ActivationCache
from interp.models.capture import capture
from interp.models.interventions import mean_over, other_rows
from interp.models.model import Model
from interp.tasks.base import PromptPairs
from interp.types import PATTERN_COMPONENTS, Ablation, whole_site

REFERENCE_TOKENS = 4096
"""Tokens of the reference prompts that are run at once."""


class Activations(Protocol):
    """Activations of a run by component and layer."""

    def __getitem__(self, place: tuple[str, int], /) -> Tensor: ...


@dataclass(frozen=True)
class Replacement:
    """Values that replace activations of the base run, [batch, pos, ...] for a component and layer.

    ``source`` takes the source run's own; ``zero`` zeros; ``mean`` the mean over all real tokens
    of the reference prompts; ``mean-per-position`` their mean at each position; ``resample`` the
    source run's activation of another prompt, chosen by ``seed``. The reference prompts are the
    source run's, unless others were given.
    """

    kind: Ablation
    source: ActivationCache
    reference: ActivationCache
    seed: int = 0

    def value(self, component: str, layer: int) -> Tensor:
        """The replacing activation of one layer, all heads and columns."""
        own = self.source[whole_site(component, layer)]
        if self.kind == "source":
            return own
        if self.kind == "zero":
            return torch.zeros_like(own)
        if self.kind == "resample":
            return own[other_rows(len(own), self.seed).to(own.device)]
        return self._mean(component, layer, own)

    def _mean(self, component: str, layer: int, own: Tensor) -> Tensor:
        per_position = self.kind == "mean-per-position"
        refuse_meanless(component, self.kind)
        means = mean_over(self.reference, whole_site(component, layer), layer, per_position)
        return spread_mean(means, own, component, self.source.columns.positions, per_position)


def refuse_meanless(component: str, kind: str) -> None:
    """Raise :class:`PatchError` where the mean of a component over positions has no meaning."""
    if component in PATTERN_COMPONENTS and kind == "mean":
        raise PatchError(
            f"the mean of {component!r} over positions has no meaning; use ablation='mean-per-position', "
            "'zero' or 'resample'."
        )


def mean_over_prompts(
    run: Callable[[Tensor, Tensor | None], Activations],
    tokens: Int[Tensor, "prompt pos"],
    mask: Bool[Tensor, "prompt pos"] | None,
    places: Iterable[tuple[str, int]],
    per_position: bool,
    dtype: torch.dtype,
) -> dict[tuple[str, int], Tensor]:
    """Means over the real tokens of prompts, run a few at a time by ``run``.

    With ``per_position`` over the prompts at each position: [position, ...]; patterns are
    [dest_pos, head, src_pos].
    """
    places = sorted(places)
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    if any(name in PATTERN_COMPONENTS for name, _ in places) and not bool(real.all()):
        raise PatchError(
            "the mean of attention patterns needs reference prompts without padding; give prompts of one length "
            "as reference=, or task.select(rows) of one length."
        )
    at = find_positions(real)
    longest = int(real.sum(1).max())
    totals: dict[tuple[str, int], Tensor] = {}
    count = torch.bincount(at[real], minlength=longest).double()
    size = max(1, REFERENCE_TOKENS // tokens.shape[1])
    for part in torch.arange(len(tokens)).split(size):
        values = run(tokens[part], None if mask is None else mask[part])
        for place in places:
            value = values[place].transpose(1, 2) if place[0] in PATTERN_COMPONENTS else values[place]
            value = value.double()
            total = totals.setdefault(place, value.new_zeros(longest, *value.shape[2:]))
            total.index_add_(0, at[part][real[part]], value[real[part]])
    found = {}
    for place, total in totals.items():
        each = count.view(-1, *[1] * (total.ndim - 1))
        found[place] = (total / each if per_position else total.sum(0) / count.sum()).to(dtype)
    return found


def spread_mean(
    mean: Tensor, own: Tensor, component: str, positions: Int[Tensor, "batch pos"], per_position: bool
) -> Tensor:
    """A mean in the shape of the activation ``own`` that it replaces.

    ``mean`` is of one token, or with ``per_position`` [position, ...], a pattern's [dest_pos, head,
    src_pos]; ``positions`` are those of the columns of ``own``, -1 on padding. Raises
    :class:`PatchError` where a position has no mean.
    """
    if not per_position:
        return mean.expand_as(own)
    if component in PATTERN_COMPONENTS:
        mean = mean.transpose(0, 1)
        if mean.shape != own.shape[1:]:
            raise PatchError(
                f"mean patterns need reference prompts of the same length; got {tuple(mean.shape)} for "
                f"{tuple(own.shape)}."
            )
        return mean.expand_as(own)
    at = positions.to(own.device)
    if int(at.max()) >= len(mean):
        raise PatchError(
            f"the reference prompts are at most {len(mean)} tokens long, the patched ones {int(at.max()) + 1}; "
            "give longer reference prompts or ablation='mean'."
        )
    return mean[at.clamp(min=0)]


def check_kind(task: PromptPairs, ablation: str) -> None:
    """Raise :class:`PatchError` for an unknown ablation, or one that does not fit the task.

    Raises :class:`TaskError` where the task is no prompt pairs.
    """
    if not isinstance(task, PromptPairs):
        raise TaskError(
            f"a task is prompt pairs, such as interp.tasks.load('ioi', model); got {type(task).__name__} {task!r:.40}."
        )
    if ablation not in get_args(Ablation):
        raise PatchError(unknown_name("ablation", str(ablation), get_args(Ablation)))
    if ablation == "resample" and len(task) < 2:
        raise PatchError(
            "ablation='resample' takes another prompt's activation; the task has a single prompt."
        )
    if ablation == "resample" and len(set(task.lengths.tolist())) > 1:
        raise PatchError(
            "ablation='resample' takes another prompt's activation at the same position; prompts of unequal length "
            "have none. Select prompts of one length with task.select(rows)."
        )


def build_replacement(
    model: Model,
    task: PromptPairs,
    components: Iterable[tuple[str, int]],
    direction: str,
    ablation: Ablation = "source",
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
) -> Replacement:
    """Run the source prompts (and the reference prompts, if others) and keep what will replace.

    ``reference`` is a task, whose clean prompts are used, or tokens [batch, pos] without padding.
    Raises :class:`PatchError` for an unknown ablation or one that does not fit.
    """
    check_kind(task, ablation)
    sites = [whole_site(name, layer) for name, layer in sorted(set(components))]
    tokens = task.clean if direction == "denoise" else task.corrupted
    with torch.no_grad():
        source = capture(model, tokens, sites, attention_mask=task.attention_mask)
        other = source
        if isinstance(reference, PromptPairs):
            other = capture(model, reference.clean, sites, attention_mask=reference.attention_mask)
        elif isinstance(reference, Tensor):
            other = capture(model, reference, sites)
    return Replacement(ablation, source, other, seed)


def within_subspace(
    value: Float[Tensor, "*rest d"], source: Float[Tensor, "*rest d"], subspace: Float[Tensor, "k d"]
) -> Float[Tensor, "*rest d"]:
    """``value`` with its component in the subspace replaced by that of ``source``."""
    return value + restrict(source - value, subspace)


def restrict(delta: Float[Tensor, "*rest d"], basis: Float[Tensor, "k d"] | None) -> Float[Tensor, "*rest d"]:
    """The part of a change that lies in a subspace; all of it for ``None``."""
    if basis is None:
        return delta
    basis = basis.to(delta)
    return delta @ basis.T @ basis
