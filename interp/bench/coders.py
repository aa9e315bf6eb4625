"""Which architectures find features that are known: each over several seeds, random dictionaries beside them.

A seed draws directions, rows and the coder's start anew. All coders have as many latents as there are features
and fire as many a row as features do: by their k, or by adjusting their penalty to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from interp.bench.clock import describe_threads
from interp.bench.coders_report import CodersRow, report_coders
from interp.bench.report import Report, Say, say_nothing
from interp.coders import CoderConfig, train_coder
from interp.coders.choices import Architecture
from interp.coders.ground_truth import (
    SUITES,
    Dictionary,
    LinearDictionary,
    PlantedFeatures,
    load_suite,
    match_features,
    measure_absorption,
)
from interp.coders.ground_truth.match import match_random
from interp.errors import BenchError
from interp.models.threads import hold_threads
from interp.results.feature_recovery import FeatureRecovery

ARCHITECTURES = ("topk", "batch-topk", "matryoshka", "jumprelu", "gated", "standard")
_WITH_K = ("topk", "batch-topk", "matryoshka")
_CHUNK = 8192
_ROWS_SEED = 1000
"""Rows to train on are of this seed plus the run's: those judged on are of the run's own."""


@dataclass(frozen=True)
class CodersPlan:
    """Which suites, architectures and seeds, and how long they train."""

    suites: tuple[str, ...] = tuple(SUITES)
    architectures: tuple[str, ...] = ARCHITECTURES
    seeds: int = 5
    tokens: int = 600_000
    """Fresh rows that each coder is trained on."""
    batch_size: int = 256
    learning_rate: float = 5e-3
    expansion: float = 1.0
    """Latents a feature."""
    n: int = 8192
    """Rows that figures are of."""
    seed: int = 0
    """The first of the seeds."""
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> CodersPlan:
        """Within a minute on two busy cores."""
        return cls(("superposition",), ("topk", "batch-topk"), 2, tokens=100_000, n=4096, seed=seed)

    def __post_init__(self) -> None:
        sizes = (self.seeds, self.tokens, self.batch_size, self.n - 1)
        if min(sizes) < 1 or (self.threads is not None and self.threads < 1):
            raise BenchError(
                f"seeds, tokens, batch size and threads are at least 1, n at least 2; got {self.seeds}, "
                f"{self.tokens}, {self.batch_size}, {self.threads}, {self.n}."
            )
        if not self.learning_rate > 0 or not self.expansion > 0:
            raise BenchError(
                f"learning rate and expansion are above 0; got {self.learning_rate}, {self.expansion}."
            )
        for kind, got, known in (
            ("suites", self.suites, tuple(SUITES)),
            ("architectures", self.architectures, ARCHITECTURES),
        ):
            if not got or set(got) - set(known):
                raise BenchError(f"{kind} are some of {', '.join(known)}; got {', '.join(got) or 'none'}.")


def run_coders(
    plan: CodersPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[CodersRow]], None] | None = None,
) -> Report[CodersRow]:
    """Train and measure every architecture of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` where the planted directions themselves are not found whole.
    """
    where = device or torch.device("cpu")
    rows: list[CodersRow] = []

    def take(row: CodersRow) -> None:
        rows.append(row)
        if keep is not None:
            keep([row])

    with hold_threads(plan.threads):
        for suite in plan.suites:
            for seed in range(plan.seed, plan.seed + plan.seeds):
                planted = load_suite(suite, seed=seed)
                _check_truth(planted, plan.n)
                for architecture in plan.architectures:
                    say(f"{suite}, seed {seed}: {architecture}")
                    take(_measure(plan, suite, planted, architecture, seed, where))
                take(_measure_random(plan, suite, planted, seed))
        return report_coders(rows, describe_threads())


def _check_truth(planted: PlantedFeatures, n: int) -> None:
    found = match_features(LinearDictionary(planted.directions, planted.directions), planted, n=n)
    if min(found.mcc, found.mmcs, found.uniqueness) < 1 - 1e-4:
        raise BenchError(
            f"the directions of {planted.name} do not match themselves: MCC {found.mcc:.4f}, MMCS {found.mmcs:.4f}, "
            f"uniqueness {found.uniqueness:.4f}. Nothing is reported."
        )


def _size(plan: CodersPlan, planted: PlantedFeatures) -> tuple[int, int]:
    """Latents, and how many of them fire on a row."""
    return max(1, round(plan.expansion * planted.n_features)), max(1, round(planted.config.l0))


def _measure(
    plan: CodersPlan,
    suite: str,
    planted: PlantedFeatures,
    architecture: str,
    seed: int,
    device: torch.device,
) -> CodersRow:
    d_sae, k = _size(plan, planted)
    has_k = architecture in _WITH_K
    config = CoderConfig(cast(Architecture, architecture), d_sae=d_sae, k=k if has_k else None)
    started = time.perf_counter()
    coder = train_coder(
        config,
        lambda: (batch.x for batch in planted.batches(_CHUNK, seed=_ROWS_SEED + seed, rows=plan.tokens)),
        tokens=plan.tokens,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        target_l0=None if has_k else planted.config.l0,
        dead_after=max(1, plan.tokens // 10),
        seed=seed,
        device=device,
        progress=False,
    )
    seconds = time.perf_counter() - started
    found = match_features(cast(Dictionary, coder), planted, n=plan.n, seed=seed, name=architecture)
    absorbed = float("nan")
    if bool((planted.parents >= 0).any()):
        absorbed = measure_absorption(cast(Dictionary, coder), planted, n=plan.n, seed=seed).mean_rate
    return _row(plan, suite, planted, architecture, seed, found, absorbed, seconds)


def _measure_random(plan: CodersPlan, suite: str, planted: PlantedFeatures, seed: int) -> CodersRow:
    d_sae, k = _size(plan, planted)
    found = match_random(planted, d_sae, k, n=plan.n, seed=seed)
    return _row(plan, suite, planted, "random", seed, found, float("nan"), 0.0)


def _row(
    plan: CodersPlan,
    suite: str,
    planted: PlantedFeatures,
    architecture: str,
    seed: int,
    found: FeatureRecovery,
    absorbed: float,
    seconds: float,
) -> CodersRow:
    return CodersRow(
        suite=suite,
        architecture=architecture,
        seed=seed,
        d_in=planted.config.d_in,
        n_features=planted.n_features,
        d_sae=found.n_latents,
        features_firing=planted.config.l0,
        tokens=plan.tokens if architecture != "random" else 0,
        absorbed=absorbed,
        seconds=seconds,
        **found.figures(),
    )
