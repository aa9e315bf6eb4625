"""End-to-end fine-tuning: a coder learns from what its model loses when it stands in for an activation.

Karvonen 2025, "Revisiting End-To-End Sparse Autoencoder Training: A Short Finetune Is All You Need",
arXiv 2503.17272: after ordinary training, a short one on KL divergence and reconstruction error, the two
brought to one size at every step. Braun et al. 2024, "Identifying Functionally Important Features with
End-to-End Sparse Dictionary Learning", arXiv 2405.12241, train on the KL divergence from the start.

What it does not do: nested losses of matryoshka coders, revival of dead latents, and firing by gradients
(a gradient coder is tuned as it is used, by its largest activations).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.in_place import CoderInPlace, put_in_place
from interp.coders.sources.prompts import LongPrompts, PromptReader
from interp.coders.sources.text_digest import describe_data
from interp.coders.substitute import substitute
from interp.coders.train.config import TrainingConfig
from interp.coders.train.optimizers import make_optimizer
from interp.coders.train.start import Scales, find_scales
from interp.coders.wiring import Wiring, wire
from interp.errors import CoderError, unknown_name
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.text_data import Prompts, pad_prompts
from interp.results.coder_history import CoderLog
from interp.results.provenance import Provenance
from interp.types import SiteLike

EndToEndLoss = Literal["kl", "ce"]
"""``kl``: KL divergence of the model from itself with the coder; ``ce``: cross-entropy of the next token."""

_NAME = "coder"
_POOL = 64
"""Batches among which prompts are shuffled."""
_WARMUP = 20
_LOG_EVERY = 10


def finetune_coder(
    model: Model,
    coder: Coder,
    data: Prompts,
    *,
    loss: EndToEndLoss = "kl",
    mse_weight: float | Literal["balanced"] = "balanced",
    sparsity: float | None = None,
    tokens: int | None = None,
    learning_rate: float | None = None,
    batch_size: int = 16,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    skip_first: bool = True,
    site: SiteLike | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Coder:
    """Train a trained coder further on what ``model`` predicts with the coder's output in place of the activation.

    The coder stands at its own site, or at ``site``: an autoencoder, a transcoder, one of concatenated heads
    (``z``), or a cross-layer transcoder at all of its sites. The loss, in nats a predicted token, is
    ``loss + mse_weight * FVU + sparsity * penalty``: FVU is the squared error as a share of the variance of the
    unchanged model's activations, and with ``"balanced"`` has at every step the weight that makes it as large as
    ``loss``. ``sparsity`` is needed by kinds without a k (standard, gated, jumprelu, discrete): without a penalty
    nothing would keep them sparse. The model is frozen.

    ``data`` is what :func:`interp.evaluate_coder` takes, ``batch_size`` prompts a step, shuffled by ``seed``. It is
    read once, or as often as ``tokens`` (that the coder is applied to) asks for; then the learning rate falls
    linearly to 0. By default it is half that of training, in the same units: activations are scaled to a mean
    norm of ``sqrt(d)`` while it lasts. First tokens and padding take no part, as in :func:`interp.evaluate_coder`.

    Returns a new coder; ``coder`` stays as it is. ``history`` has ``loss``, ``kl``, ``ce``, ``fvu``, ``l0`` over
    tokens, the first row from before the first step; ``metadata["finetuning"]`` says how it was made.

    Raises :class:`CoderError` for a coder that does not fit the model, options out of range, and data without a
    predicted token; :class:`FloatingPointError` for a loss that is not finite.

    Example::

        tuned = interp.finetune_coder(model, coder, dataset, tokens=200_000)
    """
    _check(coder, loss, mse_weight, sparsity, tokens, learning_rate, batch_size)
    own = coder if site is None else {site: coder}
    (wiring,) = wire(model, own)
    reader = PromptReader(model, data, 1, context, long_prompts)
    rate = learning_rate if learning_rate is not None else TrainingConfig().rate_for(coder.d_sae) / 2
    settings = {
        "loss": loss,
        "mse_weight": mse_weight,
        "sparsity": sparsity,
        "learning_rate": rate,
        "batch_size": batch_size,
        "seed": seed,
        "model": model.name,
        "data": describe_data(data),
    }
    run = _Tuning(model, wiring, loss, mse_weight, sparsity or 0.0, rate, tokens, skip_first)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), tqdm(total=tokens, unit="tok", desc="fine-tune", disable=not progress) as bar:
        while run.read_once(_shuffled(reader, batch_size, generator), bar):
            reader.restart()
    return run.finish(coder, settings)


def _check(
    coder: Coder,
    loss: str,
    mse_weight: float | str,
    sparsity: float | None,
    tokens: int | None,
    learning_rate: float | None,
    batch_size: int,
) -> None:
    if not isinstance(coder, Coder):
        raise CoderError(f"finetune_coder takes a trained interp.Coder; got {type(coder).__name__}.")
    if loss not in get_args(EndToEndLoss):
        raise CoderError(unknown_name("end-to-end loss", str(loss), get_args(EndToEndLoss)))
    if isinstance(mse_weight, str) and mse_weight != "balanced":
        raise CoderError(f"mse_weight is a number from 0 on, or 'balanced'; got {mse_weight!r}.")
    numbers = {"mse_weight": mse_weight, "sparsity": sparsity, "learning_rate": learning_rate}
    for name, value in numbers.items():
        if value is None or isinstance(value, str):
            continue
        if not math.isfinite(value) or value < 0 or (name == "learning_rate" and value == 0):
            raise CoderError(f"{name} must be a finite number, not negative; got {value!r}.")
    for name, count in (("tokens", tokens), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise CoderError(f"{name} must be at least 1; got {count}.")
    kind = coder.config.firing
    if coder.encoder_list[0].default_sparsity is None:
        if sparsity is not None:
            raise CoderError(f"a {kind} coder has no sparsity penalty; its k says how sparse it is.")
    elif sparsity is None:
        raise CoderError(
            f"a {kind} coder has no k, so nothing would keep it sparse: give sparsity=..., the weight of its penalty "
            "beside a loss in nats (0.0 for none)."
        )


def _shuffled(
    reader: PromptReader, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]]:
    """Batches of contexts, shuffled within pools, once through the data."""
    pool: list[Tensor] = []
    while True:
        found = reader.read()
        pool += [] if found is None else [found.tokens[0]]
        if found is None or len(pool) == _POOL * batch_size:
            order = torch.randperm(len(pool), generator=generator).tolist()
            for start in range(0, len(pool), batch_size):
                yield pad_prompts([pool[i] for i in order[start : start + batch_size]])
            pool = []
        if found is None:
            return


@dataclass(frozen=True)
class _Clean:
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


class _Tuning:
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
        clean = self._run_clean(tokens, mask)
        n = int(clean.counted.sum())
        if not bool(clean.predicts.any()):
            return 0
        if self.placed is None:
            self.placed = put_in_place(self.coder, self._scales(clean))
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
    def _run_clean(self, tokens: Tensor, mask: Tensor | None) -> _Clean:
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
        return _Clean(tokens, mask, counted, predicts, cache.logits.float().log_softmax(-1), *rows)

    def _scales(self, clean: _Clean) -> Scales:
        """Those of the first batch, with which the learning rate means what it means in training."""
        x = torch.stack(clean.inputs, 1)
        target = x if self.wiring.reads == self.wiring.writes else torch.stack(clean.targets, 1)
        return find_scales(CoderBatch(x, target), TrainingConfig())

    def losses(self, clean: _Clean) -> tuple[Float[Tensor, ""], dict[str, float]]:
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

    def _unexplained(self, clean: _Clean) -> Float[Tensor, ""]:
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
