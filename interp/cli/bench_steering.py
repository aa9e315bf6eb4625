"""``interp bench steering*``: what steerings gain and what they cost."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Put these benchmarks among the others."""
