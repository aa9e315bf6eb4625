"""How every lens says where its numbers came from."""

from __future__ import annotations

import time
from collections.abc import Sequence

from interp.lenses.prompts import PromptBatch
from interp.models.model import Model
from interp.results import Provenance


def describe_run(
    model: Model,
    batch: PromptBatch | None,
    method: str,
    started: float,
    *,
    metric: str | None = None,
    seed: int | None = None,
    notes: Sequence[str] = (),
) -> Provenance:
    """Provenance of numbers computed since ``started`` (of ``time.perf_counter``).

    ``seed`` is of prompts made by the lens itself; a task brings its own.
    """
    task = None if batch is None else batch.task
    said = list(notes)
    if batch is not None and batch.run == "corrupted":
        said.append("read on the corrupted prompts")
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task=None if task is None else task.name,
        n_prompts=None if batch is None else len(batch),
        seed=seed if task is None else task.seed,
        metric=metric,
        method=method,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - started,
        notes=tuple(said),
    )
