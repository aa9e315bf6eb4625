"""Every kind of model, and tasks of random tokens for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, NAMES, Specimen, specimen
from torch import Tensor

from interp.tasks import NO_TOKEN, PromptPairs


def _param(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])


@pytest.fixture(params=[_param(name) for name in NAMES])
def kind(request: pytest.FixtureRequest) -> Specimen:
    """Every kind of model in turn."""
    return specimen(request.param)


@pytest.fixture
def gpt2() -> Specimen:
    """The usual kind, where one is enough."""
    return specimen("gpt2")


@pytest.fixture
def make_prompts() -> Callable[..., PromptPairs]:
    """Five random prompts, padded on a side (or not), with ragged answers and the labels of IOI."""

    def make(padding: str = "none", seed: int = 0) -> PromptPairs:
        generator = torch.Generator().manual_seed(seed)
        clean = torch.randint(0, 53, (5, 11), generator=generator)
        # tokens apart from the answers, so that no row's answer is among its wrong ones
        answers = torch.tensor([[3, 4], [5, NO_TOKEN], [6, 7], [NO_TOKEN, 8], [9, 10]])
        wrong = torch.tensor(
            [[20, 21, 22], [23, 24, NO_TOKEN], [25, NO_TOKEN, 26], [27, 28, 29], [30, 31, 32]]
        )
        mask = torch.ones_like(clean).bool()
        if padding != "none":
            for row, n in enumerate((0, 3, 1, 2, 4)):
                mask[row, slice(0, n) if padding == "left" else slice(11 - n, 11)] = False
        return PromptPairs(
            clean=clean,
            corrupted=clean.flip(0).where(mask, clean),
            answers=answers,
            wrong=wrong,
            attention_mask=None if padding == "none" else mask,
            labels={"IO": torch.tensor([1, 2, 0, 3, 1]), "S2": torch.tensor([5, 4, 6, 5, 2])},
            name="random",
            seed=seed,
        )

    return make


@dataclass(frozen=True)
class Naive:
    """All activations of a run in float64, from a transformer written out."""

    record: dict[tuple[str, int], Tensor]
    logits: Tensor

    @classmethod
    def of(cls, kind: Specimen, tokens: Tensor, mask: Tensor | None = None) -> Naive:
        record: dict[tuple[str, int], Tensor] = {}
        return cls(record=record, logits=kind.naive(tokens, mask, record=record))


@pytest.fixture
def run_naive() -> Callable[..., Naive]:
    """``run_naive(kind, tokens, mask)``: the same run on the second route."""
    return Naive.of
