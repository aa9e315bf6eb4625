"""Words that a model expects along given texts: how its mass on an attribute's words is parted among values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.evaluate.instrument import acting
from interp.steering.evaluate.tally import Tally
from interp.steering.steering import Steering
from interp.steering.world import AttributedText, attribute_token_ids, parse_target
from interp.tasks.attributes import ATTRIBUTES
from interp.tasks.sentences import STEERABLE

THRESHOLD = 0.5
"""Positions count where the unsteered model puts this much of its mass on an attribute's words."""


@dataclass(frozen=True, eq=False)
class WordShares:
    """Sums over the positions of each text that count for an attribute."""

    share: Float[Tensor, "text value"]
    """Share of a value's words in the mass of all words of its attribute."""
    mass: Float[Tensor, "text attribute"]
    """Mass of all words of an attribute."""
    count: Float[Tensor, "text attribute"]
    """Positions."""


class ExpectedWords:
    """Reads word shares on the same positions of the same texts, steered or not.

    Texts stand as they are, whatever a model would write: every steering is asked at the same places. Raises
    :class:`SteeringError` for a model that does not read the generated world, and where no position counts.
    """

    values: tuple[tuple[str, str], ...] = tuple((a, value) for a in STEERABLE for value in ATTRIBUTES[a])
    """Attribute and value, in the order of the last axis of shares."""

    def __init__(self, model: Model, texts: Sequence[AttributedText], batch_size: int = 32) -> None:
        self.texts = tuple(texts)
        self.batch_size = batch_size
        self._words = torch.zeros(model.traits.d_vocab, len(self.values))
        for number, (attribute, value) in enumerate(self.values):
            self._words[attribute_token_ids(model, attribute)[value], number] = 1.0
        owner = torch.tensor([STEERABLE.index(attribute) for attribute, _ in self.values])
        self._owner = owner
        self._attributes = torch.nn.functional.one_hot(owner, len(STEERABLE)).float()
        self._chosen = [
            (mass @ self._attributes >= THRESHOLD) & real[..., None] for mass, real in self._masses(model)
        ]
        if not any(bool(chosen.any()) for chosen in self._chosen):
            raise SteeringError(
                f"nowhere in {len(self.texts)} texts does {model.name!r} put half of its mass on an attribute's words."
            )

    def _masses(self, model: Model) -> Iterator[tuple[Float[Tensor, "b pos value"], Bool[Tensor, "b pos"]]]:
        for start in range(0, len(self.texts), self.batch_size):
            part = [one.text for one in self.texts[start : start + self.batch_size]]
            tokens, mask = model.to_padded_tokens(part)
            with torch.no_grad():
                probabilities = model(tokens, mask).float().softmax(-1).cpu()
            real = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask.cpu()
            yield probabilities @ self._words, real

    def read(self, model: Model, steering: Steering | None = None, strength: float = 0.0) -> WordShares:
        """Shares under a steering; unsteered for ``None``."""
        shares, masses, counts = [], [], []
        with acting(model, steering, strength):
            for (mass, _), chosen in zip(self._masses(model), self._chosen, strict=True):
                whole = mass @ self._attributes
                counted = chosen.float()
                share = mass / whole[..., self._owner].clamp(min=1e-12)
                shares.append((share * counted[..., self._owner]).sum(1))
                masses.append((whole * counted).sum(1))
                counts.append(counted.sum(1))
        return WordShares(torch.cat(shares), torch.cat(masses), torch.cat(counts))

    def shares_of_all(self, found: WordShares) -> list[Tally]:
        """A tally for every value, over all texts."""
        return [
            Tally.of(found.share[:, number], found.count[:, int(self._owner[number])])
            for number in range(len(self.values))
        ]


class ConceptWords:
    """Concept, mass on the attribute's words, and retention of the texts' other attributes.

    The texts should not have the target value: that is what the steering is to bring about.
    """

    measures = ("concept", "attribute words", "retention")
    along_texts = True

    def __init__(
        self, model: Model, target: str, texts: Sequence[AttributedText], batch_size: int = 32
    ) -> None:
        self._attribute, self._value = parse_target(target)
        self._words = ExpectedWords(model, texts, batch_size)

    def read(self, model: Model, steering: Steering | None, strength: float) -> Mapping[str, Tally]:
        """Shares and masses at the positions that count for the target's attribute, and for the others."""
        found = self._words.read(model, steering, strength)
        number = self._words.values.index((self._attribute, self._value))
        own = STEERABLE.index(self._attribute)
        kept, counted = torch.zeros(len(found.share)), torch.zeros(len(found.share))
        for other, name in enumerate(STEERABLE):
            if name == self._attribute:
                continue
            wanted = torch.tensor(
                [self._words.values.index((name, one.values[name])) for one in self._words.texts]
            )
            kept += found.share.gather(1, wanted[:, None])[:, 0]
            counted += found.count[:, other]
        return {
            "concept": Tally.of(found.share[:, number], found.count[:, own]),
            "attribute words": Tally.of(found.mass[:, own], found.count[:, own]),
            "retention": Tally.of(kept, counted),
        }
