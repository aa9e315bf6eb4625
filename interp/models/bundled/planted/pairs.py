"""From generated words to a task's prompt pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from interp.errors import TaskError
from interp.models.bundled.planted.tokenizer import BOS
from interp.tasks.base import PromptPairs


@dataclass(frozen=True)
class WordPair:
    """One clean and one corrupted prompt, word by word without ``<bos>``."""

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answer: str
    wrong: str
    labels: Mapping[str, int]
    """Positions, counted with ``<bos>`` at 0."""
    info: Mapping[str, str]
    """At least ``kind``: what differs between the two. Answer and wrong answer are added as words."""


def collect_pairs(
    name: str, seed: int, pairs: Sequence[WordPair], vocabulary: Mapping[str, int]
) -> PromptPairs:
    """Tokens, answers and labels of generated pairs; ``END`` is always the last position.

    Raises :class:`~interp.errors.TaskError` when there are none.
    """
    if not pairs:
        raise TaskError(f"task {name!r} was asked for no prompt at all; n must be at least 1.")

    def to_tokens(rows: list[tuple[str, ...]]) -> torch.Tensor:
        return torch.tensor([[vocabulary[word] for word in row] for row in rows])

    clean = [(BOS, *pair.clean) for pair in pairs]
    corrupted = [(BOS, *pair.corrupted) for pair in pairs]
    return PromptPairs(
        clean=to_tokens(clean),
        corrupted=to_tokens(corrupted),
        answers=torch.tensor([vocabulary[pair.answer] for pair in pairs]),
        wrong=torch.tensor([vocabulary[pair.wrong] for pair in pairs]),
        labels={
            **{label: torch.tensor([pair.labels[label] for pair in pairs]) for label in pairs[0].labels},
            "END": torch.tensor([len(row) - 1 for row in clean]),
        },
        name=name,
        seed=seed,
        clean_text=tuple(" ".join(pair.clean) for pair in pairs),
        corrupted_text=tuple(" ".join(pair.corrupted) for pair in pairs),
        clean_str_tokens=tuple(clean),
        corrupted_str_tokens=tuple(corrupted),
        info=tuple({**pair.info, "answer": pair.answer, "wrong": pair.wrong} for pair in pairs),
    )
