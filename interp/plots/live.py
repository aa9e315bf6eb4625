"""Training curves that redraw themselves in a notebook while a coder trains."""

from __future__ import annotations

import time
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from interp.plots.coder_history import plot_coder_history
from interp.results.coder_history import CoderHistory


class LiveCurves:
    """A callback that keeps one figure of a training run up to date in a notebook.

    Outside a notebook, and with ``enabled=False``, it does nothing. It needs no widgets: the figure is sent again
    through its display handle, at most once in ``seconds``. ``finish()`` draws what came last. ::

        curves = LiveCurves()
        for ...:
            curves(history)
        curves.finish()
    """

    def __init__(self, seconds: float = 2.0, enabled: bool = True) -> None:
        self.seconds = seconds
        self.enabled = enabled
        self._handle: Any = None
        self._drawn_at = -float("inf")
        self._pending: CoderHistory | None = None

    def __call__(self, history: CoderHistory) -> None:
        """Draw ``history`` now, or keep it for later where the last drawing was a moment ago."""
        if not self.enabled or not len(history) or not in_notebook():
            return
        self._pending = history
        if time.monotonic() - self._drawn_at >= self.seconds:
            self._draw()

    def finish(self) -> None:
        """Draw the last history, if it is not drawn yet."""
        if self._pending is not None:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        assert self._pending is not None
        bundle = _show_in_place(plot_coder_history(self._pending))
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
        self._pending = None
        self._drawn_at = time.monotonic()


def _show_in_place(figure: go.Figure) -> dict[str, Any]:
    """What a display takes; the figure's own way makes a new output every time."""
    bundle: dict[str, Any] = figure._repr_mimebundle_()
    # empty where the renderer chosen opens a browser
    return bundle or pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")
