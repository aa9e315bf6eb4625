"""Whether relevance is conserved: its account at every cut of the residual stream."""

from __future__ import annotations

import re
import time
from collections import defaultdict

import torch
from torch import Tensor

from interp.errors import MetricError
from interp.models.model import Model
from interp.models.relevance import RelevanceRules, relevance_rules
from interp.models.relevance.rules import resolve_rules
from interp.patching.attribution.nodes import GradientRun, Node
from interp.patching.prepared import check_choice, make_provenance
from interp.patching.readout import Readout
from interp.patching.token_scores import RUNS, Run
from interp.results import Conservation
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric

_ATTENTION = {"q": 1, "k": 1, "v": 1, "z": -1}
"""What enters attention and what leaves it."""


def check_conservation(
    model: Model,
    task: PromptPairs,
    rules: str | RelevanceRules = "relp-ah",
    *,
    run: Run = "clean",
    metric: MetricLike | None = None,
) -> Conservation:
    """Account for relevance at every depth: does it add up to the output?

    At every cut of the residual stream, activation times coefficient summed over positions; what
    biases after the cut bring in; and what attention after it adds, where a pattern and the values
    it weighs both claim the output (nothing under the AH-rule). The three add up to the output
    within rounding for any rules that conserve; norms and activations left at their gradient open a
    gap, which is reported and not hidden. All prompts are run at once.

    Raises :class:`RuleError` for rules that do not fit the model and :class:`MetricError` for a
    metric without a gradient.
    """
    check_choice("run", run, RUNS)
    started = time.perf_counter()
    task = task.to(model.device)
    readout = Readout(task, resolve_metric(metric, task))
    if not readout.metric.differentiable:
        raise MetricError(f"metric {readout.metric.name!r} has no gradient; take logit_diff, loss or kl.")
    readout.take_reference(model)
    n_layers = model.traits.n_layers
    cuts: list[Node] = [*(("resid_pre", layer) for layer in range(n_layers)), ("resid_post", n_layers - 1)]
    inner = [(name, layer) for name in _ATTENTION for layer in range(n_layers)]
    found: dict[Node, float] = defaultdict(float)
    values: dict[Node, Tensor] = {}

    def take_gradient(node: Node, gradient: Tensor) -> None:
        found[node] = float((values[node].double() * gradient.double()).sum())

    tokens = task.clean if run == "clean" else task.corrupted
    prompts = torch.arange(len(task), device=model.device)
    biases = _biases(model)
    with relevance_rules(model, rules):
        forward = GradientRun(
            model,
            tokens,
            task.attention_mask,
            readout,
            prompts,
            (*cuts, *inner),
            values.__setitem__,
            take_gradient,
            parameters=biases.values(),
        )
    scores = forward.scores()
    at_logits, *at_biases = forward.backward(scores, [forward.picked, *biases.values()])
    assert at_logits is not None, "the metric has a gradient, and it reads the logits"
    output = float((at_logits * forward.picked).detach().double().sum())
    by_layer: dict[int, float] = defaultdict(float)
    for (name, bias), gradient in zip(biases.items(), at_biases, strict=True):
        if gradient is not None:
            by_layer[_layer_of(name, n_layers)] += float((bias.detach().double() * gradient.double()).sum())
    baselines = float(scores.detach().mean())
    n = len(task)
    relevance = [found[node] / n for node in cuts]
    after = [sum(x for layer, x in by_layer.items() if layer >= cut) / n for cut in range(n_layers + 1)]
    added = [sum(sign * found[name, layer] for name, sign in _ATTENTION.items()) for layer in range(n_layers)]
    attention = [sum(added[cut:]) / n for cut in range(n_layers + 1)]
    return Conservation(
        cuts=tuple(f"{name}[{layer}]" for name, layer in cuts),
        relevance=torch.tensor(relevance, dtype=torch.float64),
        biases=torch.tensor(after, dtype=torch.float64),
        attention=torch.tensor(attention, dtype=torch.float64),
        output=output / n,
        run=run,
        provenance=make_provenance(
            model,
            task,
            (baselines, float("nan")),
            started=started,
            metric=readout.metric.name,
            method=f"relevance:{resolve_rules(rules).name}",
            notes=(f"{run} prompts; the metric is {baselines:.4g}",),
        ),
    )


def _biases(model: Model) -> dict[str, Tensor]:
    """Every parameter that is added to what flows, by name."""
    used = {id(parameter) for parameter in model.parameters()}
    return {
        name: parameter
        for name, parameter in model.module.named_parameters()
        if id(parameter) in used and re.fullmatch(r"bias|b|_?b_\w+", name.rpartition(".")[2])
    }


def _layer_of(name: str, n_layers: int) -> int:
    """The layer that a parameter's name numbers; after the last for those of the final norm and unembedding."""
    found = re.search(r"\.(\d+)\.", name)
    return n_layers if found is None else int(found[1])
