"""Running a steering every way a model can run, beside the same written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, NAMES, Specimen, specimen
from naive_interventions import Prompts
from naive_steering import NaiveStep, naive_logits
from torch import Tensor

from interp.models.positions import Prompt
from interp.steering.apply import Applied

N_NEW = 3
BOUND = 1e-4
"""Of the spread of the logits: single precision against double."""

Applying = Callable[[Sequence[int]], AbstractContextManager[Applied]]
"""The block for a batch of some of the rows."""

SPECIMENS = [
    pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else []) for name in NAMES
]


@contextmanager
def left_as_found(name: str) -> Iterator[Specimen]:
    """A specimen; no hook and no changed logit may stay behind."""
    on = specimen(name)
    tokens = torch.arange(12).reshape(2, 6)
    before, logits = _hooks(on.model), on.model(tokens).detach()
    yield on
    assert _hooks(on.model) == before
    assert torch.equal(on.model(tokens), logits)


def _hooks(model: Any) -> list[Any]:
    parts = [*model.module.modules(), *model.hook_points.values()]
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [*[len(getattr(p, table)) for p in parts for table in tables], *model.active_edits]


@contextmanager
def step_logits(model: Any) -> Iterator[list[Tensor]]:
    """Logits of the last column at every step."""
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output.logits)[:, -1].detach())

    handle = model.module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def generate(
    on: Specimen, prompts: Prompts, block: AbstractContextManager[Applied], **options: Any
) -> tuple[Tensor, Tensor, Applied]:
    """Tokens, logits [batch, step, d_vocab], and where it acted."""
    options = {"max_new_tokens": N_NEW, "eos_token_id": None, **options}
    with block as applied, step_logits(on.model) as steps:
        tokens = on.model.generate(prompts.tokens, attention_mask=prompts.mask, **options)
    return tokens, torch.stack(steps, 1), applied


def check_every_way(
    on: Specimen,
    block: Applying,
    steps: Sequence[NaiveStep],
    prompts: Prompts,
    labels: Mapping[str, Tensor] | None = None,
    alone: bool = True,
) -> Tensor:
    """Cached, uncached, teacher-forced, each row alone without padding: all as written out. The tokens."""
    n, rows = prompts.tokens.shape[1], range(len(prompts.tokens))
    tokens = prompts.tokens
    for _ in range(N_NEW):
        with torch.no_grad():
            whole = naive_logits(on, steps, prompts, tokens, dict(labels or {}))
        tokens = torch.cat([tokens, whole[:, -1].argmax(-1)[:, None]], dim=1)
    expected = whole[:, n - 1 :]
    size = max(1.0, float(expected.max() - expected.min()))

    def agree(found: Tensor, wanted: Tensor, how: str) -> None:
        assert float((found - wanted).abs().max()) / size < BOUND, how

    for use_cache in (True, False):
        found, logits, applied = generate(on, prompts, block(rows), use_cache=use_cache)
        assert torch.equal(found, tokens), use_cache
        agree(logits, expected, f"use_cache={use_cache}")
        # the last new token is never read
        assert torch.equal(applied.tokens, tokens[:, :-1])
    real = torch.cat([prompts.real, torch.ones(len(tokens), N_NEW - 1).bool()], 1)
    prompt = Prompt.from_mask(len(tokens), n, prompts.mask)
    with torch.no_grad(), on.model.continuing(prompt), block(rows):
        forced = on.model(tokens[:, :-1], real)
    agree(forced[:, n - 1 :], expected, "teacher-forced")
    agree(forced[real], whole[real], "teacher-forced, within the prompt")
    for row in rows if alone else ():
        one = Prompts(prompts.tokens[row][prompts.real[row]][None])
        found, logits, _ = generate(on, one, block([row]))
        assert torch.equal(found[0, -N_NEW:], tokens[row, -N_NEW:]), row
        agree(logits[0], expected[row], f"row {row} alone")
    return tokens
