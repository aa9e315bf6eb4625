"""The curves of a training: a point every few steps, the progress bar, and those who are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm.auto import tqdm

from interp.results.coder_history import CoderHistory, CoderLog
from interp.results.provenance import Provenance

Callback = Callable[[CoderHistory], None]
"""Called with the curves so far, whenever they have a new point. Its ``finish()``, where it has one, is called when
training ends or stops; a ``KeyboardInterrupt`` that it raises stops training as Ctrl-C does."""


class Curves:
    """Points of all coders so far, and speed since this process began."""

    def __init__(self, names: Sequence[str], provenance: Provenance, callbacks: Sequence[Callback]) -> None:
        self.provenance = provenance
        self.callbacks = tuple(callbacks)
        self._log = CoderLog(names)
        self._bar: Any = None
        self._began, self._tokens = time.perf_counter(), 0
        self._told = 0

    def open(self, tokens: int, total: int | None, title: str, progress: bool) -> None:
        """Begin the bar, and to count time, at ``tokens``."""
        self._bar = tqdm(total=total, unit="tok", unit_scale=True, desc=title, disable=not progress)
        self._bar.update(tokens)
        self._began, self._tokens = time.perf_counter(), tokens
        self._told = len(self._log)

    def close(self) -> None:
        """End the bar, and let callbacks finish."""
        if self._bar is not None:
            self._bar.close()
        for callback in self.callbacks:
            finish = getattr(callback, "finish", None)
            if callable(finish):
                finish()

    def move(self, rows: int) -> None:
        """Move the bar."""
        self._bar.update(rows)

    @property
    def last(self) -> int:
        """Tokens at the last point, -1 without one."""
        return int(self.record().tokens[-1]) if len(self._log) else -1

    def add(self, tokens: int, figures: Mapping[str, dict[str, float]]) -> None:
        """A point, from the figures of every coder."""
        seconds = time.perf_counter() - self._began
        speed = {"tokens_per_second": (tokens - self._tokens) / seconds if seconds else float("nan")}
        self._log.append(tokens, {name: found | speed for name, found in figures.items()})
        shown = next(iter(figures.values()))
        if self._bar is not None:
            text = {
                "l0": f"{shown['l0']:.1f}",
                "fvu": f"{shown['fvu']:.3f}",
                "dead": f"{shown['dead_frac']:.1%}",
            }
            self._bar.set_postfix(text)

    def tell(self) -> None:
        """Call back, if there is a point that was not told."""
        if len(self._log) > self._told and self.callbacks:
            history = self.record()
            for callback in self.callbacks:
                callback(history)
        self._told = len(self._log)

    def record(self) -> CoderHistory:
        """The curves so far."""
        return self._log.record(self.provenance)

    def of_one(self, name: str) -> CoderHistory:
        """Those of one coder."""
        return pick_coder(self.record(), name)

    def state(self) -> dict[str, Any]:
        """The points, JSON-ready."""
        history = self.record()
        curves = {measure: curve.tolist() for measure, curve in history.curves.items()}
        return {"tokens": history.tokens.tolist(), "curves": curves}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._log = CoderLog(self._log.names)
        for number, tokens in enumerate(state["tokens"]):
            row = {
                name: {measure: curve[number][i] for measure, curve in state["curves"].items()}
                for i, name in enumerate(self._log.names)
            }
            self._log.append(tokens, row)


def pick_coder(history: CoderHistory, name: str) -> CoderHistory:
    """The curves of one of several coders; measures that it has not are left out."""
    number = history.names.index(name)
    curves = {measure: curve[:, number : number + 1] for measure, curve in history.curves.items()}
    return replace(
        history, names=(name,), curves={m: c for m, c in curves.items() if not bool(c.isnan().all())}
    )
