"""Small trainings of sparse coders, and how two of them are compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.coders import Coder, CoderBatch, CoderConfig
from interp.coders.sources import as_source, tensor_activations
from interp.coders.sources.layout import ActivationSource, SourceLayout
from interp.coders.train import train_coders
from interp.results.coder_history import CoderHistory

D, D_OUT, SITES, D_SAE, K = 8, 6, 3, 24, 3
KINDS = {
    "standard": CoderConfig("standard", d_sae=D_SAE),
    "gated": CoderConfig("gated", d_sae=D_SAE),
    "topk": CoderConfig("topk", d_sae=D_SAE, k=K, multi_k=True),
    "batch-topk": CoderConfig("batch-topk", d_sae=D_SAE, k=K),
    "jumprelu": CoderConfig("jumprelu", d_sae=D_SAE),
    "matryoshka": CoderConfig("matryoshka", d_sae=D_SAE, k=K),
    "gradient": CoderConfig("gradient", d_sae=D_SAE, k=K),
    "discrete": CoderConfig("discrete", d_sae=D_SAE),
    "transcoder": CoderConfig("transcoder", d_sae=D_SAE, k=K),
    "skip-transcoder": CoderConfig("skip-transcoder", d_sae=D_SAE, k=K, activation="batch-topk"),
    "cross-layer-transcoder": CoderConfig("cross-layer-transcoder", d_sae=D_SAE, activation="jumprelu"),
    "crosscoder": CoderConfig("crosscoder", d_sae=D_SAE, k=K),
}
"""Every architecture, and every rule at least once."""

SHORT: dict[str, Any] = dict(
    batch_size=32,
    buffer_rows=100,
    start_rows=80,
    learning_rate=3e-3,
    log_every=3,
    dead_after=150,
    aux_k=4,
    seed=3,
)


def draw_rows(kind: str = "topk", n: int = 350, seed: int = 0) -> CoderBatch:
    """Rows that an architecture trains on, off the origin and of uneven sizes."""
    draw = torch.Generator().manual_seed(seed)
    axes = (SITES,) if kind in ("cross-layer-transcoder", "crosscoder") else ()
    x = torch.randn(n, *axes, D, generator=draw) * 3 + 1
    target = x
    if kind.endswith("transcoder"):
        target = torch.randn(n, *axes, D_OUT, generator=draw).exp()
    grad = torch.randn(x.shape, generator=draw) if kind == "gradient" else None
    return CoderBatch(x, target, grad)


class Joint:
    """Rows of several coders side by side."""

    def __init__(self, rows: Mapping[str, CoderBatch], chunk: int = 37) -> None:
        self.rows, self.chunk, self._row = dict(rows), chunk, 0
        self.n_rows = len(next(iter(self.rows.values())))

    @property
    def layouts(self) -> dict[str, SourceLayout]:
        return {name: tensor_activations(batch).layout for name, batch in self.rows.items()}

    def next_chunk(self) -> dict[str, CoderBatch] | None:
        part = slice(self._row, self._row + self.chunk)
        self._row += self.chunk
        found = {name: batch.select(part) for name, batch in self.rows.items()}
        return found if part.start < self.n_rows else None

    def state(self) -> dict[str, Any]:
        return {"row": self._row}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._row = state["row"]

    def restart(self) -> None:
        self._row = 0


class Untold:
    """A source that does not say how many rows it has."""

    def __init__(self, rows: Any) -> None:
        self.source: ActivationSource = as_source(rows)  # type: ignore[assignment]
        self.layout = self.source.layout
        self.next_chunk, self.restart = self.source.next_chunk, self.source.restart
        self.state, self.restore = self.source.state, self.source.restore


class StopError(Exception):
    """Raised by a callback to stop a training."""


class StopAt:
    """A callback that fails at the n-th point it is told."""

    def __init__(self, point: int) -> None:
        self.left = point

    def __call__(self, history: CoderHistory) -> None:
        self.left -= 1
        if self.left <= 0:
            raise StopError


def weights_of(coder: Coder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in coder.state_dict().items()}


def differences(one: Mapping[str, Coder], other: Mapping[str, Coder]) -> list[str]:
    """Names of all that differs to the bit: weights, curves (but for speed), metadata."""
    found = [] if list(one) == list(other) else ["names"]
    for name, coder in one.items():
        here, there = weights_of(coder), weights_of(other[name])
        found += [f"{name}.{key}" for key in here if not torch.equal(here[key], there[key])]
        found += [] if coder.metadata == other[name].metadata else [f"{name}.metadata"]
        mine, its = coder.history, other[name].history
        assert mine is not None and its is not None
        found += [] if torch.equal(mine.tokens, its.tokens) else [f"{name}.tokens"]
        found += [] if list(mine.curves) == list(its.curves) else [f"{name}.measures"]
        for measure in set(mine.curves) - {"tokens_per_second"}:
            if not torch.equal(mine.curves[measure].nan_to_num(-1), its.curves[measure].nan_to_num(-1)):
                found.append(f"{name}.{measure}")
    return found


def train_in_pieces(
    configs: Mapping[str, CoderConfig], make_rows: Any, folder: Path, points: int, **options: Any
) -> tuple[dict[str, Coder], int]:
    """Train, stopped after every few points by a callback's error, until the end; and how often it was stopped."""
    stops = 0
    while True:
        try:
            found = train_coders(
                configs,
                make_rows(),
                checkpoint=folder,
                callbacks=[StopAt(points)],
                progress=False,
                **options,
            )
            return found, stops
        except StopError:
            stops += 1
            assert stops < 100, "it does not get on"
