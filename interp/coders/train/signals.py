"""Interrupts that wait for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from interp.coders.coder import Coder


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; ``coders`` holds what there is of them, by name.

    With a checkpoint folder the same call goes on where it stopped.
    """

    def __init__(self, message: str, coders: dict[str, Coder]) -> None:
        super().__init__(message)
        self.coders = coders


class StopSignals:
    """Within the block SIGINT and SIGTERM are noted, not obeyed; a second SIGINT is obeyed at once.

    Outside the main thread nothing can be noted, and signals act as before.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # a handler that was not set from Python cannot be put back
                if signal.getsignal(number) is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
