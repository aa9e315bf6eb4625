"""GPT-2 small with random weights on one GPU: sweeps, every edge, and memory as it was planned.

Exact sweeps over heads and residual streams beside ``transformer_lens.patching`` on the same device, every edge
patched alone, each with and without kernels; and the most memory that a sweep takes beside what its planner expects
of a budget. Scores are compared before any clock. On a CPU a tiny shape runs through all of it, as a dry run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from interp.bench.cases import Shape, parse_shape
from interp.bench.clock import describe_threads
from interp.bench.device_clock import find_device
from interp.bench.gpu_pieces import GpuPieces
from interp.bench.gpu_report import PARTS, GpuRow, report_gpu
from interp.bench.report import Report, Say, say_nothing
from interp.errors import BenchError, unknown_name
from interp.models.threads import hold_threads
from interp.patching.budget import DEFAULT_BUDGET

GPT2_SMALL = parse_shape("12x768")
TINY = Shape(n_layers=2, d_model=32, n_heads=2, d_vocab=97)


@dataclass(frozen=True)
class GpuPlan:
    """What to measure, and how often."""

    shape: Shape = GPT2_SMALL
    parts: tuple[str, ...] = PARTS
    n_tokens: int = 16
    first_difference: int = 10
    sweep_prompts: int = 4
    sample: int = 12
    """Random sites that are compared with the peer's, and on which it is timed."""
    peer_seconds: float = 10.0
    """After so many a variant of the peer stops; one site is always timed."""
    repeats: int = 10
    """Of our sweeps."""
    edge_prompts: int = 16
    edges: int | None = None
    """Random edges that are scored; ``None`` is every one."""
    sampled_edges: int = 1000
    """Random ones that tune kernels first, and on which ours without kernels is timed."""
    compared_edges: int = 24
    """Random ones that are compared with the peer's, one forward each."""
    edge_budget: int = DEFAULT_BUDGET
    """Bytes of working memory for edges; by default a share of what a GPU has free."""
    budgets: tuple[int, ...] = (1 << 28, 1 << 30, 1 << 32, 1 << 34)
    """Bytes for sweeps whose peak is measured."""
    memory_prompts: int = 16
    memory_tokens: int = 128
    minutes: float = 8.0
    """After so many, what is left is listed as skipped."""
    seed: int = 0
    threads: int | None = None
    is_dry: bool = False
    """Whether it may run on a CPU, where nothing that it measures is of interest."""

    @classmethod
    def quick(cls, seed: int = 0, device: torch.device | None = None) -> GpuPlan:
        """Within a minute: some of the edges; on a CPU, a tiny shape."""
        if (device or find_device()).type == "cuda":
            return cls(edges=2000, repeats=3, peer_seconds=2.0, budgets=(1 << 30,), minutes=0.8, seed=seed)
        return cls(
            TINY,
            sample=4,
            repeats=2,
            peer_seconds=0.1,
            edge_prompts=2,
            edges=40,
            sampled_edges=20,
            compared_edges=3,
            budgets=(1 << 18, 1 << 26),
            memory_prompts=3,
            memory_tokens=16,
            minutes=0.8,
            seed=seed,
            is_dry=True,
        )

    def __post_init__(self) -> None:
        for name in set(self.parts) - set(PARTS):
            raise BenchError(unknown_name("part", name, PARTS))
        counts = (self.sample, self.repeats, self.sampled_edges, self.compared_edges, self.sweep_prompts)
        more = (self.edge_prompts, self.memory_prompts, *self.budgets, self.edge_budget)
        if min(*counts, *more, *(n for n in (self.threads, self.edges) if n is not None)) < 1:
            raise BenchError(
                f"samples, repeats, prompts, edges, budgets and threads are at least 1; got {self}."
            )
        if not (self.minutes > 0 and self.peer_seconds > 0):
            raise BenchError(f"minutes and seconds are more than 0; got {self.minutes}, {self.peer_seconds}.")


def run_gpu(
    plan: GpuPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[GpuRow]], None] | None = None,
) -> Report[GpuRow]:
    """Measure every part of a plan; ``keep`` gets the rows of each piece as soon as they are there.

    ``device`` is by default the GPU. Raises :class:`BenchError` on a CPU unless it is a dry run, where
    TransformerLens is missing (models are read through it), and when our scores and the peer's differ.
    """
    where = device or find_device()
    if where.type != "cuda" and not plan.is_dry:
        raise BenchError("this is measured on a GPU; 'interp bench gpu --quick --device cpu' is a dry run.")
    for package in ("transformers", "transformer_lens"):
        if importlib.util.find_spec(package) is None:
            raise BenchError(
                f"models are read through {package}, which is not installed: pip install it, or measure kernels "
                "alone with 'python -m interp.bench.kernels'."
            )
    rows: list[GpuRow] = []
    with hold_threads(plan.threads):
        for found in GpuPieces(plan, where, say).run():
            rows += found
            if keep is not None:
                keep(found)
        name = torch.cuda.get_device_name(where) if where.type == "cuda" else None
        return report_gpu(rows, name, describe_threads())
