"""Prompts of a data set in batches that fit the model, from any batch on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import CoderError, unknown_name
from interp.models import Model
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts

LongPrompts = Literal["split", "truncate", "error"]
"""What becomes of a prompt longer than the context: several contexts, its beginning, or an error."""


ONE_SHOT = (
    "these activations come from an iterator, which gives its items once; for a second epoch or to resume give a "
    "list, a data set, or a function that returns a new iterator at every call."
)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one forward, padded on the right."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"] | None
    prompts: Int[Tensor, " batch"]
    """Number of each in the data set; the contexts of a split prompt share one."""


@dataclass(frozen=True)
class _Place:
    """Before a context of a prompt: its item in the data, its number in the item, prompts before the item."""

    item: int = 0
    context: int = 0
    prompt: int = 0
    data: Any = None
    """The data set's own state before the item, where it keeps one."""


@dataclass(frozen=True)
class _Context:
    """Tokens that the model reads at once."""

    place: _Place
    tokens: Int[Tensor, " pos"]
    prompt: int


class PromptReader:
    """Reads prompts ``batch_size`` at a time; see :func:`~interp.coders.sources.stream.stream_activations`."""

    def __init__(
        self,
        model: Model,
        data: Prompts,
        batch_size: int,
        context: int | None = None,
        long_prompts: LongPrompts = "split",
        text_column: str = "text",
    ) -> None:
        if not hasattr(data, "__iter__") and not callable(data):
            raise CoderError(f"data are tokens [n, pos], texts or a data set; got {type(data).__name__}.")
        if batch_size < 1:
            raise CoderError(f"batch_size must be at least 1; got {batch_size}.")
        if long_prompts not in get_args(LongPrompts):
            raise CoderError(unknown_name("way with long prompts", long_prompts, get_args(LongPrompts)))
        limit = model.traits.n_ctx
        self.context = limit if context is None else context
        if not 2 <= self.context <= limit:
            raise CoderError(f"context must lie in 2..{limit}, what the model reads; got {context}.")
        self.model, self.data, self.batch_size = model, data, batch_size
        self.long_prompts, self.text_column = long_prompts, text_column
        self.is_one_shot = hasattr(data, "__next__")
        self._bos = getattr(model.tokenizer, "bos_token_id", None)
        self._begun = False
        self._stand(_Place())

    def _stand(self, place: _Place) -> None:
        self._from = place
        self._contexts: Iterator[_Context] | None = None
        self._last: tuple[_Place, str] | None = None

    def read(self) -> PromptBatch | None:
        """The next batch; ``None`` at the end of the data."""
        if self._contexts is None:
            if self.is_one_shot and self._begun:
                raise CoderError(ONE_SHOT)
            self._begun = True
            self._contexts = self._walk(self._from)
        found = list(islice(self._contexts, self.batch_size))
        if not found:
            return None
        tokens, mask = pad_prompts([context.tokens for context in found])
        prompts = torch.tensor([context.prompt for context in found])
        self._last = found[0].place, _digest(found)
        return PromptBatch(tokens, mask, prompts)

    def _walk(self, place: _Place) -> Iterator[_Context]:
        """Every context from a place on."""
        data: Any = self.data() if callable(self.data) else self.data
        keeps_state = hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
        if place.data is not None:
            # a copy of all of it, for its inner parts keep the state too and the caller's must begin where it did
            data = copy.deepcopy(data)
            data.load_state_dict(copy.deepcopy(place.data))
        items = open_items(data, self.text_column, start=0 if place.data is not None else place.item)
        item, first, skip, state = place.item, place.prompt, place.context, place.data
        for row in items:
            rows = list(enumerate(encode_item(self.model, row), first))
            pieces = [(piece, prompt) for prompt, tokens in rows for piece in self._cut(tokens, prompt)]
            for number, (piece, prompt) in enumerate(pieces[skip:], skip):
                yield _Context(_Place(item, number, first, state), piece, prompt)
            item, first, skip = item + 1, first + len(rows), 0
            state = data.state_dict() if keeps_state else None

    def _cut(self, tokens: Int[Tensor, " pos"], prompt: int) -> Sequence[Tensor]:
        if len(tokens) <= self.context:
            return [tokens]
        if self.long_prompts == "error":
            raise CoderError(
                f"prompt {prompt} has {len(tokens)} tokens, a context {self.context}; shorten it, or say "
                "long_prompts='split' or 'truncate'."
            )
        if self.long_prompts == "truncate":
            return [tokens[: self.context]]
        if self._bos is None or int(tokens[0]) != self._bos:
            return tokens.split(self.context)
        return [torch.cat([tokens[:1], part]) for part in tokens[1:].split(self.context - 1)]

    def state(self) -> dict[str, Any]:
        """JSON-ready: the batch read last, by its place and its tokens' digest."""
        place, digest = (self._from, None) if self._last is None else self._last
        return {"place": asdict(place), "digest": digest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand after the batch that ``state`` names.

        Raises :class:`CoderError` where the data has other tokens there, or cannot begin anew.
        """
        place = _Place(**state["place"])
        self._stand(place)
        if state["digest"] is None:
            return
        self.read()
        # a shuffled stream does not restore its own buffer, so what follows differs: count its items instead
        if self._digest_read() != state["digest"] and place.data is not None:
            self._stand(replace(place, data=None))
            self.read()
        if self._digest_read() != state["digest"]:
            raise CoderError(
                f"the data has changed: at item {place.item} it has other tokens than when the state was taken. "
                "Give the same data in the same order."
            )

    def _digest_read(self) -> str | None:
        return None if self._last is None else self._last[1]

    def restart(self) -> None:
        """Stand before the first prompt. Raises :class:`CoderError` for an iterator that was begun."""
        if self.is_one_shot and self._begun:
            raise CoderError(ONE_SHOT)
        self._stand(_Place())


def _digest(contexts: Sequence[_Context]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for context in contexts:
        found.update(len(context.tokens).to_bytes(8, "little") + context.tokens.numpy().tobytes())
    return found.hexdigest()
