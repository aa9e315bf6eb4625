"""Sampled continuations, and what their words say: the concept, the prompt's other attributes, legal sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.model import Model
from interp.steering.evaluate.instrument import acting
from interp.steering.evaluate.tally import Tally
from interp.steering.steering import Steering
from interp.steering.world import AttributedText, attribute_token_ids, parse_target
from interp.tasks.grammar import parse_text
from interp.tasks.sentences import STEERABLE
from interp.tasks.world import EOS, token_ids, vocabulary


def sample_continuations(
    model: Model, prompts: Sequence[str], n_tokens: int = 24, seed: int = 0, batch_size: int = 64
) -> Int[Tensor, "prompt n_tokens"]:
    """New tokens at temperature 1, by the Gumbel trick: noise of ``seed`` on the logits, then the largest.

    The noise of a prompt is the same whatever acts in the model, so that differences are the steering's; it is of
    its place in a batch, and so another one at another ``batch_size``. Nothing of torch's own random state is
    used. Rows that end early are filled up with the padding token.
    """
    found = []
    for number, start in enumerate(range(0, len(prompts), batch_size)):
        tokens, mask = model.to_padded_tokens(prompts[start : start + batch_size], padding_side="left")
        noise = _Gumbel(torch.Generator().manual_seed(seed * 10_007 + number))
        if model.is_hooked_transformer:
            new = _sample_plainly(model, tokens, mask, n_tokens, noise)
        else:
            whole = model.generate(tokens, n_tokens, mask, logits_processor=[noise])
            new = whole[:, tokens.shape[1] :]
        missing = n_tokens - new.shape[1]
        found.append(torch.nn.functional.pad(new.cpu(), (0, missing), value=model._pad_token()))
    return torch.cat(found)


class _Gumbel:
    """Adds noise to logits, [row, d_vocab]; the largest is then a sample of their softmax."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        drawn = torch.rand(scores.shape, generator=self.generator, dtype=torch.float64)
        gumbel = -(-drawn.clamp(min=1e-300).log()).clamp(min=1e-300).log()
        return scores.double() + gumbel.to(scores.device)


def _sample_plainly(
    model: Model, tokens: Tensor, mask: Tensor | None, n_tokens: int, noise: _Gumbel
) -> Int[Tensor, "row n_tokens"]:
    """Without a cache, for models whose own ``generate`` takes no noise."""
    from interp.models.positions import Prompt

    width = tokens.shape[1]
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    with torch.no_grad(), model.continuing(Prompt.from_mask(len(tokens), width, mask)):
        for _ in range(n_tokens):
            chosen = noise(tokens, model(tokens, mask)[:, -1]).argmax(-1)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return tokens[:, width:]


class WrittenWords:
    """What a model writes after prompts of another value, by the generator's own words and grammar.

    ``generated``: share of the target value's words among the written words of its attribute. ``generated
    retention``: share of words of each prompt's own values among the written words of its other attributes.
    ``legal``: share of legal sentences; a continuation that never ends one counts as one that is not.
    """

    measures = ("generated", "generated retention", "legal")
    along_texts = False

    def __init__(
        self, model: Model, target: str, prompts: Sequence[AttributedText], n_tokens: int = 24, seed: int = 0
    ) -> None:
        self._attribute, self._value = parse_target(target)
        self.prompts, self.n_tokens, self.seed = tuple(prompts), n_tokens, seed
        self._expressing: dict[tuple[str, str], Tensor] = {}
        for attribute in STEERABLE:
            for value, ids in attribute_token_ids(model, attribute).items():
                marks = torch.zeros(model.traits.d_vocab)
                marks[ids] = 1.0
                self._expressing[attribute, value] = marks

    def write(
        self, model: Model, steering: Steering | None, strength: float
    ) -> Int[Tensor, "prompt n_tokens"]:
        """The continuations under a steering, sampled; the end-of-text token and what follows become padding."""
        with acting(model, steering, strength):
            texts = [one.text for one in self.prompts]
            tokens = sample_continuations(model, texts, self.n_tokens, self.seed)
        ended = (tokens == token_ids()[EOS]).cumsum(1) > 0
        return torch.where(ended, token_ids()[EOS], tokens)

    def read(self, model: Model, steering: Steering | None, strength: float) -> Mapping[str, Tally]:
        """Words and sentences of one continuation a prompt."""
        tokens = self.write(model, steering, strength)
        own = self._count(tokens, self._attribute, None)
        kept, written = torch.zeros(len(tokens)), torch.zeros(len(tokens))
        for attribute in STEERABLE:
            if attribute == self._attribute:
                continue
            written += self._count(tokens, attribute, None)
            counts = {
                value: self._count(tokens, name, value)
                for name, value in self._expressing
                if name == attribute
            }
            kept += torch.stack([counts[one.values[attribute]][row] for row, one in enumerate(self.prompts)])
        legal, complete = _count_legal(tokens)
        return {
            "generated": Tally.of(self._count(tokens, self._attribute, self._value), own),
            "generated retention": Tally.of(kept, written),
            "legal": Tally.of(legal, complete),
        }

    def _count(self, tokens: Tensor, attribute: str, value: str | None) -> Float[Tensor, " prompt"]:
        """Words of a value, or of any value, in each row."""
        marks = [
            m for (a, v), m in self._expressing.items() if a == attribute and (value is None or v == value)
        ]
        return torch.stack(marks).sum(0)[tokens].sum(1)


def _count_legal(
    tokens: Int[Tensor, "prompt n_tokens"],
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """Legal and complete sentences of each row, at least one complete."""
    words = vocabulary()
    legal, complete = torch.zeros(len(tokens)), torch.zeros(len(tokens))
    for row, ids in enumerate(tokens.tolist()):
        ended = [part for part in parse_text([words[i] for i in ids]) if part.complete]
        legal[row] = sum(part.sentence is not None for part in ended)
        complete[row] = max(1, len(ended))
    return legal, complete
