"""How the time of a sweep grows with layers, positions and prompts, beside how its operations grow.

One size is varied at a time. An exponent is the slope of a least-squares line through the logarithms
of size and time; every repeat over all sizes of an axis gives one, and their quantiles are reported.
The peer's exponent is that of its operations, one forward a site: it is not run here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from interp.bench import flops
from interp.bench.cases import SITES, Case, Shape, build_gpt2, make_task, wrap_gpt2
from interp.bench.clock import describe_threads, take_quantiles, time_call
from interp.bench.growth_report import GrowthRow, report_growth
from interp.bench.report import Report, Say, say_nothing
from interp.errors import BenchError
from interp.models import Model
from interp.models.threads import hold_threads
from interp.patching import patch

BASE = Case(Shape(n_layers=4, d_model=128, n_heads=4), first_difference=20, n_prompts=4, n_tokens=32)
DIFFERS_AT = 5 / 8
"""First difference as a share of the prompt: position 10 of 16."""


@dataclass(frozen=True)
class GrowthPlan:
    """Sizes of every axis; the others stay at 4 layers, 32 tokens and 4 prompts."""

    layers: tuple[int, ...] = (2, 4, 8)
    tokens: tuple[int, ...] = (16, 32, 64, 128)
    prompts: tuple[int, ...] = (2, 4, 8, 16)
    sites: tuple[str, ...] = SITES
    repeats: int = 15
    seed: int = 0
    threads: int | None = None
    """Of PyTorch; ``None`` is what it has."""
    base: Case = BASE

    @classmethod
    def quick(cls, seed: int = 0) -> GrowthPlan:
        """A minute on two busy cores: fewer repeats."""
        return cls(repeats=5, seed=seed)

    def __post_init__(self) -> None:
        for name in ("layers", "tokens", "prompts"):
            sizes = getattr(self, name)
            if len(set(sizes)) < 2 or min(sizes) < 1:
                raise BenchError(f"growth over {name} needs at least two sizes above 0; got {sizes}.")
        counts = (self.repeats, 1 if self.threads is None else self.threads)
        if min(counts) < 1:
            raise BenchError(f"repeats and threads are at least 1; got {counts}.")

    def axes(self) -> Iterator[tuple[str, tuple[int, ...], list[Case]]]:
        """Name, sizes and cases of each axis."""
        base = self.base
        shapes = [replace(base.shape, n_layers=n) for n in self.layers]
        yield "layers", self.layers, [replace(base, shape=shape) for shape in shapes]
        lengths = [(n, int(n * DIFFERS_AT)) for n in self.tokens]
        yield "tokens", self.tokens, [replace(base, n_tokens=n, first_difference=at) for n, at in lengths]
        yield "prompts", self.prompts, [replace(base, n_prompts=n) for n in self.prompts]


def run_growth(
    plan: GrowthPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[GrowthRow]], None] | None = None,
) -> Report[GrowthRow]:
    """Measure every axis of a plan; ``keep`` gets the rows of each as soon as they are there."""
    with hold_threads(plan.threads):
        rows = _run_axes(plan, device or torch.device("cpu"), say, keep or (lambda found: None))
        return report_growth(rows, describe_threads())


def _run_axes(
    plan: GrowthPlan, device: torch.device, say: Say, keep: Callable[[Sequence[GrowthRow]], None]
) -> list[GrowthRow]:
    models: dict[Shape, Model] = {}
    rows: list[GrowthRow] = []
    for axis, sizes, cases in plan.axes():
        for case in cases:
            if case.shape not in models:
                models[case.shape] = wrap_gpt2(build_gpt2(case.shape, plan.seed, device), case.shape)
        for site in plan.sites:
            say(f"{site}: {axis} {', '.join(map(str, sizes))}")
            seconds = _time_cases(plan, site, cases, models, device)
            found = _make_rows(plan, axis, site, sizes, cases, seconds)
            rows += found
            keep(found)
    return rows


def fit_exponent(sizes: Sequence[int], amounts: Sequence[float]) -> float:
    """Slope of log amount over log size, by least squares.

    >>> round(fit_exponent([2, 4, 8], [12.0, 48.0, 192.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(amounts), 1)[0])


def _time_cases(
    plan: GrowthPlan, site: str, cases: Sequence[Case], models: dict[Shape, Model], device: torch.device
) -> np.ndarray:
    """Seconds [repeat, case]; all cases take turns, so that a slower minute of the machine hits each."""
    tasks = [make_task(case, plan.seed, device) for case in cases]

    runs = [
        partial(patch, models[case.shape], task, site, backend="wavefront", progress=False)
        for case, task in zip(cases, tasks, strict=True)
    ]
    for run in runs:
        run()
    return np.array([[time_call(run, device) for run in runs] for _ in range(plan.repeats)])


def _make_rows(
    plan: GrowthPlan, axis: str, site: str, sizes: Sequence[int], cases: Sequence[Case], seconds: np.ndarray
) -> list[GrowthRow]:
    exponent = take_quantiles([fit_exponent(sizes, repeat) for repeat in seconds])
    floor = [flops.count_sweep(case, site) for case in cases]
    peer = [flops.count_peer_sweep(case, site) for case in cases]
    rows = []
    for number, (size, case) in enumerate(zip(sizes, cases, strict=True)):
        ours = take_quantiles(seconds[:, number].tolist())
        rows.append(
            GrowthRow(
                axis=axis,
                size=size,
                site=site,
                shape=str(case.shape),
                n_heads=case.shape.n_heads,
                d_vocab=case.shape.d_vocab,
                n_prompts=case.n_prompts,
                n_tokens=case.n_tokens,
                first_difference=case.first_difference,
                seed=plan.seed,
                repeats=plan.repeats,
                ours_p20=ours.p20,
                ours_p50=ours.p50,
                ours_p80=ours.p80,
                floor_gflop=floor[number] / 1e9,
                peer_gflop=peer[number] / 1e9,
                exponent_p20=exponent.p20,
                exponent_p50=exponent.p50,
                exponent_p80=exponent.p80,
                floor_exponent=fit_exponent(sizes, floor),
                peer_exponent=fit_exponent(sizes, peer),
            )
        )
    return rows
