"""What a metric is: it says which logits it reads and turns just those into one number a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.tasks.base import NO_TOKEN, PromptPairs


@dataclass(frozen=True)
class Reads:
    """Which logits a metric needs, for every prompt of a task."""

    positions: Int[Tensor, "prompt k"]
    """Columns of the (padded) sequence."""
    vocab: Int[Tensor, "prompt c"] | None
    """Vocabulary entries, ``NO_TOKEN`` where a row has fewer; ``None`` is the whole vocabulary."""

    def gather(
        self,
        logits: Float[Tensor, "row pos d_vocab"],
        prompts: Int[Tensor, " row"] | None = None,
    ) -> Float[Tensor, "row k c"]:
        """Pick what is read out of full logits.

        ``prompts`` says which prompt each row belongs to; ``None`` means row i is prompt i. Where
        ``vocab`` holds ``NO_TOKEN`` the result is meaningless, and a metric must not use it. Raises
        :class:`MetricError` when a column or a token lies outside ``logits``.
        """
        positions, vocab = self.positions.to(logits.device), self.vocab
        if prompts is not None:
            positions = positions[prompts.to(logits.device)]
        if positions.shape[0] != logits.shape[0] or int(positions.max()) >= logits.shape[1]:
            raise MetricError(
                f"logits of shape {tuple(logits.shape)} do not fit a metric that reads {positions.shape[0]} "
                f"rows up to column {int(positions.max())}; give the logits of the task's whole prompts."
            )
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        picked = logits[rows, positions]
        if vocab is None:
            return picked
        if int(vocab.max()) >= logits.shape[2]:
            raise MetricError(
                f"the task asks for token {int(vocab.max())}, but the logits have a vocabulary of "
                f"{logits.shape[2]}; was the task made with this model's tokenizer?"
            )
        vocab = vocab.to(logits.device)
        vocab = vocab if prompts is None else vocab[prompts.to(logits.device)]
        wanted = vocab.clamp(min=0)[:, None, :].expand(-1, positions.shape[1], -1)
        return picked.gather(2, wanted)


@dataclass(frozen=True)
class StatisticsRead:
    """What a metric needs of logits over the whole vocabulary, where it does not need the logits themselves."""

    tokens: Int[Tensor, "prompt c"]
    """Tokens whose logits it reads, ``NO_TOKEN`` where a prompt has fewer."""
    others: bool = False
    """Whether it compares them with the logits of all other tokens."""
    divergence: bool = False
    """Whether it reads ``KL(clean || row)``."""


@dataclass(frozen=True)
class Statistics:
    """Numbers of logits over the whole vocabulary at k columns, in fp32 at least; NaN where a logit is NaN."""

    log_sum_exp: Float[Tensor, "row k"]
    tokens: Float[Tensor, "row k c"]
    """Logits of :attr:`StatisticsRead.tokens`, meaningless where those hold ``NO_TOKEN``."""
    largest_other: Float[Tensor, "row k"] | None = None
    """Largest logit of all other tokens, if read."""
    n_above: Int[Tensor, "row k"] | None = None
    """How many other tokens have a logit above each of ``tokens``, if read; any number where a logit is NaN."""
    divergence: Float[Tensor, "row k"] | None = None
    """``KL(clean || row)`` in nats, if read."""


class Metric(ABC):
    """A number for every row of logits.

    Subclass it for a metric of your own that should be read cheaply; any function on full logits
    works too (:class:`CallableMetric`).
    """

    name: str
    """What provenance and titles show."""
    higher_is_clean: bool = True
    """Whether the metric is larger in the clean run than in the corrupted one."""
    differentiable: bool = True
    """Whether gradients of the score mean something."""
    needs_reference: bool = False
    """Whether :meth:`score` compares with the clean run's logits."""
    whole_batch: bool = False
    """Whether rows must be scored together, all prompts of the task in order."""

    @abstractmethod
    def reads(self, task: PromptPairs) -> Reads:
        """What this metric reads of ``task``'s logits."""

    @abstractmethod
    def score(
        self,
        logits: Float[Tensor, "row k c"],
        prompts: Int[Tensor, " row"],
        task: PromptPairs,
        reference: Float[Tensor, "prompt k c"] | None = None,
    ) -> Float[Tensor, " row"]:
        """One number a row from the logits that :meth:`reads` names.

        ``prompts`` says which prompt of the task each row belongs to. ``reference`` holds the
        clean run's logits at the same places, for metrics that compare with it
        (``needs_reference``). Computed in fp32 at least, whatever the logits' precision.
        """

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead | None:
        """What :meth:`score_statistics` needs instead of logits; ``None``, the default, where there is no such way.

        A GPU makes these without storing logits. Only for metrics that read the whole vocabulary.
        """
        return None

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """What :meth:`score` gives, from statistics of the logits that :meth:`reads` names.

        Raises :class:`MetricError` for a metric that needs the logits.
        """
        raise MetricError(f"{self.name} is scored from logits; call score(logits, prompts, task).")

    def __repr__(self) -> str:
        return f"<metric {self.name}>"


def statistics_read_by(metric: Metric, task: PromptPairs) -> StatisticsRead | None:
    """What a metric needs instead of logits, where scoring so is its own way and not only one it inherits.

    A subclass that changes how logits are scored, and not how statistics are, is scored from logits.
    """
    names = ("score", "_score", "reads", "score_statistics")
    *changed, own = (_place_of(type(metric), name) for name in names)
    if any(place < own for place in changed):
        return None
    return metric.reads_statistics(task)


def _place_of(kind: type, name: str) -> int:
    """How many classes are asked for a method before the one that defines it; all where none does."""
    mro = kind.__mro__
    return next((place for place, base in enumerate(mro) if name in vars(base)), len(mro))


def widen(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """fp32 where the logits are narrower (bf16 holds 8 bits of a probability); fp64 is kept."""
    return logits if logits.dtype == torch.float64 else logits.float()


def mask_of(tokens: Int[Tensor, "row k"]) -> Tensor:
    """True where a ragged row holds a token."""
    return tokens != NO_TOKEN


def evaluate_metric(
    metric: Metric,
    logits: Float[Tensor, "prompt pos d_vocab"],
    task: PromptPairs,
    reference: Float[Tensor, "prompt pos d_vocab"] | None = None,
) -> Float[Tensor, " prompt"]:
    """Score full logits of the task's prompts, row i being prompt i.

    ``reference``: full logits of the clean run, for metrics that need them. Raises
    :class:`MetricError` when shapes do not fit the task or a needed reference is missing.
    """
    if tuple(logits.shape[:2]) != tuple(task.clean.shape):
        raise MetricError(
            f"logits of shape {tuple(logits.shape)} do not fit task {task.name!r} with prompts of shape "
            f"{tuple(task.clean.shape)}; expected [batch, pos, d_vocab]."
        )
    reads = metric.reads(task)
    prompts = torch.arange(len(task), device=logits.device)
    compared = None if reference is None else reads.gather(reference)
    return metric.score(reads.gather(logits), prompts, task, compared)
