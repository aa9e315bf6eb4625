"""The bundled model, loaded once for all tests of extraction; none leaves it changed."""

from __future__ import annotations

import pytest

import interp


@pytest.fixture(scope="session")
def mix():
    return interp.load_model("mix-4l")
