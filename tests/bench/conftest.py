"""A model and prompts small enough to run the peer on in a moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interp.bench.cases import Shape
from interp.models.threads import hold_threads


@pytest.fixture(scope="session")
def tiny() -> Shape:
    return Shape(n_layers=2, d_model=32, n_heads=2, d_vocab=97)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine would take minutes."""
    with hold_threads(1):
        yield
