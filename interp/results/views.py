"""How a record reaches its picture.

Records stand below the plots and must not import them, so the plotting function is looked up by
name when a figure is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any


def draw(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call ``interp.plots.<name>`` and return its plotly figure."""
    return getattr(importlib.import_module("interp.plots"), name)(*args, **kwargs)
