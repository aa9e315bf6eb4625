"""A probe fitted on held-out prompts at a late site: does the model read the concept from a steered prompt?

It needs no vocabulary, so it works for any model. It reads an activation that the steering wrote into: a high
score is no proof of behaviour, and random controls say how much of it any push brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from interp.coders.probing.logistic import Probe, fit_probe
from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.contrast import read_contrast
from interp.steering.evaluate.instrument import acting
from interp.steering.evaluate.tally import Tally
from interp.steering.extract.detection import roc_area
from interp.steering.steering import Steering
from interp.types import SiteLike


class HeldOutProbe:
    """Mean log odds that a prompt is positive, on negative prompts, by a probe of the unsteered model.

    The first half of either side fits the probe (mean over tokens at ``site``, by default the last residual
    stream), the other half judges it: ``auc``. Raises :class:`SteeringError` for fewer than four prompts a side.
    """

    measures = ("log odds",)
    along_texts = True

    def __init__(
        self,
        model: Model,
        positive: Sequence[str] | Sequence[Tensor],
        negative: Sequence[str] | Sequence[Tensor],
        site: SiteLike | None = None,
        batch_size: int = 32,
    ) -> None:
        if len(positive) < 4 or len(negative) < 4:
            raise SteeringError(
                f"a held-out probe takes at least 4 prompts a side; got {len(positive)} and {len(negative)}."
            )
        self.site = f"resid_post[{model.traits.n_layers - 1}]" if site is None else site
        self.batch_size = batch_size
        half = len(positive) // 2, len(negative) // 2
        rows = read_contrast(
            model, list(positive), list(negative), self.site, paired=False, batch_size=batch_size
        ).at(self.site)
        x = torch.cat([rows.positive[: half[0]], rows.negative[: half[1]]])
        answers = torch.arange(len(x)) < half[0]
        self.probe: Probe = fit_probe(x, answers, l2=1e-2, balanced=True)
        self.prompts = list(negative)[half[1] :]
        judged = [
            self.probe.score(side[n:]) for side, n in zip((rows.positive, rows.negative), half, strict=True)
        ]
        answers = torch.arange(sum(map(len, judged))) < len(judged[0])
        self.auc = float(roc_area(torch.cat(judged)[:, None], answers)[0])

    def read(self, model: Model, steering: Steering | None, strength: float) -> Mapping[str, Tally]:
        """Log odds of every negative prompt."""
        with acting(model, steering, strength):
            rows = read_contrast(
                model, self.prompts, self.prompts[:1], self.site, paired=False, batch_size=self.batch_size
            ).at(self.site)
        scores = self.probe.score(rows.positive)
        return {"log odds": Tally.of(scores, torch.ones(len(scores)))}
