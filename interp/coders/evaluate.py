"""Evaluate coders in their model: how well they rebuild it, and what it loses with them in place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.coders.fit import FitSums
from interp.coders.sources.prompts import LongPrompts, PromptBatch, PromptReader
from interp.coders.substitute import substitute
from interp.coders.wiring import Coders, Wiring, dtype_of, wire
from interp.errors import CoderError, unknown_name
from interp.models import interventions
from interp.models.capture import capture
from interp.models.intervene import intervene
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.agreement import Estimate
from interp.results.coder_evaluation import RUNS, CoderEvaluation
from interp.results.provenance import Provenance

AblationOfSites = Literal["mean", "zero"]
N_RESAMPLES = 2000
_AFTER_FIRST = "1:"


def evaluate_coder(
    model: Model,
    coders: Coders,
    data: Prompts,
    *,
    ablation: AblationOfSites = "mean",
    n_prompts: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    skip_first: bool = True,
    any_site: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> CoderEvaluation:
    """Evaluate coders, all of them in place at once, on prompts.

    ``coders`` are given as to :func:`interp.substitute`; ``data`` is a tensor of tokens [n, pos], a
    data set, texts, or a function that gives them anew. It is read twice, ``batch_size`` prompts at a
    time, ``n_prompts`` in all; nothing larger than a batch is kept. Fits are taken on the unchanged
    model's activations; losses with every coder's output in place and no error term, beside the
    unchanged model and one in which the same sites are ablated: replaced by their mean over the tokens
    evaluated, or by zeros. Intervals are over prompts drawn again with ``seed``.

    With ``skip_first`` the first token of every context, whose activations are outliers in most
    models, takes no part: it is not counted, and coder and ablation leave it alone. Padding never counts.

    Raises :class:`CoderError` for coders that do not fit the model, unknown options, and data in which no
    token is predicted.
    """
    if ablation not in get_args(AblationOfSites):
        raise CoderError(unknown_name("ablation", str(ablation), get_args(AblationOfSites)))
    if not 0 < confidence < 1:
        raise CoderError(f"confidence must lie between 0 and 1; got {confidence}.")
    if n_prompts is not None and n_prompts < 1:
        raise CoderError(f"n_prompts must be at least 1; got {n_prompts}.")
    started = time.perf_counter()
    wirings = wire(model, coders, any_site)
    reader = PromptReader(model, data, batch_size, context, long_prompts)
    run = _Evaluation(model, coders, wirings, skip_first, any_site)
    with torch.no_grad(), tqdm(unit="batch", desc="evaluate", disable=not progress) as bar:
        for batch in _batches(reader, n_prompts):
            run.fit(batch)
            bar.update()
        run.refuse_nothing()
        reader.restart()
        for batch in _batches(reader, n_prompts):
            run.score(batch, ablation)
            bar.update()
    return run.finish(ablation, confidence, seed, time.perf_counter() - started)


def _batches(reader: PromptReader, n_prompts: int | None) -> Iterator[PromptBatch]:
    """Batches until prompt number ``n_prompts``."""
    while (batch := reader.read()) is not None:
        if n_prompts is None:
            yield batch
            continue
        kept = batch.prompts < n_prompts
        if not bool(kept.any()):
            return
        mask = None if batch.mask is None else batch.mask[kept]
        yield PromptBatch(batch.tokens[kept], mask, batch.prompts[kept])


@dataclass
class _Losses:
    """Sums over the predicted tokens of one prompt."""

    n: int
    sums: Float[Tensor, " run"]


class _Evaluation:
    """Both passes over the data."""

    def __init__(
        self, model: Model, coders: Coders, wirings: Sequence[Wiring], skip_first: bool, any_site: bool
    ) -> None:
        self.model, self.coders, self.wirings = model, coders, wirings
        self.any_site = any_site
        self.first = int(skip_first)
        self.positions = _AFTER_FIRST if skip_first else None
        self.sums = {(i, j): FitSums() for i, w in enumerate(wirings) for j in range(len(w.writes))}
        self.losses: dict[int, _Losses] = {}

    def fit(self, batch: PromptBatch) -> None:
        """Add a batch's tokens to the fits."""
        real = self._real(batch)
        counted = real.clone()
        counted[:, : self.first] = False
        sites = list(dict.fromkeys(str(site) for w in self.wirings for site in (*w.reads, *w.writes)))
        cache = capture(self.model, batch.tokens, sites, attention_mask=batch.mask, unembed=False)
        rows = counted.to(self.model.device)
        for number, wiring in enumerate(self.wirings):
            inputs = [cache[site].flatten(2)[rows] for site in wiring.reads]
            inputs = [x.to(dtype_of(wiring.coder, x)) for x in inputs]
            for slot, (latents, out) in enumerate(_run_coder(wiring, inputs)):
                self.sums[number, slot].add(cache[wiring.writes[slot]].flatten(2)[rows], out, latents)

    def refuse_nothing(self) -> None:
        """Raise :class:`CoderError` where no token was counted."""
        if not any(sums.n for sums in self.sums.values()):
            raise CoderError(
                "the data has no token to evaluate; give prompts of at least three tokens (the first is skipped, and "
                "the last predicts nothing)."
            )

    def score(self, batch: PromptBatch, ablation: AblationOfSites) -> None:
        """Add a batch's losses with and without the coders."""
        tokens, real = batch.tokens.to(self.model.device), self._real(batch).to(self.model.device)
        predicts = real[:, :-1] & real[:, 1:]
        predicts[:, : self.first] = False
        if not bool(predicts.any()):
            return
        blocks: list[AbstractContextManager[Any]] = [
            nullcontext(),
            self._substituted(),
            self._ablated(ablation),
        ]
        clean: Tensor | None = None
        ce, kl = [], []
        for block in blocks:
            with block:
                logits = self.model(tokens, batch.mask)
            logs = logits[:, :-1].float().log_softmax(-1)
            ce.append(-logs.gather(2, tokens[:, 1:, None])[..., 0])
            if clean is None:
                clean = logs
            else:
                kl.append((clean.exp() * (clean - logs)).sum(-1))
        found = torch.stack([*ce, *kl], -1).double()
        found = torch.where(predicts[..., None], found, 0.0).sum(1).cpu()
        for prompt, n, sums in zip(batch.prompts.tolist(), predicts.sum(1).tolist(), found, strict=True):
            so_far = self.losses.get(prompt, _Losses(0, torch.zeros(len(RUNS), dtype=torch.float64)))
            self.losses[prompt] = _Losses(so_far.n + n, so_far.sums + sums)

    def _real(self, batch: PromptBatch) -> Bool[Tensor, "batch pos"]:
        return torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask.bool()

    def _substituted(self) -> AbstractContextManager[Model]:
        return substitute(
            self.model, self.coders, keep_error=False, positions=self.positions, any_site=self.any_site
        )

    def _ablated(self, ablation: AblationOfSites) -> AbstractContextManager[Model]:
        changes = []
        for number, wiring in enumerate(self.wirings):
            for slot, site in enumerate(wiring.writes):
                place = site if self.positions is None else f"{site}@{self.positions}"
                if ablation == "zero":
                    changes.append(interventions.zero(place))
                    continue
                mean = self.sums[number, slot].mean.to(self.model.dtype)
                heads = {"head": self.model.traits.n_heads, "kv_head": self.model.traits.n_kv_heads}
                axis = next((axis for axis in site.axes if axis in heads), None)
                mean = mean if axis is None else mean.unflatten(0, (heads[axis], -1))
                changes.append(interventions.mean(place, mean))
        return intervene(self.model, changes)

    def finish(
        self, ablation: AblationOfSites, confidence: float, seed: int, seconds: float
    ) -> CoderEvaluation:
        """The record."""
        counted = [losses for _, losses in sorted(self.losses.items()) if losses.n]
        if not counted:
            self.sums.clear()
            self.refuse_nothing()
        n = torch.tensor([losses.n for losses in counted])
        sums = torch.stack([losses.sums for losses in counted])
        means = dict(zip(RUNS, (sums / n[:, None]).float().unbind(1), strict=True))
        ce_recovered, kl_recovered = _recovered(sums.numpy(), confidence, seed)
        return CoderEvaluation(
            fits=tuple(self.sums[i, j].finish(self.wirings[i], j) for i, j in self.sums),
            n_predicted=n,
            **means,
            ce_recovered=ce_recovered,
            kl_recovered=kl_recovered,
            confidence=confidence,
            provenance=Provenance(
                model=self.model.name,
                family=self.model.traits.family,
                revision=self.model.revision,
                n_prompts=len(counted),
                seed=seed,
                ablation=ablation,
                device=str(self.model.device),
                dtype=str(self.model.dtype).removeprefix("torch."),
                seconds=seconds,
                notes=("the first token of every context takes no part",) * self.first,
            ),
        )


def _run_coder(wiring: Wiring, inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents and output of every target, from its rows of inputs."""
    coder = wiring.coder
    if not wiring.by_layer:
        latents = coder.encode(inputs[0])
        yield latents, coder.decode(latents, inputs[0])
        return
    found: dict[int, Tensor] = {}
    for slot, x in enumerate(inputs):
        found[slot] = coder.encode_layer(x, slot)
        yield found[slot], coder.decode_layer(found, slot)


def _recovered(
    sums: Float[np.ndarray, "prompt run"], confidence: float, seed: int
) -> tuple[Estimate, Estimate]:
    """CE and KL recovered, of sums over prompts, with percentile intervals over prompts drawn again."""
    draw = np.random.default_rng(seed)
    n = len(sums)
    counts = draw.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    tail = (1 - confidence) / 2
    found = []
    for value, resamples in zip(_shares(sums.sum(0)[None]), _shares(counts @ sums), strict=True):
        kept = resamples[np.isfinite(resamples)]
        low, high = np.quantile(kept, (tail, 1 - tail)) if len(kept) else (np.nan, np.nan)
        found.append(Estimate(float(value[0]), float(low), float(high)))
    return found[0], found[1]


def _shares(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clean, substituted, ablated, kl_substituted, kl_ablated = totals.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ce = (ablated - substituted) / (ablated - clean)
        kl = 1 - kl_substituted / kl_ablated
    return tuple(np.where(np.isfinite(share), share, np.nan) for share in (ce, kl))  # type: ignore[return-value]
