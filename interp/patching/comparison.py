"""Approximate methods against exact patching, side by side: agreement, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from interp.errors import PatchError
from interp.models.memory_meter import measure_peak
from interp.models.model import Model
from interp.patching.agreement import measure_agreement
from interp.patching.attribution.methods import Method, MethodLike, resolve_method
from interp.patching.budget import DEFAULT_BUDGET
from interp.patching.patch import patch
from interp.results import MethodAgreement, MethodComparison, MethodCost, MethodRow, PatchScores
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike
from interp.types import Ablation, Direction, SiteLike, parse_sites

DEFAULT_METHODS = ("attribution", "attribution*", "ig", "relevance")
DEFAULT_SITES = ("resid_pre", "attn_out", "mlp_out")

Cases = Sequence[tuple[Model, PromptPairs]]


def compare_methods(
    model: Model | None,
    tasks: PromptPairs | Iterable[PromptPairs] | Cases,
    sites: SiteLike | Iterable[SiteLike] = DEFAULT_SITES,
    methods: MethodLike | Iterable[MethodLike] = DEFAULT_METHODS,
    *,
    direction: Direction = "denoise",
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    measure_memory: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> MethodComparison:
    """Compare approximate methods with exact patching of every cell, on one task or several.

    For each task and method one call scores all ``sites``; each site's effects are then compared with
    exact ones cell by cell, with bootstrap intervals over cells. Times are of whole calls, after one
    that is not timed. ``measure_memory`` runs each once more and counts the bytes of tensors alive
    (on a GPU: as the allocator counts them).

    With ``model=None``, ``tasks`` are pairs of a model and its task, so that several models stand in
    one table, as in the RelP paper (arXiv 2508.21258, table 1).

    Raises :class:`PatchError` without a method or with ``exact`` among them, and as
    :func:`interp.patch` does.
    """
    listed = [methods] if isinstance(methods, str | Method) else list(methods)
    chosen = [(method, resolve_method(method)) for method in listed]
    if not chosen or any(found is None for _, found in chosen):
        raise PatchError(
            "compare_methods needs at least one approximate method, and compares each with exact patching itself; "
            f"got {[str(method) for method, _ in chosen]}."
        )
    labels = [found.label for _, found in chosen if found is not None]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise PatchError(
            f"two methods have the same name, {', '.join(twice)}, and cannot be told apart; compare them in two calls, "
            "or give rules of your own a name."
        )
    cases = _cases(model, tasks)
    places = parse_sites(sites)
    options = {"direction": direction, "ablation": ablation, "metric": metric, "seed": seed}
    runs: list[tuple[str, MethodLike]] = [("exact", "exact")]
    runs += [(found.label, method) for method, found in chosen if found is not None]
    rows: list[MethodRow] = []
    costs: list[MethodCost] = []
    metrics: set[str | None] = set()
    with tqdm(total=len(cases) * len(runs), desc="compare", unit="method", disable=not progress) as bar:
        for one, task in cases:
            exact: PatchScores | None = None
            for label, method in runs:

                def run(
                    one: Model = one, task: PromptPairs = task, method: MethodLike = method
                ) -> PatchScores:
                    return patch(
                        one,
                        task,
                        places,
                        method=method,
                        memory_budget=memory_budget,
                        progress=False,
                        **options,  # type: ignore[arg-type]
                    )

                patch(one, task.select([0]), places, method=method, progress=False, **options)  # type: ignore[arg-type]
                found_scores, seconds = _timed(run, one.device)
                peak = measure_peak(run, one.device) if measure_memory else None
                costs.append(MethodCost(one.name, task.name, label, seconds, peak))
                if exact is None:
                    exact = found_scores
                    metrics.add(exact.provenance.metric)
                else:
                    rows += _rows(one, task, label, exact, found_scores, confidence, seed)
                bar.update()
    assert exact is not None, "there is at least one case, and exact patching comes first"
    named = metrics.pop() if len(metrics) == 1 else None
    first = replace(exact.provenance, method="comparison", metric=named, notes=())
    return MethodComparison(tuple(rows), tuple(costs), confidence, first)


def _cases(model: Model | None, tasks: PromptPairs | Iterable[PromptPairs] | Cases) -> Cases:
    if isinstance(tasks, PromptPairs):
        tasks = [tasks]
    found = list(tasks)
    if model is not None:
        found = [(model, task) for task in found]
    if not found or not all(isinstance(case, tuple) and len(case) == 2 for case in found):
        raise PatchError(
            "compare_methods needs a model and its tasks, or model=None and pairs of a model and a task; got "
            f"model={model!r} and {len(found)} tasks."
        )
    return found  # type: ignore[return-value]


def _rows(
    model: Model,
    task: PromptPairs,
    label: str,
    exact: PatchScores,
    found: PatchScores,
    confidence: float,
    seed: int,
) -> list[MethodRow]:
    rows = []
    for key in exact:
        agreement: MethodAgreement = measure_agreement(
            [str(i) for i in range(exact[key].raw.numel())],
            exact.effects(key).flatten(),
            found.effects(key).flatten(),
            found.provenance,
            ranking=found.magnitudes(key).flatten(),
            confidence=confidence,
            seed=seed,
        )
        assert agreement.top_overlap is not None
        rows.append(
            MethodRow(
                model=model.name,
                task=task.name,
                site=key,
                method=label,
                n_cells=len(agreement.names),
                pearson=agreement.pearson,
                spearman=agreement.spearman,
                sign_agreement=agreement.sign_agreement,
                top_overlap=agreement.top_overlap,
            )
        )
    return rows


def _timed(run: Callable[[], PatchScores], device: torch.device) -> tuple[PatchScores, float]:
    _wait(device)
    started = time.perf_counter()
    found = run()
    _wait(device)
    return found, time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
