"""Whole runs and sweeps whose attention is the kernel, beside the same without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_zoo import specimen
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.kernels import use_kernels
from interp.models.blocks import Wave, attend, mixing, run_trace, run_traces, stack_of
from interp.models.blocks.formation import Formation, join_tokens, split_tokens
from interp.models.blocks.mixing import mix_heads

pytestmark = pytest.mark.interpreter


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Queries of every launch of the kernel."""
    found: list[int] = []
    kernel = mixing.attend_prefix

    def count(q: Tensor, *others: Any) -> Tensor:
        found.append(len(q))
        return kernel(q, *others)

    monkeypatch.setattr(mixing, "attend_prefix", count)
    return found


def prompts(side: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, others that differ from them from column 5 on, and which are no padding."""
    draw = torch.Generator().manual_seed(0)
    tokens, mask = torch.randint(1, 53, (3, 8), generator=draw), torch.ones(3, 8, dtype=torch.bool)
    if side == "left":
        mask[0, :3], mask[2, :1] = False, False
    elif side == "right":
        mask[0, 6:], mask[2, 7:] = False, False
    others = tokens.clone()
    others[:, 5:] = (others[:, 5:] + torch.tensor([3, 5, 7])) % 53
    return tokens, others, mask


@pytest.mark.parametrize(
    "family, side",
    [*zip(FAMILIES, ("left", "right", "left", "left", None), strict=True), ("gemma2", "right")],
)
def test_two_runs_in_one_launch(family: str, side: str | None, launched: list[int]) -> None:
    """A run and another on its keys, padding included; whoever watches sees the same queries, keys and outputs."""
    stack = stack_of(specimen(family).model)
    tokens, others, mask = prompts(side)
    places = {(name, layer) for name in ("q", "queries", "k", "v", "z", "attn_out") for layer in (0, 1)}
    given = (stack, tokens, others, 5, mask, places, places)
    with use_kernels("reference"):
        truth = run_traces(*given)
    assert not launched
    with use_kernels("triton"):
        found = run_traces(*given)
    assert launched == [3 * 8 + 3 * 3] * 2
    for ours, theirs in zip(found, truth, strict=True):
        for a, b in zip(ours.stream, theirs.stream, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
        for a, b in zip([*ours.keys, *ours.values], [*theirs.keys, *theirs.values], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
        for place in places:
            torch.testing.assert_close(ours[place], theirs[place], atol=2e-5, rtol=1e-5, msg=str(place))


def test_who_asks_for_the_pattern_gets_it(launched: list[int]) -> None:
    stack = stack_of(specimen("llama").model)
    tokens, _, mask = prompts("left")
    with use_kernels("reference"):
        truth = run_trace(stack, tokens, mask, [("pattern", 1)])
    with use_kernels("triton"):
        found = run_trace(stack, tokens, mask, [("pattern", 1)])
    assert launched == [24], "of the other layer alone"
    torch.testing.assert_close(found["pattern", 1], truth["pattern", 1], atol=1e-5, rtol=1e-5)


def test_heads_alone_and_columns_that_are_read(launched: list[int]) -> None:
    """Given queries and keys; and a last layer that goes on with some columns only."""
    stack = stack_of(specimen("gemma2").model)
    tokens, _, mask = prompts("left")
    base = run_trace(stack, tokens, mask)
    draw = torch.Generator().manual_seed(1)
    read = torch.tensor([[6], [7], [5]])
    made = {}
    for choice in ("reference", "triton"):
        wave = Wave(0, 5, 8, torch.tensor([2, 0, 2]), torch.zeros(3, 3, 36))
        q, k, v = (torch.randn(3, 3, n, 10, generator=draw.manual_seed(n)) for n in (4, 2, 2))
        flying = [
            Wave(n, start, 8, torch.tensor(of), base.stream[1][of][:, start:] + 1.0)
            for n, (start, of) in enumerate(((5, [2, 0]), (6, [1, 1])))
        ]
        with use_kernels(choice):  # type: ignore[arg-type]
            z = mix_heads(stack.blocks[0], wave, q, k, v, base)
            attend(stack, 1, flying, base, narrow_to=read)
        made[choice] = [z, *(each.resid for each in flying)]
    assert launched == [9, 4]
    for ours, theirs in zip(made["triton"], made["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep(family: str, launched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of unequal length that begin to differ in different places; no kernel but this one runs."""
    counted = mixing.attend_prefix

    def attend_prefix(*args: Any) -> Tensor:
        with use_kernels("triton"):
            return counted(*args)

    model = interp.load_model(make_hf_model(family, seed=3, n_heads=2, n_kv_heads=1))
    tokens, others, mask = prompts("right" if family == "qwen3" else "left")
    others[1] = tokens[1]
    others[1, 3:5] = (tokens[1, 3:5] + 9) % 53
    others[2, 5] = tokens[2, 5]
    answers, wrong = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    task = interp.tasks.from_tokens(tokens, others, answers, wrong, attention_mask=mask)
    site = "z" if family in ("gpt2", "qwen3") else "resid_pre"
    scores = {}
    for choice in ("reference", "triton"):
        scores[choice] = interp.patch(model, task, sites=[site], backend="wavefront")
        assert bool(launched) == (choice == "triton")
        monkeypatch.setattr(mixing, "prefix_kernel_runs", lambda *_: True)
        monkeypatch.setattr(mixing, "attend_prefix", attend_prefix)
    ours, theirs = scores["triton"][site].raw, scores["reference"][site].raw
    assert (ours - theirs).abs().max() <= 1e-5 * (theirs.max() - theirs.min())


def test_a_formation_holds_until_its_rows_change() -> None:
    waves = [Wave(n, 5, 8, torch.tensor([0, 1]), torch.zeros(2, 3, 4)) for n in range(2)]
    first = Formation.of(waves)
    assert Formation.of(waves) is first
    assert Formation.of(waves[:1]) is not first
    first = Formation.of(waves)
    waves[1].append(torch.tensor([2]), torch.zeros(1, 3, 4))
    second = Formation.of(waves)
    assert second is not first
    assert [len(part.prompts) for part in second.rows] == [2, 3]
    waves[0].columns = torch.tensor([[6], [7]])
    assert Formation.of(waves).rows[0].columns is waves[0].columns


def test_tokens_of_waves_are_joined_without_a_copy_where_they_lie_in_line() -> None:
    flat = torch.randn(14, 6)
    parts = split_tokens(flat, [(2, 3), (0, 3), (4, 2)])
    assert [tuple(part.shape) for part in parts] == [(2, 3, 6), (0, 3, 6), (4, 2, 6)]
    assert torch.equal(join_tokens(parts), flat)
    assert join_tokens(parts).data_ptr() == flat.data_ptr()
    for apart in (parts[::-1], [parts[0], parts[2].clone()], [parts[0], flat[8:].unflatten(0, (2, 3))]):
        joined = join_tokens(apart)
        assert torch.equal(joined, torch.cat([part.flatten(0, 1) for part in apart]))
        assert joined.data_ptr() != flat.data_ptr()
    heads = [part.unflatten(-1, (3, 2))[:, :, 1:] for part in parts]
    assert torch.equal(join_tokens(heads), flat.unflatten(-1, (3, 2))[:, 1:])
