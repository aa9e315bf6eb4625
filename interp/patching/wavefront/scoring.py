"""From final residual streams of rows to scores."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.blocks import Stack
from interp.patching.readout import Readout
from interp.patching.wavefront.plan import RowPlan


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

    def score(
        self, plan: RowPlan, rows: np.ndarray, resid: Float[Tensor, "row k d_model"], scores: Tensor
    ) -> None:
        """Write the scores of these rows into ``scores`` [group, prompt]."""
        prompts = torch.from_numpy(plan.prompt[rows]).to(resid.device)
        start = torch.from_numpy(plan.start[rows]).to(resid.device)
        picked = self.stack.unembed(resid, None if self.vocab is None else self.vocab[prompts])
        before = self.read[prompts] < start[:, None]
        if bool(before.any()):
            picked = torch.where(before[:, :, None], self.base[prompts], picked)
        groups = torch.from_numpy(plan.group[rows])
        if not self.readout.metric.whole_batch:
            found = self.readout.score_picked(picked, prompts)
            scores[groups, prompts.cpu()] = found.to(scores.dtype).cpu()
            return
        n = len(self.base)
        every = torch.arange(n, device=resid.device)
        for group in groups.unique():
            mine = (groups == group).nonzero()[:, 0].to(resid.device)
            batch = self.base.clone()
            batch[prompts[mine]] = picked[mine]
            scores[group] = self.readout.score_picked(batch, every).to(scores.dtype).cpu()
