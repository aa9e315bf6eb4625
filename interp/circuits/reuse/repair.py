"""Repairing a task's circuit: heads are made to attend as another task's circuit would.

Merullo, Eickhoff and Pavlick 2024, "Circuit Component Reuse Across Tasks in Transformer Language Models" (arXiv
2310.08744): in GPT-2 Medium the circuits of indirect objects and of coloured objects are mostly the same heads, but
on coloured objects some do not attend to the tokens that they would have to; made to, accuracy rises from
49.6 % to 93.7 %.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.reuse.attention import (
    HeadPlans,
    Plan,
    Target,
    attention_edits,
    place_at_random,
    place_plan,
    read_head,
    read_plans,
)
from interp.errors import CircuitError
from interp.models.capture import capture
from interp.models.intervene import intervene
from interp.models.model import Model
from interp.patching.agreement import N_RESAMPLES, check_confidence, estimate_from
from interp.patching.prepared import make_provenance
from interp.patching.readout import Readout
from interp.results import Estimate, Provenance, Repair
from interp.results.repair import AttentionMove
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric, MetricLike, resolve_metric
from interp.types import Site


@torch.no_grad()
def measure_attention(
    model: Model,
    task: PromptPairs,
    heads: Iterable[str],
    *,
    dest: str = "END",
    rename: Mapping[str, str] | None = None,
    batch_size: int = 32,
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean attention of heads from one labelled token to all labelled ones, on a task's clean prompts.

    The answer is what :func:`repair_attention` takes, to make the heads attend in another task as they do in this
    one. ``rename`` says which label of that task plays the part of each label here, and leaves out all labels
    that it does not name; two that become one are added up. Without it labels keep their names.

    Example::

        as_in_ioi = interp.measure_attention(model, ioi, ["L2H1"], rename={"S2": "WRONG_COLOR", "IO": "COLOR"})
        interp.repair_attention(model, coloured_objects, as_in_ioi)

    Raises :class:`CircuitError` for heads the model has not and for two labels on one token, and
    :class:`TaskError` for labels the task has not.
    """
    names = {label: label for label in [*task.labels, "END"]} if rename is None else dict(rename)
    wanted = [read_head(head, model) for head in heads]
    columns = {label: task.columns_of(label) for label in names}
    for label, where in columns.items():
        for other, there in columns.items():
            if label < other and bool((where == there).any()):
                row = int((where == there).int().argmax())
                raise CircuitError(
                    f"labels {label!r} and {other!r} are one token of prompt {row}, whose attention would count twice; "
                    "say which to take with rename."
                )
    sums = dict.fromkeys(((head, label) for head in wanted for label in names), 0.0)
    for rows in torch.arange(len(task)).split(batch_size):
        part = task.select(rows.tolist()).to(model.device)
        sites = [Site("pattern", layer, head) for layer, head in dict.fromkeys(wanted)]
        cache = capture(model, part.clean, sites, attention_mask=part.attention_mask)
        here = torch.arange(len(part), device=model.device)
        for (layer, head), label in sums:
            pattern = cache[Site("pattern", layer, head)][here, part.columns_of(dest), part.columns_of(label)]
            sums[(layer, head), label] += float(pattern.double().sum())
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (layer, head), label in sums:
        shares = found.setdefault(f"L{layer}H{head}", {dest: {}})[dest]
        shares[names[label]] = shares.get(names[label], 0.0) + sums[(layer, head), label] / len(task)
    return found


@torch.no_grad()
def repair_attention(
    model: Model,
    task: PromptPairs,
    heads: HeadPlans,
    *,
    weight: float = 1.0,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    n_random: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> Repair:
    """Make heads attend from labelled tokens to others, and measure the task before and after.

    ``heads`` says of each head what it looks at from where: ``{"L2H1": {"END": "S2"}}``; several labels share
    ``weight`` alike (``["WRONG1", "WRONG2"]``), or have shares of their own (``{"S2": 0.7, "IO": 0.1}``, as
    :func:`measure_attention` measures them on another task). What is not named keeps its proportions within
    what is left. Everything else is computed as ever, so later heads see what the repaired ones now write.

    ``metrics`` are by default the task's own and the accuracy (an answer above every other token), on the
    clean prompts. Two controls are drawn ``n_random`` times each: the same attention given to as many other heads,
    and the same heads' attention sent, with the same weights, to other tokens of each prompt. A repair that
    does what it is meant to does better than both. What it can't show: labels that are placed by the answer
    (``WRONG_COLOR``) tell the heads what the model did not find out; a repair shows that the rest of the circuit
    would make use of it.

    Example::

        interp.repair_attention(model, task, {"L2H1": {"END": "S2"}}).summary()

    Raises :class:`CircuitError` for heads and shares that do not fit, for a token that would look at a later
    one and where there are not enough other heads to draw, :class:`TaskError` for labels the task has not, and
    :class:`SiteError` for a model whose attention patterns cannot be edited.
    """
    started = time.perf_counter()
    check_confidence(confidence)
    if n_random < 0 or not 0 <= weight <= 1:
        raise CircuitError(f"n_random is at least 0 and weight lies in 0..1; got {n_random} and {weight}.")
    plans = read_plans(heads, model, weight)
    task = task.to(model.device)
    targets = [place_plan(plan, task) for plan in plans]
    _check_destinations(targets)
    runs = _Runs(model, task, _resolve(metrics, task), batch_size)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    conditions: list[list[Target]] = [[], targets]
    conditions += [
        [place_plan(plan, task) for plan in _other_heads(plans, model, rng)] for _ in range(n_random)
    ]
    for _ in range(n_random):
        conditions.append([place_at_random(target, task.mask, generator) for target in targets])
    found = torch.stack(
        [runs.score(one) for one in tqdm(conditions, desc="repair", unit="run", disable=not progress)], dim=1
    )
    before, after = found[:, 0], found[:, 1]
    gains = tuple(_estimate(change, confidence, seed) for change in after - before)
    return Repair(
        moves=_moves(model, task, plans, batch_size),
        metrics=tuple(metric.name for metric in runs.metrics),
        higher_is_clean=tuple(metric.higher_is_clean for metric in runs.metrics),
        before=before,
        after=after,
        random_heads=found[:, 2 : 2 + n_random],
        random_tokens=found[:, 2 + n_random :],
        gains=gains,
        confidence=confidence,
        provenance=_provenance(model, task, runs, started, seed),
    )


def _resolve(metrics: MetricLike | Sequence[MetricLike] | None, task: PromptPairs) -> list[Metric]:
    if metrics is None:
        listed: list[MetricLike | None] = [None, "accuracy"]
    else:
        listed = (
            list(metrics) if isinstance(metrics, Sequence) and not isinstance(metrics, str) else [metrics]
        )
    found = {metric.name: metric for metric in (resolve_metric(one, task) for one in listed)}
    if not found:
        raise CircuitError("give at least one metric, or leave metrics out.")
    return list(found.values())


def _check_destinations(targets: Sequence[Target]) -> None:
    """Two plans of one head must not be about one token."""
    for i, one in enumerate(targets):
        for other in targets[:i]:
            same = (one.plan.name == other.plan.name) & (one.dest == other.dest)
            if bool(same.any()):
                raise CircuitError(
                    f"{one.plan.dest} and {other.plan.dest} are one token of prompt {int(same.int().argmax())}, and "
                    f"{one.plan.name} cannot look at two things from there; leave one of them out."
                )


def _other_heads(plans: Sequence[Plan], model: Model, rng: np.random.Generator) -> list[Plan]:
    """The same plans for other heads, each head replaced by one of its own."""
    repaired = list(dict.fromkeys((plan.layer, plan.head) for plan in plans))
    every = [(layer, head) for layer in range(model.traits.n_layers) for head in range(model.traits.n_heads)]
    others = [head for head in every if head not in repaired]
    if len(others) < len(repaired):
        raise CircuitError(
            f"{len(repaired)} heads are repaired and only {len(others)} others are there to compare with; repair "
            "fewer, or draw no control (n_random=0)."
        )
    drawn = rng.permutation(len(others))[: len(repaired)]
    instead = {head: others[int(i)] for head, i in zip(repaired, drawn, strict=True)}
    return [plan.moved(*instead[plan.layer, plan.head]) for plan in plans]


class _Runs:
    """The clean prompts of a task, run with heads' attention set, and all metrics read from one forward."""

    def __init__(self, model: Model, task: PromptPairs, metrics: Sequence[Metric], batch_size: int) -> None:
        self.model, self.task, self.metrics = model, task, metrics
        self._readouts = [Readout(task, metric) for metric in metrics]
        for readout in self._readouts:
            readout.take_reference(model)
        self._columns = torch.unique(torch.cat([readout.columns for readout in self._readouts]))
        self._batches = torch.arange(len(task)).split(batch_size)

    def score(self, targets: Sequence[Target]) -> Float[Tensor, "metric prompt"]:
        """Every metric of every prompt."""
        picked: list[list[Tensor]] = [[] for _ in self._readouts]
        for rows in self._batches:
            logits = self._run(rows, targets)
            for readout, parts in zip(self._readouts, picked, strict=True):
                kept = torch.searchsorted(self._columns, readout.columns).to(logits.device)
                parts.append(readout.pick(logits[:, kept], rows.to(logits.device)))
        everyone = torch.arange(len(self.task), device=self.model.device)
        pairs = zip(self._readouts, picked, strict=True)
        return torch.stack(
            [readout.score_picked(torch.cat(p), everyone).float() for readout, p in pairs]
        ).cpu()

    def _run(self, rows: Tensor, targets: Sequence[Target]) -> Float[Tensor, "row kept d_vocab"]:
        mask = self.task.attention_mask
        here = rows.to(self.model.device)
        edits = attention_edits(targets, rows)
        with intervene(self.model, edits) if edits else nullcontext():
            return self.model(
                self.task.clean[here], None if mask is None else mask[here], keep_columns=self._columns
            )


def _moves(
    model: Model, task: PromptPairs, plans: Sequence[Plan], batch_size: int
) -> tuple[AttentionMove, ...]:
    moves = []
    for plan in plans:
        labels = {label: label for label in plan.weights}
        for label in labels:
            found = measure_attention(
                model, task, [plan.name], dest=plan.dest, rename={label: label}, batch_size=batch_size
            )
            before = found[plan.name][plan.dest][label]
            moves.append(AttentionMove(plan.name, plan.dest, label, before, plan.weights[label]))
    return tuple(moves)


def _estimate(change: Float[Tensor, " prompt"], confidence: float, seed: int) -> Estimate:
    values = change.double().numpy()
    picked = np.random.default_rng(seed).integers(0, len(values), (N_RESAMPLES, len(values)))
    return estimate_from(values.mean(), values[picked].mean(1), confidence)


def _provenance(model: Model, task: PromptPairs, runs: _Runs, started: float, seed: int) -> Provenance:
    named = runs.metrics[0].name if len(runs.metrics) == 1 else None
    # a repair has no corrupted run, so nothing is said of baselines
    made = make_provenance(model, task, (1.0, 0.0), started=started, metric=named, method="repair")
    return replace(
        made, seed=seed if made.seed is None else made.seed, notes=(f"controls drawn with seed {seed}",)
    )
