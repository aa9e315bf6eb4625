"""Interrupts that wait for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from interp.coders.coder import Coder


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; ``coders`` holds what there is of them, by name, with their curves.

    They are in units of the activations and can be used as they are (:func:`interp.train_coder`'s one is named
    ``"coder"``). With a checkpoint folder the same call goes on where it stopped.
    """

    def __init__(self, message: str, coders: dict[str, Coder]) -> None:
        super().__init__(message)
        self.coders = coders


class StopSignals:
    """Takes SIGINT and SIGTERM within the block, and gives them back after it.

    While they are held they are noted in ``received``, not obeyed, but for a second SIGINT. Otherwise they act at
    once: SIGINT raises ``KeyboardInterrupt``, SIGTERM ``SystemExit`` with status 143. Signals that were ignored
    before stay so, and outside the main thread, where nothing can be noted, all act as before.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._holds = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # a handler that was not set from Python cannot be put back
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Note signals instead of obeying them."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._holds and number == signal.SIGTERM:
            raise SystemExit(128 + number)
        if number == signal.SIGINT and (not self._holds or self.received is not None):
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
