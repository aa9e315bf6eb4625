"""Attention patterns are those of a transformer written out, without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import Specimen

import interp
from interp.errors import LensError


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_patterns_of_one_prompt(kind: Specimen, side: str, make_prompts: Any, run_naive: Any):
    task = make_prompts(side)
    naive = run_naive(kind, task.clean, task.attention_mask)
    for row in (0, 3):
        found = interp.attention_patterns(kind.model, task, row)
        real = slice(int(task.offsets[row]), int(task.end[row]) + 1)
        assert found.tokens == tuple(str(i) for i in task.clean[row, real].tolist())
        assert found.prompt == row and found.layers == tuple(range(kind.model.traits.n_layers))
        for layer in found.layers:
            expected = naive.record["pattern", layer][row, :, real, real]
            torch.testing.assert_close(found.patterns[layer].double(), expected, atol=1e-5, rtol=0)


def test_tokens_masks_and_runs(gpt2: Specimen, make_prompts: Any):
    task = make_prompts("left")
    of_task = interp.attention_patterns(gpt2.model, task, 1, run="corrupted")
    of_tokens = interp.attention_patterns(gpt2.model, task.corrupted, 1, attention_mask=task.attention_mask)
    assert torch.equal(of_task.patterns, of_tokens.patterns)
    alone = interp.attention_patterns(gpt2.model, task.corrupted[1][task.mask[1]])
    assert torch.equal(of_task.patterns, alone.patterns)


@pytest.mark.parametrize("row", [5, -1])
def test_a_prompt_that_is_not_there(gpt2: Specimen, row: int, make_prompts: Any):
    with pytest.raises(LensError, match="batch_index must be 0 to 4"):
        interp.attention_patterns(gpt2.model, make_prompts(), row)
