"""Drawing prompts at random: which words and templates a tokenizer allows, and no prompt twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from interp.errors import TaskError, TokenizationError, unknown_name
from interp.tasks.pairs import EncodedPair, MisalignedError, PairDraft, encode_pair
from interp.tasks.templates import Split, Template
from interp.tasks.tokenize import Encoder

SPLITS = (*get_args(Split), "all")


def draw_pairs(encoder: Encoder, draw: Callable[[], PairDraft], n: int, task: str) -> list[EncodedPair]:
    """``n`` pairs from ``draw`` whose clean prompts all differ.

    A pair whose two prompts differ in length, or have a labelled word at different positions, is
    drawn again. Raises :class:`TaskError` when no new prompt turns up any more, and
    :class:`TokenizationError` when no pair drawn was aligned.
    """
    found: dict[str, EncodedPair] = {}
    misses, unaligned = 0, ""
    while len(found) < n:
        if misses > 200 + 20 * len(found):
            raise _too_few(task, n, len(found), unaligned)
        draft = draw()
        misses += 1
        if draft.clean in found:
            continue
        try:
            found[draft.clean] = encode_pair(encoder, draft)
        except MisalignedError as error:
            unaligned = str(error)
        else:
            misses = 0
    return list(found.values())


def _too_few(task: str, n: int, found: int, unaligned: str) -> Exception:
    if unaligned and not found:
        return TokenizationError(f"task {task!r}: no pair drawn came out aligned. The last one: {unaligned}")
    return TaskError(
        f"task {task!r} was asked for {n} different prompts, but these templates and words make only {found}."
        " Ask for fewer, or allow more words or templates (split='all')."
        + (f" Pairs that did not align were left out; the last one: {unaligned}" if unaligned else "")
    )


def one_token_words(
    encoder: Encoder, words: Iterable[str], *, kind: str, needed: int, task: str, option: str | None = None
) -> tuple[str, ...]:
    """The words that are one known token behind a space, in order and each once.

    Raises :class:`TokenizationError` naming those that are not when fewer than ``needed`` remain.
    """
    listed = checked_words(words, kind=kind, task=task)
    tokens = encoder.single_tokens(listed)
    good = tuple(word for word in listed if tokens[word] is not None)
    if len(good) < needed:
        bad = [word for word in listed if tokens[word] is None]
        raise TokenizationError(
            f"task {task!r} needs {needed} different {kind}, each one token of {encoder.name!r} behind a "
            f"space; {len(good)} of {len(listed)} are{f' ({list_some(good)})' if good else ''}"
            f"{f', not {list_some(bad)}' if bad else ''}. "
            + (f"Give others with {option}=[...]." if option else "Use interp.tasks.from_text with your own.")
        )
    return good


def known_words(encoder: Encoder, words: Iterable[str], *, kind: str, task: str) -> tuple[str, ...]:
    """Words to fill a slot that is the same in both prompts, so that any length will do.

    Those of one token where there are any, else those that the tokenizer can spell. Raises
    :class:`TokenizationError` when it knows none.
    """
    listed = checked_words(words, kind=kind, task=task)
    tokens = encoder.single_tokens(listed)
    good = [word for word in listed if tokens[word] is not None]
    if good:
        return tuple(good)
    spelt = [word for word in listed if not encoder.unknown_words(word)]
    if not spelt:
        raise TokenizationError(
            f"task {task!r}: {encoder.name!r} knows none of the {kind} {list_some(listed)}."
        )
    return tuple(spelt)


def checked_words(words: Iterable[str], *, kind: str, task: str) -> list[str]:
    """The words in order, each once. Raises :class:`TaskError` for one text instead of several, or none."""
    listed = [words] if isinstance(words, str) else list(dict.fromkeys(words))
    if (
        isinstance(words, str)
        or not listed
        or not all(isinstance(word, str) and word.strip() for word in listed)
    ):
        raise TaskError(
            f"task {task!r}: {kind} are given as several words, like ['Mary', 'John']; got {words!r}."
        )
    return [word.strip() for word in listed]


def pick_templates(
    encoder: Encoder,
    task: str,
    templates: Sequence[Template],
    *,
    split: str,
    template: str | None,
    slots: Sequence[str],
) -> tuple[Template, ...]:
    """Templates to draw from: those of a split, the one with this id, or the caller's own text.

    ``slots`` must appear in a text of the caller's. Templates with words that the tokenizer does
    not know are left out. Raises :class:`TaskError` for an unknown split or template, and
    :class:`TokenizationError` when no template is left.
    """
    if split not in SPLITS:
        raise TaskError(unknown_name("split", str(split), SPLITS))
    if template is None:
        chosen = [t for t in templates if split == "all" or t.heldout == (split == "heldout")]
    elif "{" in template:
        chosen = [_own_template(task, template, slots)]
    else:
        chosen = [t for t in templates if t.id == template]
        if not chosen:
            raise TaskError(unknown_name(f"template of task {task!r}", template, [t.id for t in templates]))
    if not chosen:
        raise TaskError(f"task {task!r} has no template of this kind in split {split!r}; try split='all'.")
    usable = tuple(t for t in chosen if not encoder.unknown_words(_bare(t)))
    if not usable:
        unknown = encoder.unknown_words(_bare(chosen[0]))
        raise TokenizationError(
            f"task {task!r}: {encoder.name!r} knows all words of no template; of "
            f"{chosen[0].prompt!r} it lacks {list_some(unknown)}. Give a template of your own."
        )
    return usable


def _own_template(task: str, text: str, slots: Sequence[str]) -> Template:
    own = Template("custom", task, text, heldout=True)
    missing = [slot for slot in slots if slot not in own.slots]
    if missing:
        raise TaskError(
            f"a template of task {task!r} needs the slots {', '.join(f'{{{slot}}}' for slot in slots)}; "
            f"{text!r} lacks {', '.join(f'{{{slot}}}' for slot in missing)}."
        )
    return own


def _bare(template: Template) -> str:
    """The template's own words, its slots left out."""
    return re.sub(r" ?\{\w+\}", "", template.prompt)


def list_some(words: Sequence[str], most: int = 8) -> str:
    """The first few words, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
