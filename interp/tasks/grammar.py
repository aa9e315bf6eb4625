"""The grammar of the generated world: is a text one that it could hold, and what does it express?

A text is taken apart into sentences of the templates, those of training and those held out. A sentence is legal
when every slot is filled with words that may stand there and agree: the answer is right, names and numbers fit,
and a word that a sentence repeats is the same. Attributes may be mixed in a legal sentence; whether they are is
:attr:`ParsedSentence.consistent`. Which names never meet in training does not matter here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType

from interp.errors import TaskError
from interp.tasks.attributes import ATTRIBUTES
from interp.tasks.sentences import split_words, template_parts
from interp.tasks.slot_agreement import Fills, fills_agree
from interp.tasks.slots import ANSWER, phrases_for, texts_of
from interp.tasks.templates import TEMPLATES
from interp.tasks.world import SPECIAL_TOKENS, vocabulary

_ENDS = (".", "?")


@dataclass(frozen=True)
class ParsedSentence:
    """A legal sentence taken apart."""

    kind: str
    template: str
    """Its id; for repeated words that of :func:`interp.tasks.sentences.draw_repeated`."""
    fills: Fills
    """Slot -> the words in it, in the spelling of the lexicon; the answer under ``ANSWER``."""

    @cached_property
    def expressed(self) -> Mapping[str, Mapping[str, int]]:
        """Attribute -> value -> how many slots express it and no other; attributes of this sentence alone."""
        counts: dict[str, dict[str, int]] = {}
        for attribute, values in _values_by_slot(self.kind, self.fills):
            by = counts.setdefault(attribute, dict.fromkeys(ATTRIBUTES[attribute], 0))
            if len(values) == 1:
                by[next(iter(values))] += 1
        return MappingProxyType(counts)

    @cached_property
    def attributes(self) -> Mapping[str, str | None]:
        """Attribute -> the one value that all its slots agree on; ``None`` where they do not."""
        possible: dict[str, frozenset[str]] = {}
        for attribute, values in _values_by_slot(self.kind, self.fills):
            possible[attribute] = possible.get(attribute, values) & values
        return MappingProxyType(
            {name: next(iter(values)) if len(values) == 1 else None for name, values in possible.items()}
        )

    @property
    def consistent(self) -> bool:
        """Whether no two slots express different values of one attribute, as in all generated text."""
        return None not in self.attributes.values()


@dataclass(frozen=True)
class TextPart:
    """Some words of a text and the sentence that they are; ``None`` for words that are no legal sentence."""

    words: tuple[str, ...]
    sentence: ParsedSentence | None
    complete: bool = True
    """False for words at the end that no full stop or question mark closes."""


def parse_sentence(words: str | Sequence[str]) -> ParsedSentence | None:
    """The sentence that ``words`` are, whole and nothing else; ``None`` when they are no legal one.

    >>> found = parse_sentence("The baker was extremely good.")
    >>> found.template, found.fills["ADJECTIVE"], found.attributes["sentiment"]
    ('attributes/train-1', 'good', 'positive')
    """
    listed = _listed(words)
    text = _joined(listed)
    for pattern in _patterns(listed[0] if listed else ""):
        match = pattern.expression.fullmatch(text)
        if match is not None and (found := pattern.read(match)) is not None:
            return found
    return _parse_repeated(listed)


def parse_text(words: str | Sequence[str]) -> list[TextPart]:
    """A text taken apart into sentences, special tokens between them left out.

    Where no legal sentence begins, the words up to the next full stop or question mark are one part without a
    sentence. Words without either at the end of the text, as where a generation was cut, are not ``complete``; a
    task's sentence with a full stop in its middle that is cut behind it counts as complete and not legal.
    """
    return [part for document in _documents(_listed(words)) for part in _parse_document(document)]


def is_legal(words: str | Sequence[str]) -> bool:
    """Whether ``words`` are one document of the world, cut between sentences or not at all.

    That is one sentence of a task, or one or more attribute sentences.

    >>> is_legal("The baker was extremely good. It is a joy for the chef.")
    True
    >>> is_legal("The baker extremely was good.")
    False
    """
    documents = list(_documents(_listed(words)))
    if len(documents) != 1:
        return False
    parts = _parse_document(documents[0])
    kinds = [None if part.sentence is None else part.sentence.kind for part in parts]
    return set(kinds) == {"attributes"} or (len(kinds) == 1 and kinds[0] is not None)


def legal_share(texts: Iterable[str | Sequence[str]]) -> float:
    """Share of legal sentences among the complete sentences of all texts; NaN where there are none.

    Raises :class:`TaskError` for one text, whose letters are no texts.
    """
    if isinstance(texts, str):
        raise TaskError("legal_share takes several texts; got one: give [text].")
    legal = [part.sentence is not None for text in texts for part in parse_text(text) if part.complete]
    return sum(legal) / len(legal) if legal else float("nan")


def _listed(words: str | Sequence[str]) -> list[str]:
    if not isinstance(words, str):
        return list(words)
    pieces = re.split("|".join(f"({re.escape(token)})" for token in SPECIAL_TOKENS), words)
    return [
        w for piece in pieces if piece for w in ([piece] if piece in SPECIAL_TOKENS else split_words(piece))
    ]


def _joined(words: Sequence[str]) -> str:
    # every word ends in a space, so that a pattern can begin and end between words only
    return "".join(f"{word} " for word in words)


def _documents(words: Sequence[str]) -> Iterator[list[str]]:
    """Words between special tokens; the unknown word is a word."""
    document: list[str] = []
    for word in words:
        if word in SPECIAL_TOKENS and word != "<unk>":
            if document:
                yield document
            document = []
        else:
            document.append(word)
    if document:
        yield document


def _parse_document(words: list[str]) -> list[TextPart]:
    repeated = _parse_repeated(words)
    if repeated is not None:
        return [TextPart(tuple(words), repeated)]
    parts: list[TextPart] = []
    text, starts = _joined(words), {0: 0}
    for number, word in enumerate(words):
        starts[next(reversed(starts)) + len(word) + 1] = number + 1
    offsets = {number: start for start, number in starts.items()}
    begin = 0
    while begin < len(words):
        found, end = _longest(words, begin, text, offsets[begin], starts)
        complete = found is not None or words[end - 1] in _ENDS
        parts.append(TextPart(tuple(words[begin:end]), found, complete))
        begin = end
    return parts


def _longest(
    words: Sequence[str], begin: int, text: str, offset: int, starts: Mapping[int, int]
) -> tuple[ParsedSentence | None, int]:
    """The longest legal sentence that begins at a word, and the number of the word behind it."""
    best: tuple[ParsedSentence | None, int] = (None, begin)
    for pattern in _patterns(words[begin]):
        match = pattern.expression.match(text, offset)
        if match is not None and starts[match.end()] > best[1] and (found := pattern.read(match)) is not None:
            best = found, starts[match.end()]
    if best[0] is not None:
        return best
    ends = (number + 1 for number in range(begin, len(words)) if words[number] in _ENDS)
    return None, next(ends, len(words))


@dataclass(frozen=True)
class _Pattern:
    kind: str
    template: str
    rest: str
    expression: re.Pattern[str]
    capital: str | None
    """The slot that stands first, whose words begin with a capital."""

    def read(self, match: re.Match[str]) -> ParsedSentence | None:
        fills = match.groupdict()
        if self.capital is not None:
            fills[self.capital] = _small(self.kind, self.capital, fills[self.capital])
        if not fills_agree(self.kind, fills, self.rest):
            return None
        return ParsedSentence(self.kind, self.template, MappingProxyType(fills))


def _large(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


def _small(kind: str, slot: str, phrase: str) -> str:
    return next(one for one in phrases_for(kind, slot) if _large(one) == phrase)


@cache
def _all_patterns() -> Mapping[str, tuple[_Pattern, ...]]:
    """Patterns by the first word of what they match."""
    found: dict[str, list[_Pattern]] = {}
    for kind, templates in TEMPLATES.items():
        for template in templates:
            for text in texts_of(template):
                rest = text.removeprefix(f"{template.prompt} {{{ANSWER}}}")
                pattern, firsts = _compile(kind, template.id, text, rest)
                for first in firsts:
                    found.setdefault(first, []).append(pattern)
    return MappingProxyType({first: tuple(patterns) for first, patterns in found.items()})


def _patterns(first: str) -> tuple[_Pattern, ...]:
    return _all_patterns().get(first, ())


def _compile(kind: str, template: str, text: str, rest: str) -> tuple[_Pattern, set[str]]:
    pieces: list[str] = []
    seen: set[str] = set()
    parts = template_parts(text)
    capital = parts[0][1] if kind == "attributes" and parts[0][0] else None
    for number, (is_slot, item) in enumerate(parts):
        if not is_slot:
            pieces.append(re.escape(item) + " ")
        elif item in seen:
            pieces.append(f"(?P={item}) ")
        else:
            seen.add(item)
            phrases = list(phrases_for(kind, item))
            if capital is not None and number == 0:
                phrases = [_large(phrase) for phrase in phrases]
            pieces.append(f"(?P<{item}>{'|'.join(map(re.escape, phrases))}) ")
    firsts = {parts[0][1]}
    if parts[0][0]:
        firsts = {phrase.split()[0] for phrase in map(_large, phrases_for(kind, parts[0][1]))}
    return _Pattern(kind, template, rest, re.compile("".join(pieces)), capital), firsts


def _values_by_slot(kind: str, fills: Fills) -> Iterator[tuple[str, frozenset[str]]]:
    if kind == "induction":
        return
    for slot, phrase in fills.items():
        yield from phrases_for(kind, slot)[phrase].items()


@cache
def _repeatable() -> frozenset[str]:
    return frozenset(vocabulary()) - frozenset(SPECIAL_TOKENS)


def _parse_repeated(words: Sequence[str]) -> ParsedSentence | None:
    """Distinct words of the vocabulary, the same two or three times."""
    for times in (2, 3):
        length, left = divmod(len(words), times)
        once = list(words[:length])
        fits = not left and 4 <= length <= 20 and len(set(once)) == length
        if fits and list(words) == once * times and _repeatable() >= set(once):
            return ParsedSentence("induction", f"induction/repeat-{times}", MappingProxyType({}))
    return None
