"""The prompts a lens looks at: of a task, as tokens or as text, in one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import LensError, TokenizationError, unknown_name
from interp.models.model import Model
from interp.models.positions import Columns, Prompt
from interp.tasks.base import NO_TOKEN, PromptPairs
from interp.types import Position, Site, parse_site

Run = Literal["clean", "corrupted"]
Prompts = PromptPairs | Int[Tensor, "batch pos"] | Int[Tensor, " pos"] | str | Sequence[str]
"""What every lens takes: a task, token ids, a text or several."""

Where = Position | Sequence[Position]

TokenChoice = Int[Tensor, "..."] | int | str | Sequence[int | str]
"""One token for all prompts, or one a prompt (tensors: or several a prompt, filled with ``NO_TOKEN``)."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as tokens, with what the lenses need to know of them."""

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"] | None = None
    labels: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    task: PromptPairs | None = None
    run: Run = "clean"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def columns(self) -> Columns:
        """Its columns as positions."""
        batch, n = self.tokens.shape
        return Columns(Prompt.from_mask(batch, n, self.attention_mask), 0, n)

    def rows(self, start: int, stop: int) -> PromptBatch:
        """Prompts ``start`` to before ``stop``."""
        part = slice(start, stop)
        mask = None if self.attention_mask is None else self.attention_mask[part]
        labels = {label: where[part] for label, where in self.labels.items()}
        task = None if self.task is None else self.task.select(range(len(self))[part])
        return PromptBatch(self.tokens[part], mask, labels, task, self.run)

    def split(self, size: int) -> list[PromptBatch]:
        """Batches of at most ``size`` prompts. Raises :class:`LensError` for ``size`` below 1."""
        if size < 1:
            raise LensError(f"batch_size must be at least 1; got {size}.")
        return [self.rows(start, start + size) for start in range(0, len(self), size)]

    def chosen_columns(
        self, where: Where | None
    ) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
        """Columns at these positions (``None``: every real token), and which entries are there.

        Rows with fewer positions than others are filled up with columns that are not ``there``.
        Raises :class:`LensError` for a row that has none.
        """
        columns = self.columns
        site = Site("resid_post") if where is None else site_at(where)
        chosen = columns.select(site, self.labels)
        counts = chosen.sum(dim=1)
        if int(counts.min()) == 0:
            raise LensError(f"row {int(counts.argmin())} has no token at positions {where!r}.")
        widest = int(counts.max())
        index = (~chosen).int().argsort(dim=1, stable=True)[:, :widest]
        return index, torch.arange(widest) < counts[:, None]

    def one_column(self, position: Position) -> Int[Tensor, " batch"]:
        """The column of one position in each row. Raises :class:`LensError` if it is several."""
        index, there = self.chosen_columns(position)
        if there.shape[1] != 1:
            raise LensError(
                f"position {position!r} is {there.sum(1).tolist()} tokens of the prompts; expected exactly one, "
                "as an index or a label of the task."
            )
        return index[:, 0]


def site_at(where: Where) -> Site:
    """The residual stream at these positions, read as in a site."""
    listed = [where] if isinstance(where, str) or not isinstance(where, Sequence) else where
    return parse_site("resid_post@" + ",".join(map(str, listed)))


def read_prompts(
    model: Model,
    prompts: Prompts,
    *,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    labels: Mapping[str, Int[Tensor, " batch"]] | None = None,
    run: Run = "clean",
) -> PromptBatch:
    """Bring whatever was given into one shape, on the model's device.

    Raises :class:`LensError` for an empty batch, and for a mask, labels or a choice of run that do
    not go with what was given.
    """
    if run not in get_args(Run):
        raise LensError(unknown_name("run", str(run), get_args(Run)))
    if isinstance(prompts, PromptPairs):
        if attention_mask is not None or labels is not None:
            raise LensError("a task brings its own attention_mask and labels; leave them out.")
        task = prompts.to(model.device)
        tokens = task.clean if run == "clean" else task.corrupted
        return PromptBatch(tokens, task.attention_mask, task.labels, task, run)
    if run != "clean":
        raise LensError("only a task has corrupted prompts; pass the tokens you mean instead of run=.")
    if isinstance(prompts, Tensor):
        tokens = prompts[None] if prompts.ndim == 1 else prompts
    else:
        if attention_mask is not None:
            raise LensError(
                "attention_mask goes with token tensors; texts are padded and masked by themselves."
            )
        texts = [prompts] if isinstance(prompts, str) else prompts
        tokens, attention_mask = model.to_padded_tokens(texts)
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise LensError(
            f"expected at least one prompt of at least one token; got tokens of shape {list(tokens.shape)}."
        )
    if attention_mask is not None:
        attention_mask = attention_mask.to(model.device)
    return PromptBatch(tokens.to(model.device), attention_mask, dict(labels or {}))


def token_texts(
    model: Model, batch: PromptBatch, index: Int[Tensor, "batch kept"], there: Bool[Tensor, "batch kept"]
) -> tuple[tuple[str, ...], ...]:
    """The text of each prompt's tokens at these columns."""
    ids = batch.tokens.cpu().gather(1, index)
    return tuple(tuple(model.to_str_tokens(row[kept])) for row, kept in zip(ids, there, strict=True))


def read_token_choice(model: Model, given: TokenChoice, n_prompts: int, what: str) -> Int[Tensor, "batch k"]:
    """Token ids of each prompt, [batch, k], on the model's device.

    Raises :class:`LensError` for the wrong number of them or ids outside the vocabulary, and
    :class:`TokenizationError` for a text that is not one token.
    """
    if isinstance(given, Tensor):
        ids = given.to(model.device).long()
    elif isinstance(given, int | str):
        ids = torch.tensor(_one_id(model, given, what), device=model.device)
    else:
        ids = torch.tensor([_one_id(model, item, what) for item in given], device=model.device)
    if ids.ndim == 0:
        ids = ids.expand(n_prompts)
    if ids.ndim == 1:
        ids = ids[:, None]
    if ids.ndim != 2 or ids.shape[0] != n_prompts:
        raise LensError(
            f"{what} must be one token, or one for each of {n_prompts} prompts; got shape {list(ids.shape)}."
        )
    real = ids != NO_TOKEN
    if not bool(real.any(dim=1).all()):
        raise LensError(f"every prompt needs at least one token in {what}; some row has none.")
    if bool((real & ((ids < 0) | (ids >= model.traits.d_vocab))).any()):
        raise LensError(
            f"{what} must be token ids in 0..{model.traits.d_vocab - 1}; got {int(ids.min())}..{int(ids.max())}."
        )
    return ids


def _one_id(model: Model, token: int | str, what: str) -> int:
    if isinstance(token, int):
        return token
    ids = model.to_tokens(token, prepend_bos=False)[0].tolist()
    if len(ids) != 1:
        raise TokenizationError(
            f"{token!r} in {what} is {len(ids)} tokens of {model.name!r}, "
            f"{model.to_str_tokens(torch.tensor(ids))}; expected one. A word inside a text usually begins "
            "with a space."
        )
    return int(ids[0])
