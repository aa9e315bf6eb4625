"""Every kind of model is made before anything is drawn: making one uses the ``random`` module."""

from __future__ import annotations

import pytest
from model_zoo import NAMES, specimen


@pytest.fixture(scope="session", autouse=True)
def zoo() -> None:
    for name in NAMES:
        specimen(name)
