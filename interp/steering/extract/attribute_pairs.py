"""Minimal pairs of the generated world: the same sentences with one attribute changed.

Methods that look at differences of pairs need pairs: on mix-4l PCA of differences between two *different* texts found
what else they differ in (AUC for sentiment .54 at ``resid_post[1]``), and with these pairs the attribute (AUC .95,
cosine .999 with the mean difference). Mean differences and probes work with either.
"""

from __future__ import annotations

from random import Random

from interp.errors import SteeringError, unknown_name
from interp.tasks.attributes import ATTRIBUTES
from interp.tasks.sentences import STEERABLE, draw_attribute_sentence, draw_attributes, draw_template
from interp.tasks.templates import Split


def attribute_pairs(
    attribute: str,
    positive: str,
    negative: str,
    n: int,
    seed: int = 0,
    *,
    split: Split = "train",
    sentences: int = 2,
) -> tuple[list[str], list[str]]:
    """``n`` texts of the value ``positive``, and each again with the value ``negative``.

    Templates and all other attributes are the same in both, and so are the words that do not
    depend on the attribute, as far as both values have as many to draw from. Raises :class:`SteeringError` for an
    attribute that does not run through whole texts, and for values that are not two of its own.
    """
    if attribute not in STEERABLE:
        raise SteeringError(unknown_name("steerable attribute", attribute, STEERABLE))
    for value in (positive, negative):
        if value not in ATTRIBUTES[attribute]:
            raise SteeringError(unknown_name(f"value of {attribute}", value, ATTRIBUTES[attribute]))
    if positive == negative or n < 1 or sentences < 1:
        raise SteeringError(
            f"pairs take two values, and at least one text of one sentence; got {positive!r}, {negative!r}, n={n} and "
            f"{sentences} sentences."
        )
    sides: tuple[list[str], list[str]] = ([], [])
    for number in range(n):
        draw = Random(f"{attribute}/{split}/{seed}/{number}")
        others = draw_attributes(draw)
        templates = [draw_template(draw, "attributes", split) for _ in range(sentences)]
        for value, texts in zip((positive, negative), sides, strict=True):
            # the same stream for both values: equal slots are filled alike
            stream = Random(f"{attribute}/{split}/{seed}/{number}/words")
            held = others | {attribute: value}
            drawn = [draw_attribute_sentence(stream, template, held) for template in templates]
            texts.append(" ".join(word for sentence in drawn for word in sentence.words))
    return sides
