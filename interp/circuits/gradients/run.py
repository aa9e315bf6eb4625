"""All edges of a graph by gradients, some prompts at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.gradients.methods import EdgeMethod
from interp.circuits.gradients.setting import EdgeSetting
from interp.circuits.gradients.sums import EdgeEstimates, EdgeSums
from interp.circuits.graph import check_graph
from interp.errors import CircuitError, MetricError
from interp.models.model import Model
from interp.patching.budget import halve_on_out_of_memory, settle_budget
from interp.results import Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation, Direction


@torch.no_grad()
def score_edges_by_gradients(
    model: Model,
    task: PromptPairs,
    graph: Graph,
    method: EdgeMethod,
    metric: Metric,
    *,
    direction: Direction = "noise",
    ablation: Ablation = "source",
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    memory_budget: int,
    progress: bool = True,
) -> EdgeEstimates:
    """Estimate every edge of a graph by gradients, without running any of them.

    Prompts are taken in blocks that fit ``memory_budget``, halved when memory runs out; a metric of
    the whole batch takes all of them at once. Raises :class:`MetricError` for a metric without a
    gradient, :class:`PatchError` for options that do not fit, and :class:`CircuitError` for a graph of
    another model, for units of coders, and for what the method cannot do with this model.
    """
    memory_budget, said = settle_budget(memory_budget, model.device)
    check_graph(graph, model)
    latents = [units.layer for units in graph.units if units.kind == "latent"]
    if latents:
        raise CircuitError(
            f"gradients score heads, MLPs and neurons; MLP {latents[0]} of this graph has latents of a coder. Build "
            "the graph without latents."
        )
    if not metric.differentiable:
        raise MetricError(
            f"metric {metric.name!r} has no gradient; take logit_diff, prob_diff, probability, loss or kl, or use "
            "method='exact'."
        )
    task = task.to(model.device)
    setting = EdgeSetting(model, task, graph, method, metric, direction, ablation, reference, seed)
    n_prompts = len(task) if metric.whole_batch else setting.prompts_within(memory_budget)
    sums = EdgeSums(graph.n_edges, setting.dtype)
    with tqdm(total=len(task), desc=method.label, unit="prompt", disable=not progress) as bar:
        blocks = halve_on_out_of_memory(range(len(task)), n_prompts)
        for chosen in blocks:
            part = blocks.attempt(partial(setting.run, torch.tensor(chosen), memory_budget))
            if part is not None:
                sums.add(part)
                bar.update(len(chosen))
    found = sums.estimates(method, direction)
    return replace(found, notes=(*found.notes, *said))
