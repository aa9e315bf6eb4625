"""Every kind of model in turn, and a guard that each test leaves them as it found them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, NAMES, Specimen, specimen

TOKENS = torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(0))


def _param(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])


def _hooks_of(model: Any) -> list[Any]:
    """All that is registered anywhere on a model, by identity."""
    parts = [*model.module.modules(), *model.hook_points.values()]
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = [sorted(getattr(part, table)) for part in parts for table in tables]
    return [*found, list(model.active_edits), sorted(model.edit_handles), list(model.edited_results)]


@pytest.fixture(params=[_param(name) for name in NAMES])
def kind(request: pytest.FixtureRequest) -> Iterator[Specimen]:
    """Every kind of model; a test that leaves a hook or a changed logit behind fails."""
    found = specimen(request.param)
    before = _hooks_of(found.model)
    yield found
    assert _hooks_of(found.model) == before
    with torch.no_grad():
        assert torch.equal(found.model(TOKENS), _logits_at_first(found.name))


_FIRST: dict[str, torch.Tensor] = {}


def _logits_at_first(name: str) -> torch.Tensor:
    if name not in _FIRST:
        with torch.no_grad():
            _FIRST[name] = specimen(name).model(TOKENS)
    return _FIRST[name]


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three prompts of nine tokens."""
    return TOKENS.clone()


@pytest.fixture
def gpt2() -> Specimen:
    """The usual kind, where one is enough."""
    return specimen("gpt2")
