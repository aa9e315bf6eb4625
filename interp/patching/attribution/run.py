"""All cells of all sweeps by gradients, some prompts at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import MetricError
from interp.models.model import Model
from interp.patching.attribution.block import Block, Found
from interp.patching.attribution.first_order import run_first_order
from interp.patching.attribution.integrated import run_along_activations, run_along_inputs
from interp.patching.attribution.methods import (
    Attribution,
    AttributionStar,
    IntegratedGradients,
    Method,
    Relevance,
    rule_summary,
)
from interp.patching.attribution.nodes import Node
from interp.patching.attribution.source import Source
from interp.patching.attribution.star import FIXED, run_star
from interp.patching.budget import (
    bytes_of_changes,
    bytes_of_softmax_fix,
    bytes_under_autograd,
    halve_on_out_of_memory,
    settle_budget,
)
from interp.patching.cells import Sweep
from interp.patching.readout import Readout
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation, Direction

WITHIN = "restricted to a subspace: "
"""Begins the note that names such sites, whose spelling does not tell."""


@dataclass(frozen=True)
class Attributed:
    """Estimates of one call."""

    scores: tuple[Float[Tensor, "_cell prompt"], ...]
    """Of each sweep's cells: the metric of every prompt as it is estimated to be after patching."""
    magnitudes: tuple[Float[Tensor, "... prompt"], ...] | None
    """Of AtP*: GradDrop's mean size of the effect, in units of the metric."""
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    notes: tuple[str, ...]
    gaps: dict[str, float]
    """Of integrated gradients: sum of scores less true difference at every cut."""


def attribute(
    model: Model,
    task: PromptPairs,
    sweeps: Sequence[Sweep],
    method: Method,
    metric: Metric,
    *,
    direction: Direction,
    ablation: Ablation = "source",
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int,
    progress: bool = True,
) -> Attributed:
    """Estimate every cell of every sweep by gradients, without running any of them.

    Prompts are taken in blocks that fit ``memory_budget``, halved when memory runs out; a metric of
    the whole batch takes all of them at once. Raises :class:`MetricError` for a metric without a
    gradient and :class:`PatchError` for options that do not fit.
    """
    memory_budget, said = settle_budget(memory_budget, model.device)
    if not metric.differentiable:
        raise MetricError(
            f"metric {metric.name!r} has no gradient; take logit_diff, prob_diff, probability, loss or kl, or use "
            "method='exact'."
        )
    task = task.to(model.device)
    nodes = {(sweep.site.activation, layer) for sweep in sweeps for layer in sweep.layers}
    if isinstance(method, IntegratedGradients) and method.over == "inputs":
        nodes.add(("embed", 0))
    source = Source(model, task, nodes, direction, ablation, reference, seed)
    a_row = bytes_under_autograd(model, task.clean.shape[1], len(Readout(task, metric).columns))
    a_prompt = _bytes_beside_a_row(model, task, sweeps, nodes, method)
    n_prompts = max(1, memory_budget // (a_row + a_prompt))
    base = task.corrupted if direction == "denoise" else task.clean
    parts: list[Found] = []

    def run_block(chosen: Tensor) -> Found:
        rows = (memory_budget - len(chosen) * a_prompt) // a_row
        # the other methods look at whole patterns, or at runs that are altered from the first column on
        first = source.first_change(chosen, base) if isinstance(method, Attribution | Relevance) else 0
        return _run(Block(model, task, sweeps, source, metric, direction, chosen, first), method, rows)

    with tqdm(total=len(task), desc=method.label, unit="prompt", disable=not progress) as bar:
        blocks = halve_on_out_of_memory(range(len(task)), len(task) if metric.whole_batch else n_prompts)
        for chosen in blocks:
            found = blocks.attempt(partial(run_block, torch.tensor(chosen)))
            if found is not None:
                parts.append(found)
                bar.update(len(chosen))
    joined = _join(parts, sweeps, method, direction)
    return replace(joined, notes=(*joined.notes, *said))


def _bytes_beside_a_row(
    model: Model, task: PromptPairs, sweeps: Sequence[Sweep], nodes: Collection[Node], method: Method
) -> int:
    """What a prompt holds beside its forward: changes, scores, and attention that is computed again."""
    n_pos = task.clean.shape[1]
    cells = sum(math.prod((len(s.layers), len(s.heads), len(s.neurons), len(s.wheres))) for s in sweeps)
    held = bytes_of_changes(model, nodes, n_pos)
    if not isinstance(method, AttributionStar):
        return held + 4 * cells
    fixed = {layer for name, layer in nodes if name in FIXED} if method.qk_fix else ()
    return held + 12 * cells + len(fixed) * bytes_of_softmax_fix(model, n_pos)


def _run(block: Block, method: Method, rows: int) -> Found:
    if isinstance(method, AttributionStar):
        return run_star(block, method)
    if isinstance(method, IntegratedGradients):
        run = run_along_inputs if method.over == "inputs" else run_along_activations
        return run(block, method, rows)
    return run_first_order(block, method.rules if isinstance(method, Relevance) else None)


def _join(
    parts: Sequence[Found], sweeps: Sequence[Sweep], method: Method, direction: Direction
) -> Attributed:
    base = torch.cat([part.base for part in parts])
    source = torch.cat([part.source for part in parts])
    effects = [torch.cat(part, -1) for part in zip(*(part.effects for part in parts), strict=True)]
    scores = tuple((effect + base.to(effect)).flatten(0, -2).cpu() for effect in effects)
    magnitudes = None
    if parts[0].magnitudes is not None:
        joined = [
            torch.cat(part, -1) for part in zip(*(part.magnitudes or [] for part in parts), strict=True)
        ]
        magnitudes = tuple(m.view(*s.shape, -1).cpu() for m, s in zip(joined, sweeps, strict=True))
    clean, corrupted = (source, base) if direction == "denoise" else (base, source)
    within = [str(sweep.site) for sweep in sweeps if sweep.site.subspace is not None]
    notes = (*([WITHIN + ", ".join(within)] if within else []), *_notes(parts, method))
    gaps = {cut: summed - true for cut, (summed, true) in _totals(parts).items()}
    return Attributed(scores, magnitudes, clean.cpu(), corrupted.cpu(), notes, gaps)


def _notes(parts: Sequence[Found], method: Method) -> tuple[str, ...]:
    if isinstance(method, Attribution | Relevance):
        passes = "two forward passes and one backward pass"
        return (
            (f"{passes} under {rule_summary(method.rules)}",) if isinstance(method, Relevance) else (passes,)
        )
    if isinstance(method, AttributionStar):
        fixed = "softmax recomputed at q, k and attn_scores" if method.qk_fix else "no QK fix"
        dropped = "magnitudes by GradDrop" if method.grad_drop else "no GradDrop"
        return (f"{fixed}; {dropped}",)
    totals = _totals(parts)
    name, (summed, true) = max(totals.items(), key=lambda item: abs(item[1][0] - item[1][1]))
    most = "" if len(totals) == 1 else f", the widest of {len(totals)}"
    return (
        f"completeness: scores over {name} add up to {summed:+.4g} and the metric moves by {true:+.4g}, a gap of "
        f"{summed - true:+.2g}{most} ({method.steps} {method.quadrature} step{'s' * (method.steps > 1)})",
    )


def _totals(parts: Sequence[Found]) -> dict[str, tuple[float, float]]:
    """Sum of scores and true difference at every cut, averaged over prompts."""
    found: dict[str, tuple[float, float]] = {}
    for cut in zip(*(part.gaps for part in parts), strict=True):
        name, times = cut[0].cut, sum(key.split(" ")[0] == cut[0].cut for key in found)
        summed, true = (
            torch.cat([getattr(gap, side) for gap in cut]).double().mean() for side in ("summed", "true")
        )
        found[f"{name} ({times + 1})" if times else name] = (float(summed), float(true))
    return found
