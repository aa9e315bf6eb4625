"""Watching: detectors that read every token a model reads, while it generates.

A detector's running score at a token pools the tokens read so far, so its last one is the score of the whole
text. The token that a generation ends with is never read by the model, and has no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.hooks import ForwardTracker
from interp.models.intervene import intervene
from interp.models.interventions import Intervention, Place
from interp.models.model import Model
from interp.steering.monitor.detector import Detector
from interp.steering.steering import place_of
from interp.types import Site

OnAlarm = Literal["flag", "raise", "stop"]
_ON_ALARM = ("flag", "raise", "stop")


class AlarmError(SteeringError):
    """A watched detector rose above its threshold. ``alarms`` says which, in which rows and where."""

    def __init__(self, message: str, watched: Watched) -> None:
        super().__init__(message)
        self.watched = watched
        self.alarms = watched.alarms


@dataclass(frozen=True)
class Alarm:
    """The first token of a row at which a running score is above the threshold."""

    detector: str
    row: int
    column: int
    score: float
    threshold: float


class Watched:
    """What detectors read of the prompts run last and their continuation; grows with every forward."""

    def __init__(
        self, model: Model, detectors: Mapping[str, Detector], on_alarm: OnAlarm, min_tokens: int
    ) -> None:
        self.model = model
        self.detectors = dict(detectors)
        self.on_alarm = on_alarm
        self.min_tokens = min_tokens
        self.stopped = False
        """Whether an alarm ended the block (``on_alarm="stop"``); :attr:`tokens` are those read until then."""
        self._tracker = ForwardTracker(model)
        self._tokens: Tensor | None = None
        self._values: dict[Site, Tensor] = {}
        self._scores: dict[str, Tensor] = {}
        self._chosen: dict[str, Tensor] = {}

    @property
    def tokens(self) -> Int[Tensor, "batch total"]:
        """The tokens that were read, those of the KV cache too. Raises :class:`SteeringError` before a forward."""
        if self._tokens is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._tokens

    def scores(self, name: str | None = None) -> Float[Tensor, "batch total"]:
        """Score of every token, NaN on padding. Raises :class:`SteeringError` for an unknown detector."""
        return self._scores[self._name(name)]

    def chosen(self, name: str | None = None) -> Bool[Tensor, "batch total"]:
        """The tokens that a detector pools."""
        return self._chosen[self._name(name)]

    def running(self, name: str | None = None) -> Float[Tensor, "batch total"]:
        """The detector's score of the text up to each token; NaN before the first that counts."""
        name = self._name(name)
        return self.detectors[name].running(self._scores[name], self._chosen[name])

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """For every detector with a threshold and every row, where it first rose above it."""
        found = []
        for name, detector in self.detectors.items():
            if detector.threshold is None or name not in self._scores:
                continue
            running, over = self.running(name), self._over(name)
            for row in over.any(1).nonzero()[:, 0].tolist():
                column = int(over[row].long().argmax())
                found.append(Alarm(name, row, column, float(running[row, column]), detector.threshold))
        return tuple(found)

    def stopping(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Bool[Tensor, " batch"]:
        """A stopping criterion for ``model.generate(..., stopping_criteria=[watched.stopping])``.

        Ends each row by itself, as soon as any detector has raised an alarm there.
        """
        over = [self._over(name).any(1) for name, one in self.detectors.items() if one.threshold is not None]
        ended = torch.stack(over).any(0) if over else torch.zeros(len(input_ids), dtype=torch.bool)
        return ended.to(input_ids.device)

    def _over(self, name: str) -> Bool[Tensor, "batch total"]:
        chosen = self._chosen[name]
        enough = chosen.long().cumsum(1) >= self.min_tokens
        return (self.running(name) > self.detectors[name].limit) & chosen & enough

    def _name(self, name: str | None) -> str:
        self.tokens  # noqa: B018  # raises before a forward
        if name is None:
            if len(self.detectors) > 1:
                raise SteeringError(f"say which detector: {', '.join(self.detectors)}.")
            return next(iter(self.detectors))
        if name not in self.detectors:
            raise SteeringError(unknown_name("detector", name, self.detectors))
        return name

    def before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook for the model's module: follows tokens."""
        self._tracker.before_forward(module, args, kwargs)
        tokens, columns = self._tracker.tokens, self._tracker.columns
        assert tokens is not None
        tokens = tokens.detach().cpu()
        self._values.clear()
        if not columns.start:
            self._tokens = tokens
            self._scores.clear()
            self._chosen.clear()
            return
        if self._tokens is None or len(self._tokens) != len(tokens):
            raise SteeringError(
                "the first forward inside the block continues a KV cache from outside; a watch must see the prompt."
            )
        if self.model.beams > 1:
            raise SteeringError(
                "beams change places under a KV cache, and no row has scores of its own; generate with "
                "use_cache=False or num_beams=1."
            )
        self._tokens = torch.cat([self._tokens[:, : columns.start], tokens], dim=1)

    def keep(self, site: Site, value: Tensor) -> None:
        """An activation of the forward now running."""
        self._values[site] = value.detach()

    def after_forward(self, *_: Any) -> None:
        """A forward hook for the model's module: scores what was kept, and rings."""
        columns = self._tracker.columns
        for name, one in self.detectors.items():
            scores = torch.where(columns.real, one.read(self._values).cpu(), torch.nan)
            chosen = one.choose(self.model, self.tokens, columns)
            if columns.start:
                scores = torch.cat([self._scores[name][:, : columns.start], scores], dim=1)
                chosen = torch.cat([self._chosen[name][:, : columns.start], chosen], dim=1)
            self._scores[name], self._chosen[name] = scores, chosen
        self._values.clear()
        if self.on_alarm != "flag" and self.alarms:
            first = self.alarms[0]
            raise AlarmError(
                f"{first.detector} is at {first.score:.4g} in row {first.row}, column {first.column}: above its "
                f"threshold {first.threshold:.4g} ({len(self.alarms)} alarms).",
                self,
            )


@contextmanager
def watch(
    model: Model,
    detectors: Detector | Sequence[Detector],
    on_alarm: OnAlarm = "flag",
    *,
    min_tokens: int = 1,
) -> Iterator[Watched]:
    """Read detectors at every token of every forward inside the block, generation with a cache or without.

    On an alarm (a running score above the threshold) ``"flag"`` goes on, and :attr:`Watched.alarms` tells;
    ``"raise"`` raises :class:`AlarmError`; ``"stop"`` leaves the block quietly, with :attr:`Watched.stopped`.
    ``min_tokens`` must have been pooled first: a mean over few is noisy. A threshold was calibrated on whole
    prompts; a score that is looked at after every token has more chances to pass it, and flags more often than
    the rate says, except with ``pooling="max"``, whose last score is the highest. For a threshold on generated
    text watch some that should not ring, then ``detector.with_threshold(watched.running()[:, -1], rate)``.

    A steering that is active outside the block is seen, one inside is not. Example::

        with watch(model, detector, on_alarm="stop") as watched:
            tokens = model.generate("The baker", 40)
        print(watched.alarms, watched.running())

    Raises :class:`SteeringError` for no or equally named detectors, a model they were not made for, and an alarm
    that is to act without a threshold.
    """
    listed = [detectors] if isinstance(detectors, Detector) else list(detectors)
    named = {one.name: one for one in listed}
    if not listed or len(named) < len(listed):
        raise SteeringError(
            f"a watch needs detectors of different names; got {[one.name for one in listed]}."
        )
    if on_alarm not in _ON_ALARM:
        raise SteeringError(unknown_name("answer to an alarm", on_alarm, _ON_ALARM))
    if min_tokens < 1:
        raise SteeringError(f"min_tokens is at least 1; got {min_tokens}.")
    for one in listed:
        one.check_model(model)
        if on_alarm != "flag":
            _ = one.limit
    watched = Watched(model, named, on_alarm, min_tokens)
    places = dict.fromkeys(place_of(site) for one in listed for site in one.sites)
    handles = [
        model.module.register_forward_pre_hook(watched.before_forward, with_kwargs=True),
        model.module.register_forward_hook(watched.after_forward),
    ]
    try:
        with intervene(model, [_reader(place, watched) for place in places]):
            yield watched
    except AlarmError as error:
        if error.watched is not watched or on_alarm != "stop":
            raise
        watched.stopped = True
    finally:
        for handle in handles:
            handle.remove()


def _reader(site: Site, watched: Watched) -> Intervention:
    def read(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        watched.keep(site, part.flatten(2))
        return part, None

    return Intervention(site, "read", read)
