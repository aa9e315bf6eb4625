"""Which methods find a circuit that is known: every score of edges, on planted models and compiled programs.

Exact edges must find each circuit whole, or nothing is reported: what estimates miss is then theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from interp.bench.clock import describe_threads
from interp.bench.recovery_report import RecoveryRow, report_recovery
from interp.bench.report import Report, Say, say_nothing
from interp.circuits import measure_recovery, score_edges
from interp.errors import BenchError
from interp.models import Model, load_model
from interp.models.bundled.planted import PLANTED, PlantedModel, compiled_model
from interp.models.threads import hold_threads
from interp.results import Recovery

METHODS = (
    "exact",
    "eap",
    "eap-ig",
    "eap-ig:activations",
    "eap-ig:clean-corrupted",
    "relevance",
    "relevance:relp-ah",
    "relevance:attnlrp",
    "atp*",
)


@dataclass(frozen=True)
class RecoveryPlan:
    """Which models and methods."""

    planted: tuple[str, ...] = tuple(PLANTED)
    programs: int = 12
    """Random programs, compiled; the first is drawn by ``seed``."""
    methods: tuple[str, ...] = METHODS
    """``"exact"`` first: the others are worth nothing without it."""
    n: int = 32
    """Prompt pairs of each model."""
    directions: tuple[Literal["noise", "denoise"], ...] = ("noise", "denoise")
    seed: int = 0
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> RecoveryPlan:
        """Within a minute on two busy cores."""
        return cls(programs=2, n=16, directions=("noise",), seed=seed)

    def __post_init__(self) -> None:
        if self.n < 1 or self.programs < 0 or (self.threads is not None and self.threads < 1):
            raise BenchError(
                f"n and threads are at least 1, programs at least 0; got {self.n}, {self.threads}, {self.programs}."
            )
        if not self.methods or self.methods[0] != "exact":
            raise BenchError(f"exact edges come first, as the gate of all others; got {self.methods}.")
        if not self.planted and not self.programs:
            raise BenchError("nothing to measure: no planted model and no program.")


def run_recovery(
    plan: RecoveryPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[RecoveryRow]], None] | None = None,
) -> Report[RecoveryRow]:
    """Measure every method on every model of a plan; ``keep`` gets the rows of each as soon as they are there.

    Raises :class:`BenchError` where exact edges do not rank every true edge above every other.
    """
    where = device or torch.device("cpu")
    rows: list[RecoveryRow] = []
    with hold_threads(plan.threads):
        for planted in _models(plan):
            say(f"{planted.name}")
            found = _measure(plan, planted, where)
            rows += found
            if keep is not None:
                keep(found)
        return report_recovery(rows, describe_threads())


def _models(plan: RecoveryPlan) -> Iterator[PlantedModel]:
    yield from (PLANTED[name] for name in plan.planted)
    yield from (compiled_model(seed) for seed in range(plan.seed, plan.seed + plan.programs))


def _measure(plan: RecoveryPlan, planted: PlantedModel, device: torch.device) -> list[RecoveryRow]:
    module, tokenizer, circuit = planted.build()
    model = load_model(module, tokenizer=tokenizer, device=device)
    task = planted.make_pairs(plan.n, plan.seed)
    rows = []
    for direction in plan.directions:
        for method in plan.methods:
            started = time.perf_counter()
            scores = score_edges(model, task, method=method, direction=direction, progress=False)
            seconds = time.perf_counter() - started
            found = measure_recovery(scores, circuit.edges)
            if method == "exact" and found.missed:
                raise BenchError(
                    f"exact edges do not find the circuit of {planted.name}, {direction}: {', '.join(found.missed)} "
                    f"should rank above {', '.join(found.mistaken[:3])}. Nothing is reported."
                )
            rows.append(_row(plan, planted.name, model, direction, method, found, seconds))
    return rows


def _row(
    plan: RecoveryPlan,
    name: str,
    model: Model,
    direction: str,
    method: str,
    found: Recovery,
    seconds: float,
) -> RecoveryRow:
    return RecoveryRow(
        model=name,
        n_layers=model.traits.n_layers,
        n_edges=found.edges.n,
        n_true=found.edges.n_true,
        n_prompts=plan.n,
        seed=plan.seed,
        direction=direction,
        method=method,
        auroc=found.auroc,
        average_precision=found.average_precision,
        f1_at_n_true=found.at_n_true.f1,
        node_auroc=found.nodes.auroc,
        node_average_precision=found.nodes.average_precision,
        seconds=seconds,
    )
