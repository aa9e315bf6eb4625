"""From final residual streams of rows to scores."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import PatchError
from interp.models.blocks import Stack
from interp.patching.readout import Readout
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.statistics import StreamStatistics
from interp.patching.wavefront.transfers import send_numbers


class Scorer:
    """From final residual streams to scores, filling in what the base run has."""

    def __init__(
        self, stack: Stack, readout: Readout, base: Tensor, vocab: Tensor | None, read: Tensor
    ) -> None:
        self.stack = stack
        self.readout = readout
        self.base = base
        self.vocab = vocab
        self.read = read
        self._statistics = StreamStatistics(stack, readout, base)
        self._read_on_host = read.cpu().numpy()

    def score(
        self, plan: RowPlan, rows: np.ndarray, resid: Float[Tensor, "row k d_model"], scores: Tensor
    ) -> None:
        """Write the scores of these rows into ``scores`` [group, prompt]."""
        groups = torch.from_numpy(plan.group[rows])
        if not self.readout.metric.whole_batch:
            found = self.score_on_device(plan, rows, resid)
            scores[groups, torch.from_numpy(plan.prompt[rows])] = found.to(scores.dtype).cpu()
            return
        prompts = send_numbers(plan.prompt[rows], resid.device)
        picked = self._pick(resid, prompts, self._columns_before(plan, rows, resid.device))
        n = len(self.base)
        every = torch.arange(n, device=resid.device)
        for group in groups.unique():
            mine = (groups == group).nonzero()[:, 0].to(resid.device)
            batch = self.base.clone()
            batch[prompts[mine]] = picked[mine]
            scores[group] = self.readout.score_picked(batch, every).to(scores.dtype).cpu()

    def score_on_device(
        self, plan: RowPlan, rows: np.ndarray, resid: Float[Tensor, "row k d_model"]
    ) -> Float[Tensor, " row"]:
        """The scores of these rows, on their device and without waiting for it.

        Raises :class:`~interp.errors.PatchError` for a metric on whole batches, which has no score of one row.
        """
        if self.readout.metric.whole_batch:
            raise PatchError(
                f"metric {self.readout.metric.name!r} is a function of whole batches and has no score of one "
                "row; call score(plan, rows, resid, scores)."
            )
        prompts = send_numbers(plan.prompt[rows], resid.device)
        before = self._columns_before(plan, rows, resid.device)
        if self._statistics.run(resid):
            found = self._statistics.read(resid, prompts, before)
            return self.readout.score_statistics(found, prompts)
        return self.readout.score_picked(self._pick(resid, prompts, before), prompts)

    def _pick(
        self,
        resid: Float[Tensor, "row k d_model"],
        prompts: Int[Tensor, " row"],
        before: Bool[Tensor, "row k"] | None,
    ) -> Float[Tensor, "row k c"]:
        """The logits that the metric reads, the base run's before a row begins."""
        picked = self.stack.unembed(resid, self.vocab, None if self.vocab is None else prompts)
        return picked if before is None else torch.where(before[:, :, None], self.base[prompts], picked)

    def _columns_before(
        self, plan: RowPlan, rows: np.ndarray, device: torch.device
    ) -> Bool[Tensor, "row k"] | None:
        """Which columns that are read come before the row's first; ``None`` if none does."""
        before = self._read_on_host[plan.prompt[rows]] < plan.start[rows][:, None]
        return send_numbers(before, device) if before.any() else None
