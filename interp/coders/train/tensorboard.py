"""Training curves for TensorBoard, for those who have it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from interp.errors import CoderError
from interp.results.coder_history import CoderHistory


class TensorBoardLog:
    """A callback that writes every row of a training run to TensorBoard event files in ``folder``.

    The step of a scalar is the number of tokens seen, its name the measure; with several coders each has a folder
    of its own. A run that is resumed replaces what an earlier one wrote from its first row on.

    Raises :class:`CoderError` where tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._open = _writer_class()
        self._writers: dict[str, Any] = {}
        self._written = -1

    def __call__(self, history: CoderHistory) -> None:
        """Write the rows that came since the last call."""
        new = history.tokens > self._written
        if not bool(new.any()):
            return
        first = int(history.tokens[new][0])
        for coder in history.names:
            writer = self._writer(coder, len(history.names), first)
            for measure in history.curves:
                values = history.curve(measure, coder)[new]
                for tokens, value in zip(history.tokens[new].tolist(), values.tolist(), strict=True):
                    if not math.isnan(value):
                        writer.add_scalar(measure.replace(":", "/"), value, tokens)
            writer.flush()
        self._written = int(history.tokens[-1])

    def finish(self) -> None:
        """Close the files. A later row opens new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, coder: str, n_coders: int, first: int) -> Any:
        if coder not in self._writers:
            folder = self.folder if n_coders == 1 else self.folder / _file_name(coder)
            self._writers[coder] = self._open(log_dir=str(folder), purge_step=first)
        return self._writers[coder]


def _file_name(coder: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in coder)


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise CoderError(
            f"TensorBoardLog needs tensorboard, which cannot be imported ({error}): pip install tensorboard. Training "
            "itself does not need it: leave the callback out, or take interp.plots.LiveCurves."
        ) from error
    return SummaryWriter
