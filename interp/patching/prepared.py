"""What every kind of patching needs: a task on a model, its baselines, and a way to score groups of cells."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError, unknown_name
from interp.models.blocks import Stack, UnsupportedError, stack_of
from interp.models.model import Model
from interp.patching.budget import rows_within, settle_budget
from interp.patching.cells import Cell
from interp.patching.hooked import run_hooked
from interp.patching.hooked_paths import run_paths_hooked
from interp.patching.readout import Readout
from interp.patching.replacement import Replacement, build_replacement, check_kind
from interp.patching.wavefront import Paths, Request, run_wavefront
from interp.results import Provenance
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Backend, Direction

BACKENDS = get_args(Backend)


class Prepared:
    """A task on a model and what replaces its activations; made by :func:`prepare`."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        components: Iterable[tuple[str, int]],
        direction: Direction,
        ablation: Ablation,
        metric: MetricLike | None,
        reference: PromptPairs | Tensor | None,
        seed: int,
        backend: str,
    ) -> None:
        self.started = time.perf_counter()
        self.model = model
        self.task = task.to(model.device)
        self.components = frozenset(components)
        self.direction: Direction = direction
        self.ablation: Ablation = ablation
        self.reference = reference
        self.seed = seed
        self.readout = Readout(self.task, resolve_metric(metric, self.task))
        self.stack, self.backend_reason = choose_stack(model, backend)
        self.notes: dict[str, None] = {}
        """What the engine had to say; once each, however often it ran."""
        self.n_run = 0
        self.n_asked = 0
        self._baselines: tuple[float, float] | None = None

    @property
    def backend(self) -> str:
        """``wavefront`` or ``hooked``."""
        return "hooked" if self.stack is None else "wavefront"

    @cached_property
    def replacement(self) -> Replacement:
        """The replacing activations as captured through hooks."""
        return build_replacement(
            self.model, self.task, self.components, self.direction, self.ablation, self.reference, self.seed
        )

    @property
    def clean(self) -> float:
        """Metric of the clean run, averaged over prompts."""
        return self._both[0]

    @property
    def corrupted(self) -> float:
        """Metric of the corrupted run, averaged over prompts."""
        return self._both[1]

    @property
    def _both(self) -> tuple[float, float]:
        if self._baselines is None:
            self.readout.take_reference(self.model)
            self._baselines = (self._baseline(self.task.clean), self._baseline(self.task.corrupted))
        return self._baselines

    def scores_unpatched(self) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """The metric of every prompt in the clean and in the corrupted run."""
        self.readout.take_reference(self.model)
        return self._score_run(self.task.clean), self._score_run(self.task.corrupted)

    def _baseline(self, tokens: Tensor) -> float:
        return float(self._score_run(tokens).mean())

    @torch.no_grad()
    def _score_run(self, tokens: Tensor) -> Float[Tensor, " prompt"]:
        logits = self.model(tokens, self.task.attention_mask, keep_columns=self.readout.columns)
        prompts = torch.arange(len(self.task), device=logits.device)
        return self.readout.score(logits, prompts).float()

    def scores(
        self, groups: Sequence[Sequence[Cell]], memory_budget: int, progress: bool
    ) -> Float[Tensor, "group prompt"]:
        """The metric of every prompt with each group of cells patched together."""
        if self.stack is not None:
            return self._in_flight(self.stack, groups, memory_budget, progress)
        n_pos = self.task.clean.shape[1]
        budget, said = settle_budget(memory_budget, self.model.device)
        self.notes |= dict.fromkeys(said)
        rows = rows_within(self.model, budget, n_pos, len(self.readout.columns))
        replacement, _ = self.replacement, self._both
        return run_hooked(
            self.model, self.task, groups, replacement, self.readout, self.direction, rows, progress
        ).float()

    def scores_along(
        self, senders: Sequence[Cell], paths: Paths, memory_budget: int, progress: bool
    ) -> Float[Tensor, "sender prompt"]:
        """The metric of every prompt with each sender patched along its paths to the receivers only."""
        if self.stack is not None:
            groups = [(sender,) for sender in senders]
            return self._in_flight(self.stack, groups, memory_budget, progress, paths)
        _ = self._both
        return run_paths_hooked(
            self.model, self.task, senders, paths, self.replacement, self.readout, self.direction, progress
        ).float()

    def _in_flight(
        self,
        stack: Stack,
        groups: Sequence[Sequence[Cell]],
        memory_budget: int,
        progress: bool,
        paths: Paths | None = None,
    ) -> Tensor:
        readout = self.readout
        request = Request(
            self.task, groups, self.direction, self.ablation, readout.metric, self.reference, self.seed, paths
        )
        answer = run_wavefront(stack, request, memory_budget, progress)
        self._baselines = (float(answer.clean.mean()), float(answer.corrupted.mean()))
        self.notes |= dict.fromkeys(answer.notes)
        self.n_run, self.n_asked = self.n_run + answer.n_rows, self.n_asked + answer.scores.numel()
        return answer.scores

    @property
    def _engine_notes(self) -> tuple[str, ...]:
        if not self.n_asked:
            return tuple(self.notes)
        run = f"{self.n_run} of {self.n_asked} patched runs were not provably the base run"
        return (*self.notes, run)

    def provenance(self, method: str, notes: tuple[str, ...] = ()) -> Provenance:
        """How a number made from this was made, up to now."""
        return make_provenance(
            self.model,
            self.task,
            (self.clean, self.corrupted),
            started=self.started,
            metric=self.readout.metric.name,
            method=method,
            direction=self.direction,
            ablation=self.ablation,
            backend=self.backend,
            backend_reason=self.backend_reason,
            notes=(*self._engine_notes, *notes),
        )


def make_provenance(
    model: Model,
    task: PromptPairs,
    baselines: tuple[float, float],
    *,
    started: float,
    notes: Iterable[str] = (),
    **fields: Any,
) -> Provenance:
    """How a number was made from a task on a model, whose clean and corrupted metric are ``baselines``.

    ``started`` is when, by ``time.perf_counter``; ``fields`` are further ones of :class:`Provenance`.
    """
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task=task.name,
        n_prompts=len(task),
        seed=task.seed,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - started,
        notes=(*_notes(task, *baselines), *notes),
        **fields,
    )


def prepare(
    model: Model,
    task: PromptPairs,
    components: Iterable[tuple[str, int]],
    *,
    direction: Direction,
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
) -> Prepared:
    """Bind a task to a model for patching ``components`` (name, layer), and choose the backend.

    Raises :class:`PatchError` or :class:`MetricError` for options that do not fit, and for a
    backend that this model cannot use.
    """
    check_choice("direction", direction, get_args(Direction))
    check_choice("backend", backend, BACKENDS)
    check_kind(task, ablation)
    return Prepared(model, task, components, direction, ablation, metric, reference, seed, backend)


def choose_stack(model: Model, backend: str) -> tuple[Stack | None, str]:
    """The block functions to patch with, ``None`` for hooks, and why.

    Raises :class:`PatchError` where they were asked for and do not cover the model.
    """
    if backend == "hooked":
        return None, "asked for"
    try:
        stack = stack_of(model)
    except UnsupportedError as error:
        if backend == "wavefront":
            raise PatchError(
                f"backend='wavefront' cannot run {model.name!r}: {error}. Use backend='hooked' or 'auto'."
            ) from error
        return None, f"not wavefront: {error}"
    return stack, "asked for" if backend == "wavefront" else "its block functions give the model's own logits"


def check_choice(kind: str, got: str, choices: Iterable[str]) -> None:
    """Raise :class:`PatchError` unless ``got`` is one of ``choices``."""
    if got not in tuple(choices):
        raise PatchError(unknown_name(kind, str(got), choices))


def _notes(task: PromptPairs, clean: float, corrupted: float) -> tuple[str, ...]:
    notes = []
    if clean == corrupted:
        notes.append("clean and corrupted metric are equal, so recovered scores are undefined (NaN)")
    if task.attention_mask is not None:
        notes.append("prompts differ in length; positions count each prompt's own tokens")
    if len({tuple(row) for row in task.clean.tolist()}) > 1:
        notes.append("position labels are the tokens of the first of the longest prompts")
    return tuple(notes)
