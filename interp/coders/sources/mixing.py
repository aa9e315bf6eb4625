"""Measuring how well a shuffle buffer mixes the rows of a source."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.sources.buffer import ShuffleBuffer
from interp.coders.sources.layout import ActivationSource, ChunkSource, JointSource
from interp.coders.sources.parts import count_rows
from interp.coders.sources.tensors import Activations, as_source
from interp.errors import CoderError
from interp.results.mixing import QUANTILES, Mixing
from interp.results.provenance import Provenance


def measure_mixing(
    activations: Activations | JointSource | ShuffleBuffer[Any],
    *,
    rows: int | None = None,
    batch_size: int = 4096,
    seed: int = 0,
    max_rows: int | None = None,
    progress: bool = True,
) -> Mixing:
    """Send one epoch of row numbers through a shuffle buffer, and compare their order with a perfect shuffle.

    ``activations`` are whatever a coder trains on, or a :class:`ShuffleBuffer`, whose own ``rows``,
    ``batch_size`` and ``seed`` are then measured. The buffer that is made holds numbers, no activations. All
    rows of the source are read, or the first ``max_rows``: take several buffers of them. Then the source stands
    again where it stood. The definitions are those of :class:`~interp.results.mixing.Mixing`.

    Raises :class:`CoderError` for a buffer smaller than a batch, and for an iterator, which gives its rows once.

    Example::

        print(interp.measure_mixing(source, rows=2**17, batch_size=4096).summary())
    """
    started = time.perf_counter()
    if isinstance(activations, ShuffleBuffer):
        source: ChunkSource[Any] = activations.source
        rows, batch_size, seed = activations.rows, activations.batch_size, activations.seed
    else:
        source = as_source(activations)
    if max_rows is not None and max_rows < 1:
        raise CoderError(f"max_rows must be at least 1; got {max_rows}.")
    before = source.state()
    source.restart()
    source.next_chunk()
    # an iterator is refused here, and not behind its last row
    source.restart()
    try:
        buffer = ShuffleBuffer(_RowNumbers(source, max_rows), rows, batch_size, seed)
        numbers, prompts, sizes = _drain(buffer, progress)
    finally:
        source.restore(before)
    partners = (None, None, None) if prompts is None else _count_partners(prompts, sizes)
    n = len(numbers)
    moved = (numbers - torch.arange(n)).abs().double() / buffer.rows
    distance = torch.quantile(_thin(moved), torch.tensor(QUANTILES, dtype=torch.float64))
    return Mixing(
        n_rows=n,
        batch_size=batch_size,
        buffer_rows=buffer.rows,
        n_prompts=partners[0],
        partners=partners[1],
        partners_expected=partners[2],
        order_correlation=_correlate(numbers),
        distance=tuple(distance.tolist()),
        # the distance of two places drawn at random
        distance_expected=tuple(n / buffer.rows * (1 - (1 - q) ** 0.5) for q in QUANTILES),
        seed=seed,
        provenance=_provenance(source, seed, time.perf_counter() - started),
    )


class _RowNumbers:
    """A source's rows by their number and prompt, for a buffer that is as large as ever and takes no memory."""

    def __init__(self, source: ChunkSource[Any], max_rows: int | None) -> None:
        self.source, self.left, self.row = source, max_rows, 0

    def next_chunk(self) -> CoderBatch | None:
        chunk = None if self.left == 0 else self.source.next_chunk()
        if chunk is None:
            return None
        n = count_rows(chunk) if self.left is None else min(count_rows(chunk), self.left)
        self.left = None if self.left is None else self.left - n
        # float64 counts exactly up to 2 ** 53
        x = torch.arange(self.row, self.row + n, dtype=torch.float64)[:, None]
        self.row += n
        prompt = (chunk if isinstance(chunk, CoderBatch) else next(iter(chunk.values()))).prompt
        return CoderBatch(x=x, target=x, prompt=None if prompt is None else prompt[:n].cpu())

    def state(self) -> dict[str, Any]:
        return {"row": self.row}

    def restore(self, state: Mapping[str, Any]) -> None:
        raise CoderError("a measurement of mixing is not resumed; measure again.")

    def restart(self) -> None:
        raise CoderError("a measurement of mixing takes one epoch.")


def _drain(buffer: ShuffleBuffer[CoderBatch], progress: bool) -> tuple[Tensor, Tensor | None, list[int]]:
    from tqdm.auto import tqdm

    numbers, prompts, sizes = [], [], []
    with tqdm(desc="mixing", unit=" rows", unit_scale=True, disable=not progress) as bar:
        while (batch := buffer.next_batch()) is not None:
            numbers.append(batch.x[:, 0].long())
            sizes.append(len(batch))
            if batch.prompt is not None:
                prompts.append(batch.prompt)
            bar.update(len(batch))
    return torch.cat(numbers), torch.cat(prompts) if prompts else None, sizes


def _count_partners(prompts: Int[Tensor, " row"], sizes: list[int]) -> tuple[int, float, float]:
    """Prompts, and how many of its own prompt's rows a row meets in its batch: found, and expected."""
    n = len(prompts)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    found = sum(_count_pairs(prompts[start:stop]) for start, stop in pairwise(ends))
    chance = _count_pairs(prompts) / max(n * (n - 1), 1)
    return len(prompts.unique()), found / n, chance * sum(size * (size - 1) for size in sizes) / n


def _count_pairs(prompts: Int[Tensor, " row"]) -> int:
    counts = prompts.unique(return_counts=True)[1]
    return int((counts * (counts - 1)).sum())


def _correlate(numbers: Int[Tensor, " row"]) -> float:
    """Spearman's correlation of a permutation with its order."""
    n = len(numbers)
    if n < 2:
        return 0.0
    ranks = numbers.double() - (n - 1) / 2
    order = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return float((ranks @ order) / (order @ order))


def _thin(values: Tensor, limit: int = 10_000_000) -> Tensor:
    """Every k-th value, for torch.quantile takes no more than 16 million."""
    return values[:: -(-len(values) // limit)]


def _provenance(source: Any, seed: int, seconds: float) -> Provenance:
    layouts = source.layouts.values() if isinstance(source, JointSource) else []
    layout = source.layout if isinstance(source, ActivationSource) else next(iter(layouts), None)
    name = getattr(layout, "model", None) or "activations"
    return Provenance(model=name, seed=seed, method="shuffle buffer", seconds=seconds)
