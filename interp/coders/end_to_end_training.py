"""One end-to-end fine-tuning: the model with its coder in place, a batch of prompts at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.in_place import CoderInPlace, put_in_place
from interp.coders.substitute import substitute
from interp.coders.train.config import TrainingConfig
from interp.coders.train.optimizers import make_optimizer
from interp.coders.train.start import find_scales
from interp.coders.wiring import Wiring
from interp.errors import CoderError
from interp.models.capture import capture
from interp.models.model import Model
from interp.results.coder_history import CoderLog
from interp.results.provenance import Provenance

EndToEndLoss = Literal["kl", "ce"]
"""``kl``: KL divergence of the model from itself with the coder; ``ce``: cross-entropy of the next token."""

_NAME = "coder"
_WARMUP = 20
_LOG_EVERY = 10


@dataclass(frozen=True)
class CleanRun:
    """What the unchanged model does on a batch."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"] | None
    counted: Bool[Tensor, "batch pos"]
    """Tokens that the coder is applied to."""
    predicts: Bool[Tensor, "batch pos"]
    """Those of them whose prediction is scored."""
    logs: Float[Tensor, "batch pos d_vocab"]
    inputs: list[Float[Tensor, "row d_in"]]
    targets: list[Float[Tensor, "row d_out"]]


class EndToEndTraining:
    """One fine-tuning, a batch at a time."""

    def __init__(
        self,
        model: Model,
        wiring: Wiring,
        loss: EndToEndLoss,
        mse_weight: float | str,
        sparsity: float,
        rate: float,
        planned: int | None,
        skip_first: bool,
    ) -> None:
        self.model, self.wiring, self.loss = model, wiring, loss
        self.mse_weight, self.sparsity, self.rate, self.planned = mse_weight, sparsity, rate, planned
        self.first = int(skip_first)
        self.coder = deepcopy(wiring.coder).train().requires_grad_(True)
        self.placed: CoderInPlace | None = None
        self.optimizer = make_optimizer(self.coder.parameters(), TrainingConfig(), rate)
        self.tokens, self.steps = 0, 0
        self.log = CoderLog([_NAME])
        self.window: dict[str, float] = defaultdict(float)
        self.shown: dict[str, str] = {}

    def read_once(self, batches: Iterator[tuple[Tensor, Tensor | None]], bar: Any) -> bool:
        """Train on every batch; returns whether the data must be read again."""
        before = self.tokens
        for prompts, mask in batches:
            bar.update(self.step(prompts, mask))
            bar.set_postfix(self.shown)
            if self.planned is not None and self.tokens >= self.planned:
                return False
        return self.planned is not None and self.tokens > before

    def step(self, tokens: Tensor, mask: Tensor | None) -> int:
        """One step; returns the tokens that the coder was applied to."""
        clean = self.run_clean(tokens, mask)
        n = int(clean.counted.sum())
        if not bool(clean.predicts.any()):
            return 0
        self.start(clean)
        total, figures = self.losses(clean)
        if not bool(torch.isfinite(total)):
            raise FloatingPointError(
                f"the loss of step {self.steps} is {float(total.detach())}; the learning rate may be too high."
            )
        parameters = list(self.coder.parameters())
        # into the coder only: a model whose weights ask for gradients gets none
        for parameter, grad in zip(
            parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True
        ):
            parameter.grad = grad
        rate = self._move()
        self.tokens += n
        self.steps += 1
        self._note(figures | {"learning_rate": rate})
        return n

    @torch.no_grad()
    def run_clean(self, tokens: Tensor, mask: Tensor | None) -> CleanRun:
        """The unchanged model on a batch."""
        reads, writes = self.wiring.reads, self.wiring.writes
        cache = capture(
            self.model, tokens, [str(s) for s in dict.fromkeys((*reads, *writes))], attention_mask=mask
        )
        tokens = tokens.to(self.model.device)
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(tokens.device).bool()
        counted = real.clone()
        counted[:, : self.first] = False
        predicts = counted.clone()
        predicts[:, -1] = False
        predicts[:, :-1] &= real[:, 1:]
        assert cache.logits is not None
        rows = [[cache[s].flatten(2)[counted].float() for s in sites] for sites in (reads, writes)]
        return CleanRun(tokens, mask, counted, predicts, cache.logits.float().log_softmax(-1), *rows)

    def start(self, clean: CleanRun) -> None:
        """Bring the coder into training units, found from the first batch, in which the learning rate means what
        it means in training; once."""
        if self.placed is not None:
            return
        x = torch.stack(clean.inputs, 1)
        target = x if self.wiring.reads == self.wiring.writes else torch.stack(clean.targets, 1)
        scales = find_scales(CoderBatch(x, target), TrainingConfig())
        self.placed = put_in_place(self.coder, scales)

    def losses(self, clean: CleanRun) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The loss with its graph, and the figures of this batch."""
        assert self.placed is not None
        placed = self.placed
        placed.begin(clean.counted)
        sites = placed if self.wiring.by_layer else {self.wiring.writes[0]: placed}
        positions = "1:" if self.first else None
        with substitute(self.model, sites, keep_error=False, positions=positions, any_site=True):
            logits = self.model(clean.tokens, clean.mask)
        logs = logits.float().log_softmax(-1)[clean.predicts]
        before = clean.logs[clean.predicts]
        following = clean.tokens.roll(-1, 1)[clean.predicts]
        kl = (before.exp() * (before - logs)).sum(-1).mean()
        ce = -logs.gather(1, following[:, None]).mean()
        fvu = self._unexplained(clean)
        main = kl if self.loss == "kl" else ce
        weight = (
            (main / fvu.clamp(min=1e-9)).detach() if self.mse_weight == "balanced" else float(self.mse_weight)
        )
        total = main + weight * fvu
        penalty = placed.penalty() if self.sparsity else None
        if penalty is not None:
            total = total + self.sparsity * penalty
        figures = {"loss": total, "kl": kl, "ce": ce, "fvu": fvu}
        l0 = placed.count_active() / int(clean.counted.sum())
        return total, {name: float(value.detach()) for name, value in figures.items()} | {"l0": l0}

    def _unexplained(self, clean: CleanRun) -> Float[Tensor, ""]:
        assert self.placed is not None
        targets = torch.stack(clean.targets, 1) * self.placed.scales.outputs
        outputs = torch.stack([self.placed.outputs[slot] for slot in range(len(clean.targets))], 1)
        spread = (targets - targets.mean(0)).square().sum()
        return (targets - outputs).square().sum() / spread.clamp(min=torch.finfo(spread.dtype).tiny)

    def _move(self) -> float:
        unit = self.coder.config.unit_decoder
        if unit:
            self.coder.project_gradients()
        torch.nn.utils.clip_grad_norm_(self.coder.parameters(), 1.0)
        left = 1.0 if self.planned is None else max(0.0, 1 - self.tokens / self.planned)
        rate = self.rate * min(1.0, (self.steps + 1) / _WARMUP) * left
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if unit:
            self.coder.normalise_decoder()
        return rate

    def _note(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.window[name] += value
        self.window["steps"] += 1
        if self.steps == 1 or self.steps % _LOG_EVERY == 0:
            self._log()

    def _log(self) -> None:
        n = self.window.pop("steps")
        row = {name: value / n for name, value in self.window.items()}
        self.window.clear()
        self.log.append(self.tokens, {_NAME: row})
        self.shown = {name: f"{row[name]:.4g}" for name in ("kl", "fvu", "l0")}

    def finish(self, before: Coder, settings: dict[str, Any]) -> Coder:
        """The coder, in units of the model's activations."""
        if self.placed is None:
            raise CoderError(
                "the data has no token to learn from; give prompts of at least three tokens (the first is skipped, and "
                "the last predicts nothing)."
            )
        if self.window:
            self._log()
        coder = self.coder
        coder.scale_units(self.placed.scales.inputs, self.placed.scales.outputs)
        coder.eval()
        history = self.log.record(
            Provenance(
                model=self.model.name,
                family=self.model.traits.family,
                revision=self.model.revision,
                method=f"end-to-end fine-tuning of {before.config.architecture}",
                seed=settings["seed"],
                device=str(self.model.device),
            )
        )
        coder.history = history
        figures = history.last(_NAME)
        coder.metadata = {
            **deepcopy(before.metadata),
            "finetuning": settings | {"tokens": self.tokens, "figures": figures},
        }
        return coder
