"""``interp.patch`` beside ``transformer_lens.patching``, run on the same wrapped model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny_models import make_hf_model
from torch import Tensor
from transformer_lens import patching

import interp
from interp.models.model import Model
from interp.tasks.base import PromptPairs

LAYER_HEAD_POS = (0, 2, 1)
"""TransformerLens puts positions before heads, this package heads before positions."""

SWEEPS = {
    "resid_pre": ("resid_pre", None),
    "resid_mid": ("resid_mid", None),
    "attn_out": ("attn_out", None),
    "mlp_out": ("mlp_out", None),
    "z": ("attn_head_out_all_pos", None),
    "q": ("attn_head_q_all_pos", None),
    "k": ("attn_head_k_all_pos", None),
    "v": ("attn_head_v_all_pos", None),
    "pattern": ("attn_head_pattern_all_pos", None),
    "z@pos": ("attn_head_out_by_pos", LAYER_HEAD_POS),
    "q@pos": ("attn_head_q_by_pos", LAYER_HEAD_POS),
    "k@pos": ("attn_head_k_by_pos", LAYER_HEAD_POS),
    "v@pos": ("attn_head_v_by_pos", LAYER_HEAD_POS),
    "pattern@pos": ("attn_head_pattern_by_pos", None),
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def logit_difference(task: PromptPairs) -> Callable[[Tensor], Tensor]:
    """The metric for TransformerLens, written out: mean over prompts, each at its own last token."""
    rows = torch.arange(len(task))

    def metric(logits: Tensor) -> Tensor:
        last = logits[rows, task.lengths - 1]
        return (last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]).mean()

    return metric


def assert_equal_to_transformer_lens(model: Model, task: PromptPairs, sites: list[str]) -> None:
    bridge: Any = model.bridge
    metric = logit_difference(task)
    ours = interp.patch(model, task, sites, progress=False)
    _, cache = bridge.run_with_cache(task.clean)
    for site in sites:
        name, order = SWEEPS[site]
        theirs = getattr(patching, f"get_act_patch_{name}")(bridge, task.corrupted, cache, metric)
        theirs = theirs if order is None else theirs.permute(order)
        torch.testing.assert_close(
            ours[site].raw, theirs, atol=1e-5, rtol=0, msg=lambda m, s=site: f"{s}: {m}"
        )
        assert float((theirs - metric(bridge(task.corrupted))).abs().max()) > 1e-3, site


def test_every_sweep_on_a_random_model() -> None:
    hf = make_hf_model("gpt2", seed=3, n_layers=2, n_heads=3, d_model=33, d_mlp=41)
    draw = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(1, 53, (3, 5), generator=draw) for _ in range(2))
    task = PromptPairs(clean, corrupted, torch.tensor([7, 11, 2]), torch.tensor([4, 5, 30]))
    assert_equal_to_transformer_lens(interp.load_model(hf), task, list(SWEEPS))


def test_the_bundled_model_on_ioi() -> None:
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=4, template="ABBA")
    # one prompt is shorter: padded on the right, its own tokens are where they would be alone
    assert len(set(task.lengths.tolist())) > 1 and bool((task.offsets == 0).all())
    assert_equal_to_transformer_lens(model, task, ["z", "pattern", "resid_pre"])
