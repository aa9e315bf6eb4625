"""Peak memory of reading a cached data set through a shuffle buffer.

A cache of made-up activations is written to disk, then a process of its own reads all of it through
:func:`interp.open_activations` and :class:`~interp.coders.sources.ShuffleBuffer`, as the trainer does, and
watches its memory. Needs Linux, whose ``/proc`` tells memory of files from memory of the process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from interp.bench.clock import describe_threads
from interp.bench.coder_memory_report import MB, CoderMemoryRow, report_coder_memory
from interp.bench.report import Report, Say, say_nothing
from interp.coders.batch import CoderBatch
from interp.coders.sources import ShuffleBuffer, cache_activations, open_activations, tensor_activations
from interp.coders.sources.shards import CacheType
from interp.errors import BenchError, unknown_name
from interp.models.threads import hold_threads

STATUS = Path("/proc/self/status")
PROMPT_TOKENS = 128
CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class CoderMemoryPlan:
    """What is written and how it is read."""

    tokens: int = 50_000_000
    d_in: int = 16
    dtype: CacheType = "fp16"
    shard_rows: int = 1 << 20
    buffer_rows: int = 1 << 20
    batch_size: int = 4096
    seed: int = 0
    threads: int | None = None
    """Of PyTorch; ``None`` is what it has."""

    @classmethod
    def quick(cls, seed: int = 0) -> CoderMemoryPlan:
        """A few seconds: two million tokens."""
        return cls(tokens=2_000_000, shard_rows=1 << 18, buffer_rows=1 << 17, seed=seed)

    def __post_init__(self) -> None:
        counts = (self.tokens, self.d_in, self.shard_rows, self.batch_size, self.threads or 1)
        if min(counts) < 1 or not self.batch_size <= self.buffer_rows:
            raise BenchError(
                f"sizes are at least 1 and a buffer holds a batch; got tokens={self.tokens}, d_in={self.d_in}, "
                f"buffer_rows={self.buffer_rows}, batch_size={self.batch_size}."
            )
        if self.dtype not in get_args(CacheType):
            raise BenchError(unknown_name("type of a cache", self.dtype, get_args(CacheType)))


def run_coder_memory(
    plan: CoderMemoryPlan,
    folder: Path | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[CoderMemoryRow]], None] | None = None,
) -> Report[CoderMemoryRow]:
    """Write, read, and report; the cache lies in ``folder`` (by default the system's) until it was read.

    Raises :class:`BenchError` where there is no ``/proc``, too little disk, or a token that did not come out
    exactly once.
    """
    if not STATUS.is_file():
        raise BenchError(f"this benchmark needs Linux: there is no {STATUS}.")
    with hold_threads(plan.threads), tempfile.TemporaryDirectory(prefix="interp-", dir=folder) as name:
        row = _measure(plan, Path(name), say)
        if keep is not None:
            keep([row])
        return report_coder_memory([row], describe_threads())


def _measure(plan: CoderMemoryPlan, folder: Path, say: Say) -> CoderMemoryRow:
    # activations, and three numbers a row
    size = plan.tokens * (plan.d_in * (4 if plan.dtype == "fp32" else 2) + 12)
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size:
        raise BenchError(
            f"the cache takes {size / 1e9:.1f} GB; {str(folder)!r} has {free / 1e9:.1f} GB left."
        )
    say(f"writing {plan.tokens:,} tokens, {size / 1e9:.2f} GB")
    started = time.perf_counter()
    source = tensor_activations(lambda: _make_chunks(plan))
    cache_activations(source, folder / "cache", dtype=plan.dtype, shard_rows=plan.shard_rows, progress=False)
    written = time.perf_counter() - started
    say("reading them in a process of its own")
    found = _read_apart(plan, folder / "cache")
    _check_tokens(plan, found)
    return CoderMemoryRow(
        tokens=plan.tokens,
        d_in=plan.d_in,
        stored_as=plan.dtype,
        shard_rows=plan.shard_rows,
        disk_gb=sum(path.stat().st_size for path in (folder / "cache").iterdir()) / 1e9,
        buffer_rows=plan.buffer_rows,
        batch_size=plan.batch_size,
        seed=plan.seed,
        buffer_mb=found["buffer"] / MB,
        chunk_mb=found["chunk"] / MB,
        baseline_mb=found["baseline"] / MB,
        peak_mb=(found["peak"] - found["baseline"]) / MB,
        peak_anonymous_mb=(found["anonymous"] - found["anonymous_baseline"]) / MB,
        first_tenth_anonymous_mb=(found["first_tenth"] - found["anonymous_baseline"]) / MB,
        write_seconds=written,
        read_seconds=found["seconds"],
    )


def _make_chunks(plan: CoderMemoryPlan) -> Iterator[CoderBatch]:
    generator = torch.Generator().manual_seed(plan.seed)
    for start in range(0, plan.tokens, CHUNK_ROWS):
        number = torch.arange(start, min(start + CHUNK_ROWS, plan.tokens))
        x = torch.randn(len(number), plan.d_in, generator=generator)
        yield CoderBatch(
            x=x, target=x, token=number, position=number % PROMPT_TOKENS, prompt=number // PROMPT_TOKENS
        )


def _read_apart(plan: CoderMemoryPlan, cache: Path) -> dict[str, Any]:
    asked = [str(cache), plan.buffer_rows, plan.batch_size, plan.seed, torch.get_num_threads()]
    code = "import sys, json; from interp.bench.coder_memory import watch_reading as watch; "
    code += "print(json.dumps(watch(*json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the reading process failed:\n{done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def watch_reading(cache: str, buffer_rows: int, batch_size: int, seed: int, threads: int) -> dict[str, Any]:
    """Read a cache through a buffer in this process; bytes of memory, seconds, and sums of the tokens."""
    torch.set_num_threads(threads)
    # once on next to nothing, for code is loaded when it is first run; then the peak begins anew
    ShuffleBuffer(tensor_activations(torch.zeros(64, 2)), 32, 4).next_batch()
    Path("/proc/self/clear_refs").write_text("5")
    before = _read_memory()
    source = open_activations(cache)
    buffer = ShuffleBuffer(source, buffer_rows, batch_size, seed)
    sums, anonymous, first_tenth = [0, 0, 0], before["RssAnon"], 0
    started = time.perf_counter()
    while (batch := buffer.next_batch()) is not None:
        assert batch.token is not None
        sums[0] += len(batch)
        sums[1] += int(batch.token.sum())
        sums[2] += int((batch.token % 65521).square().sum())
        if buffer.count.batches % 10 == 1:
            anonymous = max(anonymous, _read_memory()["RssAnon"])
        if not first_tenth and 10 * sums[0] >= source.n_rows:
            first_tenth = max(anonymous, _read_memory()["RssAnon"])
    return {
        "seconds": time.perf_counter() - started,
        "sums": sums,
        "buffer": buffer.nbytes(),
        "chunk": buffer.nbytes() // buffer_rows * source.chunk_rows,
        "baseline": before["VmRSS"],
        "anonymous_baseline": before["RssAnon"],
        "peak": _read_memory()["VmHWM"],
        "anonymous": anonymous,
        "first_tenth": first_tenth,
    }


def _read_memory() -> dict[str, int]:
    """Bytes of this process by their names in ``/proc``."""
    lines = (line.split() for line in STATUS.read_text(encoding="ascii").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}


def _check_tokens(plan: CoderMemoryPlan, found: dict[str, Any]) -> None:
    number = torch.arange(plan.tokens)
    expected = [plan.tokens, int(number.sum()), int((number % 65521).square().sum())]
    if found["sums"] != expected:
        raise BenchError(f"tokens did not come out once each: sums {found['sums']}, expected {expected}.")
