"""Any function of full logits as a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.tasks.base import PromptPairs
from interp.tasks.metrics.contract import Metric, Reads


class CallableMetric(Metric):
    """``fn(logits [batch, pos, d_vocab]) -> scalar or [batch]`` as a metric.

    ``fn`` sees the logits of all the task's prompts at once, in order, padding included, so it may
    index them as it likes; it is called once for every patched site. A scalar stands for the whole
    batch and is given to every row. Nothing can be left out of what is computed for it, so the
    named metrics are faster.
    """

    whole_batch = True

    def __init__(
        self, fn: Callable[[Tensor], Any], name: str | None = None, higher_is_clean: bool = True
    ) -> None:
        self.fn = fn
        self.name = str(name or getattr(fn, "__name__", type(fn).__name__))
        self.higher_is_clean = higher_is_clean

    def reads(self, task: PromptPairs) -> Reads:
        """Everything."""
        columns = torch.arange(task.clean.shape[1], device=task.clean.device)
        return Reads(columns.expand(len(task), -1), None)

    def score(
        self,
        logits: Float[Tensor, "row k c"],
        prompts: Int[Tensor, " row"],
        task: PromptPairs,
        reference: Float[Tensor, "prompt k c"] | None = None,
    ) -> Float[Tensor, " row"]:
        """``fn`` of every whole batch among the rows.

        Raises :class:`MetricError` when the rows are not whole batches of the task in order, or
        ``fn`` returns anything but one number or one a prompt.
        """
        n = len(task)
        whole = torch.arange(n).repeat(max(len(logits) // n, 1))
        if not torch.equal(prompts.cpu(), whole):
            raise MetricError(
                f"metric {self.name!r} is a function of the whole batch: its rows must be all {n} prompts of "
                f"the task in order, once or several times; got prompts {prompts.tolist()}."
            )
        return torch.cat([self._call(batch, n) for batch in logits.split(n)])

    def _call(self, logits: Tensor, n: int) -> Tensor:
        value = self.fn(logits)
        score = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)
        if score.shape not in ((), (n,)):
            raise MetricError(
                f"metric {self.name!r} returned shape {tuple(score.shape)}; expected one number or one for "
                f"each of {n} prompts."
            )
        score = score if score.is_floating_point() else score.float()
        return score.to(logits.device).expand(n)
