"""Prompt pairs: what every task yields and every patching method takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import TaskError, unknown_name

if TYPE_CHECKING:
    from interp.tasks.metrics import Metric

NO_TOKEN = -1
"""Fills ragged rows of ``answers`` and ``wrong``."""


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupted prompts, token by token, with answers and labelled positions.

    Row i of ``clean`` and of ``corrupted`` have the same real length, so position p means the
    same in both. Positions in ``labels`` count from the row's first real token (as sites do), so
    they do not move with padding.

    Raises :class:`TaskError` on an empty batch or shapes that do not agree.
    """

    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch k"]
    """Right answers of the clean prompt: one token id a row or several, filled with ``NO_TOKEN``."""
    wrong: Int[Tensor, "batch j"]
    """Answers that are right for the corrupted prompt instead."""
    attention_mask: Bool[Tensor, "batch pos"] | None = None
    """False on padding; ``None`` when no row is padded."""
    labels: Mapping[str, Int[Tensor, "batch"]] = field(default_factory=dict)
    """Position of every named token (S1, S2, IO, END ...) in each row."""
    name: str = "custom"
    seed: int | None = None
    clean_text: tuple[str, ...] | None = None
    corrupted_text: tuple[str, ...] | None = None
    clean_str_tokens: tuple[tuple[str, ...], ...] | None = None
    """Each token of each row as text, padding left out; for the axes of plots."""
    corrupted_str_tokens: tuple[tuple[str, ...], ...] | None = None
    metric: Metric | None = None
    """The metric this task is usually scored with; ``None`` is the logit difference."""
    info: tuple[Mapping[str, Any], ...] = ()
    """Latent attributes of each pair (template, names, ...), where the generator knows them."""

    def __post_init__(self) -> None:
        for name in ("answers", "wrong"):
            value = getattr(self, name)
            if value.ndim == 1:
                object.__setattr__(self, name, value[:, None])
        self._check()

    def _check(self) -> None:
        if self.clean.ndim != 2 or self.clean.numel() == 0:
            raise TaskError(
                "a task needs at least one prompt of at least one token; clean has shape "
                f"{tuple(self.clean.shape)}."
            )
        if self.clean.shape != self.corrupted.shape:
            raise TaskError(
                "clean and corrupted prompts must have the same shape [batch, pos]; got "
                f"{tuple(self.clean.shape)} and {tuple(self.corrupted.shape)}. "
                "Pair prompts of equal token length."
            )
        batch = self.clean.shape[0]
        for name in ("answers", "wrong"):
            value = getattr(self, name)
            if value.ndim != 2 or value.shape[0] != batch:
                raise TaskError(
                    f"{name} must be [batch] or [batch, k] token ids with batch {batch}; got "
                    f"{tuple(value.shape)}."
                )
            if bool((value == NO_TOKEN).all(dim=1).any()):
                raise TaskError(f"every prompt needs at least one token in {name!r}; some row has none.")
        if self.attention_mask is not None:
            if self.attention_mask.shape != self.clean.shape:
                raise TaskError(
                    f"attention_mask has shape {tuple(self.attention_mask.shape)}, prompts "
                    f"{tuple(self.clean.shape)}."
                )
            if bool((self.attention_mask.sum(dim=1) == 0).any()):
                raise TaskError("a row of attention_mask is all padding; every prompt needs a token.")
        lengths = self.lengths
        for label, where in self.labels.items():
            if where.shape != (batch,) or bool(((where < 0) | (where >= lengths)).any()):
                raise TaskError(
                    f"label {label!r} must give one position in each of {batch} rows, from 0 to before the "
                    f"row's length; got {where.tolist()} for lengths {lengths.tolist()}."
                )

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """True on real tokens, also when nothing is padded."""
        if self.attention_mask is None:
            return torch.ones_like(self.clean, dtype=torch.bool)
        return self.attention_mask.bool()

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Real tokens in each row."""
        return self.mask.sum(dim=1)

    @property
    def offsets(self) -> Int[Tensor, "batch"]:
        """Column of each row's first real token: 0 unless the row is padded on the left."""
        return self.mask.int().argmax(dim=1)

    @property
    def end(self) -> Int[Tensor, "batch"]:
        """Column of each row's last real token."""
        return self.offsets + self.lengths - 1

    def columns_of(self, label: str) -> Int[Tensor, "batch"]:
        """Column of a labelled position in each row. Raises :class:`TaskError` for an unknown label."""
        if label == "END" and label not in self.labels:
            return self.end
        if label not in self.labels:
            raise TaskError(
                unknown_name(f"position label of task {self.name!r}", label, [*self.labels, "END"])
            )
        return self.labels[label].to(self.clean.device) + self.offsets

    def select(self, rows: Sequence[int]) -> PromptPairs:
        """These rows only, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)

        def pick(items: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if items is None else tuple(items[i] for i in index.tolist())

        return replace(
            self,
            clean=self.clean[index],
            corrupted=self.corrupted[index],
            answers=self.answers[index],
            wrong=self.wrong[index],
            attention_mask=None if self.attention_mask is None else self.attention_mask[index],
            labels={label: where[index] for label, where in self.labels.items()},
            clean_text=pick(self.clean_text),
            corrupted_text=pick(self.corrupted_text),
            clean_str_tokens=pick(self.clean_str_tokens),
            corrupted_str_tokens=pick(self.corrupted_str_tokens),
            info=pick(self.info or None) or (),
        )

    def to(self, device: torch.device | str) -> PromptPairs:
        """The same pairs with every tensor on ``device``."""
        return replace(
            self,
            clean=self.clean.to(device),
            corrupted=self.corrupted.to(device),
            answers=self.answers.to(device),
            wrong=self.wrong.to(device),
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device),
            labels={label: where.to(device) for label, where in self.labels.items()},
        )
