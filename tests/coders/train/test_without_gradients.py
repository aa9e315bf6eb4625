"""Training where gradients are switched off around it, as notebooks do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from coder_toys import KINDS, SHORT, differences, draw_rows

from interp.coders import train_coders


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_gradients_change_nothing(kind: str) -> None:
    options: dict[str, Any] = {**SHORT, "tokens": 300, "progress": False}
    usual = train_coders({"a": KINDS[kind]}, draw_rows(kind), **options)
    with torch.no_grad():
        found = train_coders({"a": KINDS[kind]}, draw_rows(kind), **options)
        assert not torch.is_grad_enabled()
    assert differences(usual, found) == []
    assert all(weights.requires_grad for weights in found["a"].parameters())
