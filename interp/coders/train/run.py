"""The training loop: batches in, steps of every coder, curves, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.coders.sources import JointSource
from interp.coders.sources.layout import ActivationSource, SourceLayout
from interp.coders.train.checkpoint import CheckpointFolder
from interp.coders.train.config import TrainingConfig
from interp.coders.train.distributed import Processes
from interp.coders.train.learner import CoderLearner
from interp.coders.train.rows import Batches, TrainingRows, put_tensors_back, take_tensors_out
from interp.coders.train.signals import StopSignals, TrainingInterrupted
from interp.errors import CoderError
from interp.results.coder_history import CoderHistory, CoderLog
from interp.results.provenance import Provenance

Callback = Callable[[CoderHistory], None]
"""Called with the curves so far, whenever they have a new point."""


class CoderTraining:
    """Several coders trained on the same activations, from the first batch to the last.

    Raises :class:`CoderError` for configs that do not fit the source.
    """

    def __init__(
        self,
        configs: Mapping[str, CoderConfig],
        source: ActivationSource | JointSource,
        training: TrainingConfig,
        *,
        processes: Processes,
        folder: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> None:
        self.training = training
        self.processes = processes
        self.device = torch.device(device)
        self.callbacks = tuple(callbacks) if processes.is_first else ()
        self.progress = progress and processes.is_first
        names = tuple(configs)
        self.layouts = _layouts(source, names)
        self.rows = TrainingRows(source, names, training, processes)
        self.n_steps = None if training.tokens is None else -(-training.tokens // training.batch_size)
        self.learners = {name: self._learner(name, config) for name, config in configs.items()}
        self.tokens = 0
        self.log = CoderLog(names)
        self._started, self._tokens_at_start, self._seconds = time.perf_counter(), 0, 0.0
        self.folder = None
        if folder is not None:
            self.folder = CheckpointFolder(folder, self._question(configs))

    def _learner(self, name: str, config: CoderConfig) -> CoderLearner:
        layout = self.layouts[name]
        if config.firing == "gradient" and not layout.has_grad:
            raise CoderError(
                "a gradient coder learns from the loss' gradients; make the activations with "
                "stream_activations(..., gradients=True)."
            )
        coder = make_coder(
            config,
            CoderShape(layout.d_in, layout.d_out, layout.n_inputs, layout.n_outputs),
            sites=layout.sites,
            target_sites=layout.target_sites,
            seed=self.training.seed,
        )
        return CoderLearner(coder.to(self.device), self.training, self.n_steps, self.processes)

    def _question(self, configs: Mapping[str, CoderConfig]) -> dict[str, Any]:
        return {
            "coders": {name: config.to_dict() for name, config in configs.items()},
            "training": self.training.to_dict(),
            "activations": {name: layout.to_dict() for name, layout in self.layouts.items()},
            "processes": self.processes.n,
        }

    def run(self) -> dict[str, Coder]:
        """Train to the end; returns the coders in evaluation mode.

        Raises :class:`TrainingInterrupted` after Ctrl-C and :class:`SystemExit` after SIGTERM; with a folder a
        checkpoint is there then.
        """
        if self.folder is not None and (found := self.folder.finished()) is not None:
            return self._order(found)
        if not self._resume():
            first = self.rows.look()
            for name, learner in self.learners.items():
                learner.start(first[name].to(self.device))
            del first
        with StopSignals() as stop, self._bar() as bar:
            bar.update(self.tokens)
            self._tokens_at_start = self.tokens
            while (batches := self._next()) is not None:
                self._step(batches, bar)
                if self.processes.any_says(stop.received is not None):
                    self._stop(stop.received)
                if self.folder is not None and self._done % self.training.checkpoint_every == 0:
                    self.save()
        return self._finish()

    @property
    def _done(self) -> int:
        return next(iter(self.learners.values())).n_steps

    def _bar(self) -> Any:
        total = self.training.tokens
        return tqdm(total=total, unit="tok", unit_scale=True, desc="coder", disable=not self.progress)

    def _next(self) -> Batches | None:
        if self.n_steps is not None and self._done >= self.n_steps:
            return None
        batches = self.rows.next()
        return batches if self.processes.all_say(batches is not None) else None

    def _step(self, batches: Batches, bar: Any) -> None:
        n = len(next(iter(batches.values()))) * self.processes.n
        for name, learner in self.learners.items():
            learner.step(batches[name].to(self.device, torch.float32))
        self.tokens += n
        bar.update(n)
        if self._done % self.training.log_every == 0 or self._done == self.n_steps:
            self._note(bar)

    def _note(self, bar: Any) -> None:
        seconds = time.perf_counter() - self._started
        speed = (self.tokens - self._tokens_at_start) / seconds if seconds else 0.0
        row = {
            name: learner.figures() | {"tokens_per_second": speed} for name, learner in self.learners.items()
        }
        self.log.append(self.tokens, row)
        shown = next(iter(row.values()))
        if bar is not None:
            bar.set_postfix(
                l0=f"{shown['l0']:.1f}", fvu=f"{shown['fvu']:.3f}", dead=f"{shown['dead_frac']:.1%}"
            )
        for callback in self.callbacks:
            callback(self.history())

    def history(self) -> CoderHistory:
        """The curves so far."""
        models = {layout.model for layout in self.layouts.values() if layout.model}
        return self.log.record(
            Provenance(
                ", ".join(sorted(models)) or "activations",
                method=", ".join(learner.coder.config.architecture for learner in self.learners.values()),
                seed=self.training.seed,
                device=str(self.device),
            )
        )

    def coders(self) -> dict[str, Coder]:
        """The coders as they are now, in units of the activations."""
        found = {}
        for name, learner in self.learners.items():
            coder = learner.finished()
            layout = self.layouts[name]
            coder.metadata = {
                "model": layout.model,
                "tokens": self.tokens,
                "training": self.training.to_dict(),
                "activations": layout.to_dict(),
                "figures": self.log.record(Provenance("")).last(name) if len(self.log) else {},
            }
            coder.metadata["figures"].pop("tokens_per_second", None)
            found[name] = coder
        return found

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it; each process keeps its own rows."""
        if self.folder is None:
            return
        tensors: dict[str, Any] = {}
        numbers: dict[str, Any] = {"tokens": self.tokens, "learners": {}}
        for name, learner in self.learners.items():
            tensors |= {f"{name}/{key}": value for key, value in learner.tensors().items()}
            numbers["learners"][name] = learner.numbers()
        history = self.log.record(Provenance(""))
        numbers["history"] = {
            "tokens": history.tokens.tolist(),
            "curves": {k: v.tolist() for k, v in history.curves.items()},
        }
        self.folder.begin(self._done, self.processes)
        rows: dict[str, Any] = {}
        place = take_tensors_out(self.rows.state(), "rows", rows)
        self.folder.save_rows(self._done, self.processes.rank, rows, place)
        self.processes.wait()
        if self.processes.is_first:
            self.folder.save(self._done, tensors, numbers, self.coders())
        self.processes.wait()

    def _resume(self) -> bool:
        saved = None if self.folder is None else self.folder.load(self.processes.rank)
        if saved is None:
            return False
        for name, learner in self.learners.items():
            prefix = f"{name}/"
            found = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
            learner.restore(found, saved.numbers["learners"][name])
        self.rows.restore(put_tensors_back(saved.place, saved.rows))
        self.tokens = saved.numbers["tokens"]
        history = saved.numbers["history"]
        for number, tokens in enumerate(history["tokens"]):
            row = {
                name: {measure: curve[number][i] for measure, curve in history["curves"].items()}
                for i, name in enumerate(self.learners)
            }
            self.log.append(tokens, row)
        return True

    def _stop(self, received: signal.Signals | None) -> None:
        self.save()
        kept = (
            ""
            if self.folder is None
            else f"; the checkpoint in {str(self.folder.folder)!r} goes on from here"
        )
        message = f"training was stopped after {self.tokens:,} rows{kept}."
        if received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise TrainingInterrupted(message, self.coders())

    def _finish(self) -> dict[str, Coder]:
        if not self.tokens:
            raise CoderError("the source has no rows; a coder needs activations to be trained on.")
        if not len(self.log) or int(self.log.record(Provenance("")).tokens[-1]) < self.tokens:
            self._note(None)
        coders = self.coders()
        if self.folder is not None:
            if self.processes.is_first:
                self.folder.finish(coders)
            self.processes.wait()
        return coders

    def _order(self, found: Mapping[str, Coder]) -> dict[str, Coder]:
        missing = sorted(set(self.learners) - set(found))
        if missing:
            raise CoderError(f"the finished coders lack {missing[0]!r}; delete the folder to start anew.")
        return {name: found[name].to(self.device) for name in self.learners}


def _layouts(source: ActivationSource | JointSource, names: tuple[str, ...]) -> dict[str, SourceLayout]:
    if isinstance(source, JointSource):
        missing = [name for name in names if name not in source.layouts]
        if missing:
            raise CoderError(
                f"the source has activations for {sorted(source.layouts)}; coder {missing[0]!r} has none. Names of "
                "coders and of activations must agree."
            )
        return {name: source.layouts[name] for name in names}
    return dict.fromkeys(names, source.layout)
