"""The training loop: batches in, steps of every coder, curves, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.sources import JointSource
from interp.coders.sources.layout import ActivationSource
from interp.coders.train.checkpoint import CheckpointFolder
from interp.coders.train.config import TrainingConfig
from interp.coders.train.curves import Callback, Curves
from interp.coders.train.distributed import Processes
from interp.coders.train.prepare import count_steps, make_learners, read_layouts
from interp.coders.train.rows import Batches, TrainingRows, put_tensors_back, take_tensors_out
from interp.coders.train.signals import StopSignals, TrainingInterrupted
from interp.results.provenance import Provenance

_NO_END = "the number of rows was not known ahead: no decay, and warm-ups as in 10,000 steps"


class CoderTraining:
    """Several coders trained on the same activations, from the first batch to the last.

    Raises :class:`CoderError` for configs that do not fit the source, and for a folder of another training.
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
        progress: bool = True,
    ) -> None:
        self.training, self.processes = training, processes
        self.progress = progress and processes.is_first
        names = tuple(configs)
        self.layouts = read_layouts(source, names)
        self.rows = TrainingRows(source, names, training, processes)
        self.n_steps = count_steps(source, training, processes.n)
        self.learners = make_learners(configs, self.layouts, training, self.n_steps, processes)
        self.tokens = 0
        self.curves = Curves(names, self._provenance(configs), callbacks if processes.is_first else ())
        self.folder = None
        if folder is not None:
            self.folder = CheckpointFolder(folder, self._question(configs), processes)

    def _question(self, configs: Mapping[str, CoderConfig]) -> dict[str, Any]:
        training = self.training.to_dict()
        # how often one is written changes nothing in what is trained
        del training["checkpoint_every"]
        return {
            "coders": {name: config.to_dict() for name, config in configs.items()},
            "training": training,
            "activations": {name: layout.to_dict() for name, layout in self.layouts.items()},
            "processes": self.processes.n,
        }

    def _provenance(self, configs: Mapping[str, CoderConfig]) -> Provenance:
        models = {layout.model for layout in self.layouts.values() if layout.model}
        return Provenance(
            ", ".join(sorted(models)) or "activations",
            method=", ".join(config.architecture for config in configs.values()),
            seed=self.training.seed,
            device=str(self.processes.device),
            notes=() if self.n_steps is not None else (_NO_END,),
        )

    def run(self) -> dict[str, Coder]:
        """Train to the end; returns the coders in evaluation mode, with their curves.

        Raises :class:`TrainingInterrupted` after Ctrl-C and :class:`SystemExit` after SIGTERM; with a folder a
        checkpoint is there then.
        """
        if self.folder is not None and (found := self.folder.finished()) is not None:
            return {name: found[name].to(self.processes.device) for name in self.learners}
        with StopSignals() as stop:
            try:
                if not self._resume():
                    self._start()
                title = "coder" if self.n_steps is not None else "coder (no decay: length not known)"
                total = None if self.n_steps is None else self.n_steps * self.training.batch_size
                self.curves.open(self.tokens, total, title, self.progress)
                with stop.hold():
                    self._loop(stop)
                return self._finish(stop)
            finally:
                self.curves.close()

    def _loop(self, stop: StopSignals) -> None:
        while (batches := self._next(stop)) is not None:
            self._step(*batches)
            self._tell(stop)
            if received := self.processes.highest(stop.received or 0):
                self._stop(received)
            if self._done % self.training.checkpoint_every == 0:
                self.save()

    @property
    def _done(self) -> int:
        return next(iter(self.learners.values())).n_steps

    def _start(self) -> None:
        first = self.rows.look()
        for name, batch in self._placed(first).items():
            self.learners[name].start(batch)

    def _next(self, stop: StopSignals) -> tuple[Batches, int] | None:
        """The next batches, and the rows that all processes have of them."""
        if self.n_steps is not None and self._done >= self.n_steps:
            return None
        try:
            batches = self.rows.next()
        except KeyboardInterrupt as error:
            if stop.received is not None:
                raise
            # rows are lost that were on their way: no checkpoint can be written here
            last = "" if self.folder is None else "; the last checkpoint is as it was"
            message = f"training was stopped in its source after {self.tokens:,} rows{last}."
            raise TrainingInterrupted(message, self.coders()) from error
        rows = 0 if batches is None else len(next(iter(batches.values())))
        total = self.processes.count_rows(rows)
        return None if batches is None or not total else (batches, total)

    def _placed(self, batches: Batches) -> Batches:
        """The batches where coders are, each moved once, in the coders' precision."""
        moved: dict[int, CoderBatch] = {}
        for batch in batches.values():
            if id(batch) not in moved:
                moved[id(batch)] = batch.to(self.processes.device, torch.float32)
        return {name: moved[id(batch)] for name, batch in batches.items()}

    def _step(self, batches: Batches, total: int) -> None:
        for name, batch in self._placed(batches).items():
            self.learners[name].step(batch, total)
        self.tokens += total
        self.curves.move(total)
        if self._done % self.training.log_every == 0 or self._done == self.n_steps:
            self._note()

    def _note(self) -> None:
        self.curves.add(self.tokens, {name: learner.figures() for name, learner in self.learners.items()})

    def _tell(self, stop: StopSignals) -> None:
        """Call back; what goes wrong there costs no step."""
        try:
            self.curves.tell()
        except KeyboardInterrupt:
            if stop.received is not None:
                raise
            self._stop(signal.SIGINT)
        except Exception:
            # the other processes wait for the next step, not for a checkpoint
            if self.processes.n == 1:
                self.save()
            raise

    def coders(self) -> dict[str, Coder]:
        """The coders as they are now, in units of the activations."""
        found = {}
        for name, learner in self.learners.items():
            coder, layout = learner.finished(), self.layouts[name]
            coder.history = self.curves.of_one(name)
            figures = coder.history.last()
            figures.pop("tokens_per_second", None)
            coder.metadata = {
                "model": layout.model,
                "tokens": self.tokens,
                "steps": self._done,
                "planned_steps": self.n_steps,
                "training": self.training.to_dict(),
                "activations": layout.to_dict(),
                "figures": figures,
            }
            found[name] = coder
        return found

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it; each process keeps its own rows."""
        if self.folder is None:
            return
        tensors: dict[str, Any] = {}
        numbers: dict[str, Any] = {"tokens": self.tokens, "learners": {}, "curves": self.curves.state()}
        for name, learner in self.learners.items():
            tensors |= {f"{name}/{key}": value for key, value in learner.tensors().items()}
            numbers["learners"][name] = learner.numbers()
        rows: dict[str, Any] = {}
        place = take_tensors_out(self.rows.state(), "rows", rows)
        self.folder.save(self._done, tensors, numbers, rows, place, self.coders())

    def _resume(self) -> bool:
        saved = None if self.folder is None else self.folder.load()
        if saved is None:
            return False
        for name, learner in self.learners.items():
            prefix = f"{name}/"
            found = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
            learner.restore(found, saved.numbers["learners"][name])
        self.rows.restore(put_tensors_back(saved.place, saved.rows))
        self.tokens = saved.numbers["tokens"]
        self.curves.restore(saved.numbers["curves"])
        return True

    def _stop(self, received: int) -> None:
        self.save()
        if received == signal.SIGTERM:
            raise SystemExit(128 + received)
        kept = (
            ""
            if self.folder is None
            else f"; the checkpoint in {str(self.folder.folder)!r} goes on from here"
        )
        raise TrainingInterrupted(f"training was stopped after {self.tokens:,} rows{kept}.", self.coders())

    def _finish(self, stop: StopSignals) -> dict[str, Coder]:
        if self.curves.last < self.tokens:
            self._note()
        self._tell(stop)
        coders = self.coders()
        if self.folder is not None:
            self.folder.finish(coders, self.curves.record())
        return coders
