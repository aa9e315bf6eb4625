"""ACDC: taking edges out one after another, from the logits down, as long as the metric barely changes.

Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability" (arXiv
2304.14997), algorithm 1. What it can't show: which of two edges that back each other up is taken out
depends on the order, and a small tau keeps what matters to noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.runs import CircuitRuns, prepare_circuits
from interp.circuits.search_folder import SearchFolder, describe_search
from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import Circuit, Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation

_MOST_AHEAD = 64
"""Edges tried at once at most."""
_ROUNDING = 1e-5
"""Gaps this small beside the metric are none."""


def search_acdc(
    model: Model,
    task: PromptPairs,
    graph: Graph | None = None,
    *,
    taus: float | Iterable[float] = (0.001, 0.003, 0.01, 0.03, 0.1),
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[Circuit, ...]:
    """One circuit for every ``tau``, found by taking out edges in turn.

    Beginning with the whole graph, readers are visited from the logits down and the edges into each from its
    latest writer to its first. An edge is taken out (it carries the ablated value from then on) if that
    changes the metric, averaged over prompts, by less than ``tau``, a share of the gap between the clean and
    the ablated run. Ways of the paper that differ: it takes KL divergence by default (``metric="kl"``) with tau
    in nats, and an edge goes there if the divergence *rises* by less than tau.

    Edges are tried several at a time, each as if all before it had been taken out, which gives what trying
    them singly gives. With ``checkpoint``, a folder, a search that was stopped goes on where it was.

    Raises :class:`CircuitError` for a tau that is not positive, and as :func:`interp.score_edges`.
    """
    given = [taus] if isinstance(taus, int | float | str) else list(taus)
    if not given or not all(isinstance(tau, int | float) and tau > 0 for tau in given):
        raise CircuitError(
            f"tau is a positive share of the gap between clean and ablated metric; got {given}."
        )
    wanted = [float(tau) for tau in given]
    runs = prepare_circuits(
        model,
        task,
        graph,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
        memory_budget=memory_budget,
        progress=False,
    )
    folder = None
    if checkpoint is not None:
        reference_tokens = reference.clean if isinstance(reference, PromptPairs) else reference
        told = describe_search(
            model,
            task,
            method="acdc",
            graph=runs.graph,
            ablation=ablation,
            metric=runs.metric.name,
            reference=None if reference_tokens is None else reference_tokens.tolist(),
            seed=seed,
            backend=backend,
            taus=wanted,
        )
        folder = SearchFolder(checkpoint, told)
    return tuple(take_out_edges(runs, tau, folder, progress) for tau in wanted)


def take_out_edges(
    runs: CircuitRuns, tau: float, folder: SearchFolder | None = None, progress: bool = True
) -> Circuit:
    """ACDC at one ``tau``."""
    graph = runs.graph
    gap = float((runs.full.mean() - runs.empty.mean()).abs())
    if gap <= _ROUNDING * float(runs.full.abs().mean() + runs.empty.abs().mean()):
        raise CircuitError(
            "the metric is the same with all edges and with none, so no edge matters more than another; choose "
            "prompts or an ablation that change it."
        )
    included = torch.ones(graph.n_edges, dtype=torch.bool)
    name, first = f"tau-{tau:g}", len(graph.readers) - 1
    kept = None if folder is None else folder.load(name)
    if kept is not None:
        included, first = kept["included"].bool(), int(kept["reader"])
    n_left = int(graph.offsets[first + 1]) * graph.n_positions
    with tqdm(total=graph.n_edges, desc=name, unit="edge", disable=not progress) as bar:
        bar.update(graph.n_edges - n_left)
        for reader in range(first, -1, -1):
            included = _visit(runs, included, reader, tau * gap, bar)
            if folder is not None:
                folder.save(name, {"included": included, "reader": torch.tensor(reader - 1)})
    made = replace(runs.provenance("acdc", (f"tau {tau:g} of the gap",)), seconds=None)
    return Circuit(graph, included, f"ACDC, tau {tau:g}", made).prune()


def _visit(
    runs: CircuitRuns, included: Bool[Tensor, " edge"], reader: int, limit: float, bar: tqdm
) -> Bool[Tensor, " edge"]:
    """Take out what can be of the edges into one reader."""
    graph = runs.graph
    columns = graph.n_positions
    ends = (int(graph.offsets[reader]) * columns, int(graph.offsets[reader + 1]) * columns)
    edges = list(range(ends[1] - 1, ends[0] - 1, -1))
    # everything before this reader's layer has all of its edges yet, so it is the clean run's
    layer = graph.readers[reader].layer
    before = float(runs.score(included[None], first_layer=layer).mean())
    ahead, at = 8, 0
    while at < len(edges):
        tried = edges[at : at + ahead]
        circuits = included.repeat(len(tried), 1)
        for number, edge in enumerate(tried):
            circuits[number:, edge] = False
        found = runs.score(circuits, first_layer=layer).mean(1).tolist()
        taken = 0
        for score in found:
            if abs(score - before) >= limit:
                break
            before, taken = score, taken + 1
        if taken:
            included = circuits[taken - 1].clone()
        done = taken if taken == len(tried) else taken + 1
        ahead = min(_MOST_AHEAD, 2 * ahead) if taken == len(tried) else max(4, ahead // 2)
        at += done
        bar.update(done)
    return included
