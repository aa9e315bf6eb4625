"""Where the text of a trained bundled model comes from, and how a model of it is read and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from interp.models.bundled.cards import DATA
from interp.models.bundled.corpus import Batch, stream_batches
from interp.models.bundled.evaluate import evaluate_heldout, measure_induction
from interp.models.bundled.facts import FACTS_DATA, evaluate_facts, stream_facts
from interp.models.bundled.recipes import Recipe
from interp.models.bundled.tokenizer import build_word_tokenizer, build_world_tokenizer
from interp.tasks.facts import facts_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Source:
    """One kind of text."""

    batches: Callable[[Recipe, int], Iterator[Batch]]
    """Endless training batches from a recipe and a seed."""
    tokenizer: Callable[[int], PreTrainedTokenizerFast]
    """From the length of the context."""
    evaluate: Callable[[PreTrainedModel, int], dict[str, float]]
    """Figures for the card, from a model and a number of sentences."""
    induction: Callable[[PreTrainedModel, int], list[list[float]]]
    """Induction score of every head, [layer][head], on so many rows; empty where nothing is repeated."""
    data: str
    """What a card says about the text."""


def _score_heads(model: PreTrainedModel, n: int) -> list[list[float]]:
    found: list[list[float]] = measure_induction(model, n)[0].tolist()
    return found


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "world": Source(stream_batches, build_world_tokenizer, evaluate_heldout, _score_heads, DATA),
        "facts": Source(
            stream_facts,
            lambda n_ctx: build_word_tokenizer(facts_token_ids(), n_ctx),
            evaluate_facts,
            lambda model, n: [],
            FACTS_DATA,
        ),
    }
)
"""Kinds of text that recipes name."""
