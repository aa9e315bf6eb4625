"""Activations of a bundled model on generated text, with the generator's own attributes as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

import torch

from interp.coders.probing.labels import AttributeData
from interp.errors import CoderError
from interp.models.capture import capture_stream
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES
from interp.tasks.templates import Split
from interp.tasks.world import NO_LABEL, Document, generate_documents, label_tokens, token_ids

ATTRIBUTE_MIX: Mapping[str, float] = MappingProxyType({"attributes": 0.7, "pronouns": 0.1, "agreement": 0.2})
"""Kinds of document whose sentences have attributes, and their shares."""
_BATCH = 32


def attribute_data(
    model: Model,
    site: str,
    n: int = 4000,
    seed: int = 0,
    *,
    split: Split = "train",
    length: int = 64,
    kinds: Mapping[str, float] | Sequence[str] = ATTRIBUTE_MIX,
    expressed: bool = True,
    progress: bool = False,
) -> AttributeData:
    """Activations at one site on ``n`` tokens of generated text, labelled by the sentence's attributes.

    Tokens are those of a labelled sentence, in whole rows of ``length`` tokens, which are the prompts; the last
    row is cut. ``expressed`` leaves a label out until a word of the sentence has expressed it (a model that
    reads from left to right cannot know it before); otherwise the whole sentence is labelled.
    ``split="heldout"`` uses templates that the bundled models never saw.

    Raises :class:`CoderError` for a model with another vocabulary, and for a site that is not one vector a token.
    """
    _check_vocabulary(model)
    if n < 1:
        raise CoderError(f"give at least one token; got n={n}.")
    documents: list[Document] = []
    stream = generate_documents(10 * n + 1000, seed, split, kinds)
    found = 0
    while found < n:
        fresh = [_Expressed(one.kind, one.sentences) if expressed else one for one in islice(stream, 64)]
        documents += fresh
        labelled = label_tokens(documents, length)
        has_label = torch.stack(list(labelled.attributes.values())).ne(NO_LABEL).any(0)
        found = int(has_label.sum())
    n_rows = int((has_label.sum(1).cumsum(0) < n).sum()) + 1
    tokens, has_label = labelled.tokens[:n_rows], has_label[:n_rows]
    caches = capture_stream(model, tokens, site, batch_size=_BATCH, progress=progress)
    values = torch.cat([cache[site] for cache in caches])
    if values.ndim != 3:
        raise CoderError(
            f"{site} is {list(values.shape)}, not one vector a token; name one layer, as resid_post[2]."
        )
    row, position = (part[:n] for part in has_label.nonzero(as_tuple=True))
    return AttributeData(
        activations=values[row, position].float(),
        labels={name: label[:n_rows][row, position] for name, label in labelled.attributes.items()},
        values=dict(ATTRIBUTES),
        prompt=row,
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task=f"attributes of generated text at {site}",
            n_prompts=n_rows,
            seed=seed,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
        ),
    )


def _check_vocabulary(model: Model) -> None:
    ids = dict(token_ids())
    if model.tokenizer is None or model.tokenizer.get_vocab() != ids:
        raise CoderError(
            f"attributes are labelled in the generated world's {len(ids)} words; model {model.name!r} has another "
            "vocabulary. Load a bundled model such as 'mix-4l', or build AttributeData from your own labels."
        )


@dataclass(frozen=True)
class _Expressed(Document):
    """A document whose words have an attribute only from the first word of their sentence that expresses it."""

    def values_of(self, attribute: str) -> tuple[str | None, ...]:
        found: list[str | None] = []
        for sentence in self.sentences:
            value = sentence.attributes.get(attribute)
            expressing = ATTRIBUTE_WORDS[attribute].get(value, frozenset()) if value else frozenset()
            known = False
            for word in sentence.words:
                known = known or word in expressing
                found.append(value if known else None)
        return tuple(found)
