"""From logits to the metric, computing and keeping only what the metric reads."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.models.model import Model
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric, Reads, Statistics, statistics_read_by


class Readout:
    """A metric bound to a task: which columns to unembed, and the score of each row.

    Metrics that compare with the clean run need :meth:`set_reference` first.
    """

    def __init__(self, task: PromptPairs, metric: Metric) -> None:
        self.task = task
        self.metric = metric
        self.reads = metric.reads(task)
        self.statistics = statistics_read_by(metric, task)
        """What the metric can be scored from instead of logits, if from anything."""
        positions = self.reads.positions.cpu()
        self.columns = torch.unique(positions)
        """Columns to unembed; the metric's positions index into these."""
        self._within = Reads(torch.searchsorted(self.columns, positions.contiguous()), self.reads.vocab)
        self._reference: Tensor | None = None

    @property
    def reference(self) -> Float[Tensor, "prompt k c"] | None:
        """The clean run's logits, where the metric compares with them and they are known."""
        return self._reference

    def set_reference(self, picked: Float[Tensor, "prompt k c"]) -> None:
        """Give the clean run's logits at the places that the metric reads."""
        if self.metric.needs_reference:
            self._reference = picked

    @torch.no_grad()
    def take_reference(self, model: Model) -> None:
        """Run the clean prompts where the metric compares with them."""
        if self.metric.needs_reference:
            logits = model(self.task.clean, self.task.attention_mask, keep_columns=self.columns)
            self._reference = self._within.gather(logits)

    def score(
        self, logits: Float[Tensor, "row kept d_vocab"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """One number a row; ``logits`` at ``self.columns``, row i belonging to prompt ``prompts[i]``.

        Rows come in blocks of all the task's prompts in order, which metrics on whole batches need.
        Raises as :meth:`score_picked`.
        """
        return self.score_picked(self.pick(logits, prompts), prompts)

    def pick(
        self, logits: Float[Tensor, "row kept d_vocab"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, "row k c"]:
        """What the metric reads of logits at ``self.columns``."""
        return self._within.gather(logits, prompts)

    def score_picked(
        self, picked: Float[Tensor, "row k c"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """One number a row from the logits that the metric reads, already picked out.

        Raises :class:`MetricError` when the metric returns something else than a number a row.
        """
        return self._checked(self.metric.score(picked, prompts, self.task, self._reference), prompts)

    def score_statistics(self, statistics: Statistics, prompts: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """One number a row from statistics of its logits, as :attr:`statistics` asks for them.

        Raises as :meth:`score_picked`.
        """
        return self._checked(self.metric.score_statistics(statistics, prompts, self.task), prompts)

    def _checked(self, scores: Tensor, prompts: Tensor) -> Tensor:
        if scores.shape != prompts.shape:
            raise MetricError(
                f"metric {self.metric.name!r} returned shape {tuple(scores.shape)} for {len(prompts)} rows; "
                "expected one number a row."
            )
        return scores
