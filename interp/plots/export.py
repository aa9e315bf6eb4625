"""Figures out of the notebook: pieces of HTML, and image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from interp.errors import ExportError
from interp.plots.attention import CHOOSES

IMAGE_FORMATS = ("png", "svg", "pdf", "jpg", "jpeg", "webp")

# The thumbnails of plot_attention carry the number of the button that enlarges them.
_CLICKS = """
(function (figure) {
  figure.on("plotly_click", function (event) {
    var which = event.points[0].customdata, args;
    if (event.points[0].data.meta !== "%s") { return; }
    args = figure.layout.updatemenus[0].buttons[which].args;
    Plotly.restyle(figure, args[0], args[1]);
    Plotly.relayout(figure, {"updatemenus[0].active": which});
  });
})(document.getElementById("{plot_id}"));
"""


def figure_html(figure: go.Figure, div_id: str | None = None) -> str:
    """A figure as a ``<div>`` for a page that loads plotly.js itself, once for all its figures.

    Clicking a thumbnail of :func:`plot_attention` enlarges it. ``div_id`` fixes the id, which is
    random otherwise.
    """
    chooses = any(trace.meta == CHOOSES for trace in figure.data)
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=div_id,
        config={"displaylogo": False, "responsive": False},
        post_script=_CLICKS.replace("%s", CHOOSES) if chooses else None,
    )
    return html


def write_image(figure: go.Figure, path: str | Path, scale: float = 2.0) -> Path:
    """Write a figure as a static image; the ending of ``path`` says which kind.

    Needs the ``export`` extra (kaleido) and a Chrome or Chromium on this machine. Raises
    :class:`ExportError` when one of them is missing, the ending is unknown, or writing fails.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in IMAGE_FORMATS:
        raise ExportError(
            f"cannot write an image to {str(path)!r}: the ending must be one of {', '.join(IMAGE_FORMATS)}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = _render(figure, kind, scale)
        path.write_bytes(image)
    except OSError as error:
        raise ExportError(f"cannot write {str(path)!r}: {error}.") from error
    return path


def _render(figure: go.Figure, kind: str, scale: float) -> bytes:
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise ExportError(
            "static images are drawn by kaleido, which is not installed; install the 'export' extra: "
            "pip install 'interp[export]'. It also needs Chrome or Chromium on this machine."
        ) from error
    try:
        image: Any = figure.to_image(format=kind, scale=scale)
    except Exception as error:  # kaleido and its browser driver raise many unrelated types
        raise ExportError(
            f"kaleido could not draw the figure ({type(error).__name__}: {error}). It needs Chrome or "
            "Chromium: install one, or name it in the environment variable BROWSER_PATH."
        ) from error
    return bytes(image)
