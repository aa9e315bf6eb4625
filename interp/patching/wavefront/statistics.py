"""Statistics of a whole vocabulary from residual streams, for metrics that need no more than that."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.readout import VocabularySummary, summarise_logits
from interp.models.blocks import Stack
from interp.patching.readout import Readout
from interp.tasks.metrics import Statistics, StatisticsRead


def score_run(
    stack: Stack,
    readout: Readout,
    resid: Float[Tensor, "prompt k d_model"],
    picked: Float[Tensor, "prompt k c"],
) -> Float[Tensor, " prompt"]:
    """The metric of a whole run of a task's prompts, made in the same way as that of its rows."""
    prompts = torch.arange(len(resid), device=resid.device)
    statistics = StreamStatistics(stack, readout, picked)
    if statistics.run(resid):
        return readout.score_statistics(statistics.read(resid, prompts), prompts)
    return readout.score_picked(picked, prompts)


class StreamStatistics:
    """What a readout's metric reads of a vocabulary, made by a kernel that stores no logits."""

    def __init__(self, stack: Stack, readout: Readout, base: Float[Tensor, "prompt k c"]) -> None:
        self.stack = stack
        self.readout = readout
        self.base = base
        """Logits of the base run, for columns before a row's first."""

    def run(self, resid: Float[Tensor, "row k d_model"]) -> bool:
        """Whether the metric can be scored so, and a kernel would run."""
        return self.readout.statistics is not None and self.stack.summary_runs(resid)

    def read(
        self,
        resid: Float[Tensor, "row k d_model"],
        prompts: Int[Tensor, " row"],
        before: Bool[Tensor, "row k"] | None = None,
    ) -> Statistics:
        """Statistics of every row, the base run's in columns that come before the row's first."""
        read, tokens = self._read, self._tokens
        found = self.stack.summarise(resid, tokens, prompts, self._reference, read.others)
        if before is None:
            return _hand_over(found)
        base = self._of_base
        return Statistics(
            log_sum_exp=torch.where(before, base.log_sum_exp[prompts], found.log_sum_exp),
            tokens=torch.where(before[..., None], base.tokens[prompts], found.tokens),
            largest_other=_choose(before, base.largest_other, prompts, found.largest_other),
            n_above=_choose(before, base.n_above, prompts, found.n_above),
            divergence=_choose(before, base.divergence, prompts, found.divergence),
        )

    @property
    def _read(self) -> StatisticsRead:
        assert self.readout.statistics is not None
        return self.readout.statistics

    @cached_property
    def _tokens(self) -> Int[Tensor, "prompt c"]:
        return self._read.tokens.to(self.base.device)

    @cached_property
    def _reference(self) -> Float[Tensor, "prompt k d_vocab"] | None:
        return self.readout.reference if self._read.divergence else None

    @cached_property
    def _of_base(self) -> Statistics:
        return _hand_over(
            summarise_logits(self.base, self._tokens, reference=self._reference, others=self._read.others)
        )


def _hand_over(found: VocabularySummary) -> Statistics:
    return Statistics(found.log_sum_exp, found.tokens, found.largest_other, found.n_above, found.divergence)


def _choose(before: Tensor, base: Tensor | None, prompts: Tensor, found: Tensor | None) -> Tensor | None:
    if base is None or found is None:
        return None
    return torch.where(before, base[prompts], found)
