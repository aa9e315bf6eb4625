"""How well a model of the generated world keeps a document's latent attributes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES
from interp.tasks.sentences import STEERABLE
from interp.tasks.world import BOS, Document, generate_documents, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def measure_consistency(model: PreTrainedModel, n: int, seed: int) -> dict[str, float]:
    """Attribute -> share of words that express it where the model expects the right value.

    Over ``n`` held-out documents with attributes, from the second sentence on and as long as the
    value does not change: of all words that express the attribute, those before which the words of
    the right value together have more probability than those of every other value.
    """
    ids = token_ids()
    documents = list(generate_documents(n, seed, "heldout", ["attributes"]))
    rows = [torch.tensor([ids[BOS], *(ids[word] for word in document.words)]) for document in documents]
    probabilities = model(pad_sequence(rows, batch_first=True)).logits.float().softmax(-1)
    return {name: _score(name, documents, probabilities) for name in STEERABLE}


def _score(
    attribute: str, documents: list[Document], probabilities: Float[Tensor, "document pos d_vocab"]
) -> float:
    ids = token_ids()
    expressing = ATTRIBUTE_WORDS[attribute]
    mass = torch.stack(
        [
            probabilities[..., [ids[word] for word in sorted(words) if word in ids]].sum(-1)
            for words in expressing.values()
        ],
        dim=-1,
    )
    right = [
        ATTRIBUTES[attribute][int(mass[row, column].argmax())] == value
        for row, document in enumerate(documents)
        for column, word, value in _known(document, attribute)
        if word in expressing[value]
    ]
    return sum(right) / len(right)


def _known(document: Document, attribute: str) -> list[tuple[int, str, str]]:
    """Words whose attribute the sentence before has shown: (column that predicts it, word, value).

    With <bos> in column 0, the column that predicts a word is the word's own index.
    """
    known: list[tuple[int, str, str]] = []
    start = 0
    for before, sentence in pairwise(document.sentences):
        start += len(before.words)
        value = sentence.attributes[attribute]
        if value == before.attributes[attribute]:
            known += [(start + i, word, value) for i, word in enumerate(sentence.words)]
    return known
