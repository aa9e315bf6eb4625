"""How well estimates of patching agree with exact patching: on the bundled model, and on deep ones.

The deep models are GPT-2s of random weights, wide enough in their spread (``init``) not to be nearly
linear: no trained model of 12 layers or more is bundled. What holds for them need not hold for trained
ones; the RelP paper's own table is of trained ones. Every cell of every site is patched exactly, and
nothing is left out of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from interp.bench.cases import Case, Shape, build_gpt2, make_task, parse_shape, wrap_gpt2
from interp.bench.clock import describe_threads
from interp.bench.methods_report import MethodAgreementRow, report_methods
from interp.bench.report import Report, Say, say_nothing
from interp.errors import BenchError
from interp.models import Model, load_model
from interp.models.threads import hold_threads
from interp.patching import compare_methods
from interp.tasks import PromptPairs, load

BUNDLED = "mix-4l"
TASKS = ("ioi", "greater_than", "agreement", "induction")
METHODS = ("attribution", "attribution*", "ig", "relevance", "relevance:relp-ah", "relevance:attnlrp")
SITES = ("resid_pre", "attn_out", "mlp_out", "z")
D_VOCAB = 512


@dataclass(frozen=True)
class MethodsPlan:
    """Which models and methods."""

    shapes: tuple[Shape, ...] = tuple(parse_shape(text) for text in ("12x256", "24x256", "36x256"))
    tasks: tuple[str, ...] = TASKS
    """Of the bundled model."""
    methods: tuple[str, ...] = METHODS
    n: int = 32
    """Prompt pairs of the bundled model's tasks."""
    n_prompts: int = 4
    n_tokens: int = 8
    first_difference: int = 3
    init: float = 0.0625
    """Standard deviation of random weights: one over the root of the width, so that sums keep their size."""
    draws: int = 5
    """Random models of each shape."""
    seed: int = 0
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> MethodsPlan:
        """Within a minute on two busy cores."""
        return cls((parse_shape("12x256"),), ("ioi",), n=16, draws=1, seed=seed)

    def __post_init__(self) -> None:
        if min(self.draws, self.n, 1 if self.threads is None else self.threads) < 1:
            raise BenchError(
                f"draws, n and threads are at least 1; got {self.draws}, {self.n}, {self.threads}."
            )


def run_methods(
    plan: MethodsPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[MethodAgreementRow]], None] | None = None,
) -> Report[MethodAgreementRow]:
    """Compare every method on every model of a plan; ``keep`` gets the rows of each as soon as they are there."""
    where = device or torch.device("cpu")
    rows: list[MethodAgreementRow] = []
    with hold_threads(plan.threads):
        for model, task, seed in _cases(plan, where):
            say(f"{model.name}, {task.name}, seed {seed}")
            found = _compare(plan, model, task, seed)
            rows += found
            if keep is not None:
                keep(found)
        return report_methods(rows, describe_threads())


def _cases(plan: MethodsPlan, device: torch.device) -> Iterator[tuple[Model, PromptPairs, int]]:
    if plan.tasks:
        model = load_model(BUNDLED, device=device)
        for name in plan.tasks:
            yield model, load(name, model, plan.n, plan.seed), plan.seed
    for shape in plan.shapes:
        small = replace(shape, d_vocab=D_VOCAB)
        case = Case(small, plan.first_difference, plan.n_prompts, plan.n_tokens)
        for seed in range(plan.seed, plan.seed + plan.draws):
            hf = build_gpt2(small, seed, device, plan.init)
            yield wrap_gpt2(hf, small), replace(make_task(case, seed, device), name="random"), seed


def _compare(plan: MethodsPlan, model: Model, task: PromptPairs, seed: int) -> list[MethodAgreementRow]:
    found = compare_methods(model, task, SITES, plan.methods, progress=False)
    seconds = {cost.method: cost.seconds for cost in found.costs}
    return [
        MethodAgreementRow(
            model=row.model,
            n_layers=model.traits.n_layers,
            task=row.task,
            n_prompts=len(task),
            seed=seed,
            site=row.site,
            n_cells=row.n_cells,
            method=row.method,
            pearson=row.pearson.value,
            pearson_low=row.pearson.low,
            pearson_high=row.pearson.high,
            spearman=row.spearman.value,
            spearman_low=row.spearman.low,
            spearman_high=row.spearman.high,
            sign_agreement=row.sign_agreement.value,
            top_overlap=row.top_overlap.value,
            seconds=seconds[row.method],
            exact_seconds=seconds["exact"],
        )
        for row in found.rows
    ]
