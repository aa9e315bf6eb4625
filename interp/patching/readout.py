"""From logits to the metric, computing and keeping only what the metric reads."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.models.model import Model
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric, Reads


class Readout:
    """A metric bound to a task: which columns to unembed, and the score of each row.

    Metrics that compare with the clean run get its logits, taken once here.
    """

    def __init__(self, model: Model, task: PromptPairs, metric: Metric) -> None:
        self.task = task
        self.metric = metric
        reads = metric.reads(task)
        self.columns = torch.unique(reads.positions.cpu())
        """Columns to unembed; the metric's positions index into these."""
        self._reads = Reads(torch.searchsorted(self.columns, reads.positions.cpu().contiguous()), reads.vocab)
        self._reference: Tensor | None = None
        if metric.needs_reference:
            with torch.no_grad():
                self._reference = self._reads.gather(
                    model(task.clean, task.attention_mask, keep_columns=self.columns)
                )

    def score(
        self, logits: Float[Tensor, "row kept d_vocab"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """One number a row; ``logits`` at ``self.columns``, row i belonging to prompt ``prompts[i]``.

        Rows come in blocks of all the task's prompts in order, which metrics on whole batches need.
        Raises :class:`MetricError` when the metric returns something else than a number a row.
        """
        scores = self.metric.score(self._reads.gather(logits, prompts), prompts, self.task, self._reference)
        if scores.shape != prompts.shape:
            raise MetricError(
                f"metric {self.metric.name!r} returned shape {tuple(scores.shape)} for {len(prompts)} rows; "
                "expected one number a row."
            )
        return scores
