"""Which tokens a steering acts on, where the site language is not enough: text patterns, ends of instructions.

Both say the same for cached and uncached forwards, padding and batches: a token is chosen by itself and what
stands before it, and prompts are those that generation began with.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.positions import Columns


class Where(ABC):
    """A rule that chooses tokens; it narrows the site's own positions."""

    kind: ClassVar[str]

    @abstractmethod
    def select(
        self, model: Model, tokens: Int[Tensor, "batch seen"], columns: Columns
    ) -> Bool[Tensor, "batch n"]:
        """Which of the columns of this forward are chosen.

        ``tokens`` are all columns up to and with these, those of a KV cache too.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :func:`read_where` reads it."""


@dataclass(frozen=True)
class TextPattern(Where):
    """Tokens at which a regular expression matches the text so far.

    ``part="match"``: the tokens that complete a match, or extend one that began earlier: a match in the text up
    to the token reaches into the token. ``part="after"``: every token after the first match has ended. Special
    tokens are part of the text. A token is chosen by the text before it alone, so of a match over several
    tokens those are chosen with which the text already matches.
    """

    kind: ClassVar[str] = "text-pattern"
    pattern: str
    part: Literal["match", "after"] = "match"

    def __post_init__(self) -> None:
        if self.part not in ("match", "after"):
            raise SteeringError(unknown_name("part of a match", self.part, ("match", "after")))
        try:
            found = re.compile(self.pattern)
        except re.error as error:
            raise SteeringError(f"{self.pattern!r} is no regular expression: {error}.") from error
        if found.match(""):
            raise SteeringError(f"the pattern {self.pattern!r} matches nothing at all, which is everywhere.")

    def select(self, model: Model, tokens: Tensor, columns: Columns) -> Tensor:
        if model.beams > 1 and columns.start:
            raise SteeringError(
                "a text pattern cannot follow beams under a KV cache, whose rows change places; generate with "
                "use_cache=False or num_beams=1."
            )
        whole = Columns(columns.prompt, 0, columns.start + columns.n)
        rows = [
            self._select_row(model, row[real], int(real[: columns.start].sum()))
            for row, real in zip(tokens.cpu(), whole.real, strict=True)
        ]
        chosen = torch.zeros_like(whole.real)
        for found, real, row in zip(chosen, whole.real, rows, strict=True):
            found[real] = row
        return chosen[:, columns.start :]

    def _select_row(self, model: Model, tokens: Tensor, first: int) -> Tensor:
        """For every token; those before ``first`` may be left out where later ones do not depend on them."""
        pieces = model.to_str_tokens(tokens)
        pattern, text = re.compile(self.pattern), ""
        chosen = torch.zeros(len(pieces), dtype=torch.bool)
        ended = False
        for number, piece in enumerate(pieces):
            start, text = len(text), text + piece
            chosen[number] = ended
            if ended or (self.part == "match" and number < first):
                continue
            # an empty token, as a part of a character, belongs to no match, and an empty match to no token
            reaches = any(match.end() > max(start, match.start()) for match in pattern.finditer(text))
            if self.part == "match":
                chosen[number] = reaches
            else:
                ended = reaches
        return chosen

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "pattern": self.pattern, "part": self.part}


@dataclass(frozen=True)
class InstructionEnd(Where):
    """The last token of the instruction: the one before the prompt's last ``template`` tokens.

    ``template`` are the tokens that a chat template puts behind the instruction, e.g. those of
    ``"<end_of_turn>\\n<start_of_turn>model\\n"``; their last occurrence in the prompt counts. A prompt without
    them is an error. Generated tokens are never chosen.
    """

    kind: ClassVar[str] = "instruction-end"
    template: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.template:
            raise SteeringError(
                "the template after an instruction has no token; for a prompt's last token write @-1."
            )

    @classmethod
    def of_text(cls, model: Model, template: str) -> InstructionEnd:
        """From the template's text."""
        return cls(tuple(model.to_tokens(template, prepend_bos=False)[0].tolist()))

    def select(self, model: Model, tokens: Tensor, columns: Columns) -> Tensor:
        chosen = torch.zeros(columns.batch, columns.start + columns.n, dtype=torch.bool)
        if columns.start >= columns.prompt.n_columns:
            return chosen[:, columns.start :]
        ends = zip(columns.prompt.offsets.tolist(), columns.prompt.lengths.tolist(), strict=True)
        for row, (offset, length) in enumerate(ends):
            prompt = tokens[row, offset : offset + length].tolist()
            chosen[row, offset + self._find(prompt, row)] = True
        return chosen[:, columns.start :]

    def _find(self, prompt: Sequence[int], row: int) -> int:
        k = len(self.template)
        for start in range(len(prompt) - k, 0, -1):
            if tuple(prompt[start : start + k]) == self.template:
                return start - 1
        raise SteeringError(
            f"row {row}: the template {list(self.template)} does not stand behind an instruction in the prompt "
            f"{prompt[-20:]}; check that both were tokenised alike."
        )

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "template": list(self.template)}


def read_where(data: Mapping[str, Any]) -> Where:
    """What :meth:`Where.to_dict` wrote. Raises :class:`SteeringError` for an unknown kind."""
    if data.get("kind") == TextPattern.kind:
        return TextPattern(data["pattern"], data["part"])
    if data.get("kind") == InstructionEnd.kind:
        return InstructionEnd(tuple(data["template"]))
    kinds = (TextPattern.kind, InstructionEnd.kind)
    raise SteeringError(unknown_name("rule for positions", str(data.get("kind")), kinds))
