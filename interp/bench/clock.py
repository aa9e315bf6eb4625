"""Wall-clock times, and the rate at which this machine multiplies matrices."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

MATMUL_ROWS = (1024, 256)
"""Rows of the matrices whose products are timed: many rows in flight, and few."""


@dataclass(frozen=True)
class Quantiles:
    """Of repeated times, in seconds."""

    p20: float
    p50: float
    p80: float


def take_quantiles(seconds: Sequence[float]) -> Quantiles:
    """Quantiles of at least one time."""
    return Quantiles(*(float(q) for q in np.quantile(np.asarray(seconds), (0.2, 0.5, 0.8))))


def time_call(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, until the device has done what it was given."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def measure_matmul_rate(d_model: int, device: torch.device, repeats: int = 3) -> float:
    """Best rate, in FLOP/s, of a few fp32 products [1024, d] x [d, 4d] and [256, d] x [d, 4d].

    A shared machine's rate drifts twofold within seconds: measure it beside what it is compared with.
    """
    weight = torch.ones(d_model, 4 * d_model, device=device)
    best = 0.0
    for rows in MATMUL_ROWS:
        x = torch.ones(rows, d_model, device=device)
        out = torch.empty(rows, 4 * d_model, device=device)
        multiply = partial(torch.mm, x, weight, out=out)
        seconds = min(time_call(multiply, device) for _ in range(repeats + 1))
        best = max(best, 2 * rows * weight.numel() / seconds)
    return best


def describe_threads() -> str:
    """How many threads there are and, where it was chosen, how they wait for each other."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    return f"threads: {torch.get_num_threads()}" + (f", OMP_WAIT_POLICY={policy}" if policy else "")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
