"""Outputs of heads: against a transformer written out, and what reading them leaves behind."""

from __future__ import annotations

import pytest
import torch
from model_zoo import HOOKED, NAMES, specimen
from random_tasks import random_task

import interp
from interp.circuits.discrete.activations import HeadOutputs, read_head_outputs
from interp.errors import CircuitError, LensError
from interp.lenses.prompts import PromptBatch, read_prompts
from interp.models.hooks import installed_edits
from interp.patching.budget import DEFAULT_BUDGET, bytes_per_row

MARKED = [
    pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else []) for name in NAMES
]
WIDTH = 9


def batches_of(kind, side: str) -> list[PromptBatch]:
    task = random_task([9, 4, 6, 9, 5], side, [1] * 5, seed=2)
    return [read_prompts(kind.model, task), read_prompts(kind.model, task, run="corrupted")]


def written_out(kind, batches: list[PromptBatch]) -> dict[str | None, torch.Tensor]:
    """[prompt, layer, head, d_model] by place: one prompt and one token after the other, in float64."""
    found: dict[str | None, list[torch.Tensor]] = {None: [], "END": [], "S": []}
    for batch in batches:
        for row in range(len(batch)):
            tokens = batch.tokens[row][batch.columns.real[row]]
            record: dict = {}
            kind.naive(tokens[None], record=record)
            layers = [record["result", layer][0] for layer in range(kind.model.traits.n_layers)]
            result = torch.stack(layers, 1)
            found[None].append(sum(result) / len(tokens))
            found["END"].append(result[len(tokens) - 1])
            found["S"].append(result[int(batch.labels["S"][row])])
    return {place: torch.stack(results) for place, results in found.items()}


def all_heads(outputs: HeadOutputs) -> torch.Tensor:
    n_layers, n_heads = outputs.z.shape[1:3]
    return torch.stack(
        [torch.stack([outputs.of_head(i, j) for j in range(n_heads)], 1) for i in range(n_layers)], 1
    )


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_are_z_times_W_O_averaged_over_real_tokens(name, side):
    kind = specimen(name)
    batches = batches_of(kind, side)
    for at, expected in written_out(kind, batches).items():
        found = all_heads(read_head_outputs(kind.model, batches, at, DEFAULT_BUDGET, False))
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


def test_rows_are_numbered_heads_innermost():
    outputs = HeadOutputs(torch.randn(3, 2, 4, 5), tuple(torch.randn(2, 4, 5, 7)), scale=2.0)
    flat = all_heads(outputs).flatten(0, 2)
    numbers = torch.tensor([7, 0, 23, 7, 12, 3, 0, 20])
    torch.testing.assert_close(outputs.rows(numbers), flat[numbers])
    assert outputs.n_rows == len(flat)
    torch.testing.assert_close(outputs.mean_output(), flat.mean(0))
    around = torch.randn(7)
    expected = (flat - around).square().sum(1).mean()
    assert outputs.mean_square(around) == pytest.approx(float(expected), rel=1e-5)


def test_shifting_is_taking_outputs_off():
    outputs = HeadOutputs(torch.randn(6, 2, 3, 5), tuple(torch.randn(2, 3, 5, 8)))
    shifted = all_heads(outputs.shifted(outputs.z.mean(0)).scaled(4.0))
    plain = all_heads(outputs)
    torch.testing.assert_close(shifted, (plain - plain.mean(0)) / 4, atol=1e-5, rtol=1e-5)
    chosen = torch.tensor([True, False, True, True, False, False])
    torch.testing.assert_close(all_heads(outputs.select(chosen)), plain[chosen])


def test_a_small_budget_changes_the_batches_only(monkeypatch):
    kind = specimen("llama")
    batches = batches_of(kind, "left")
    whole = read_head_outputs(kind.model, batches, None, DEFAULT_BUDGET, False)
    sizes = []
    call = type(kind.model).__call__

    def watched(model, tokens, *args, **options):
        sizes.append(len(tokens))
        return call(model, tokens, *args, **options)

    monkeypatch.setattr(type(kind.model), "__call__", watched)
    budget = 2 * bytes_per_row(kind.model, WIDTH, 1)
    parts = read_head_outputs(kind.model, batches, None, budget, False)
    assert sizes == [2, 2, 1, 2, 2, 1]
    torch.testing.assert_close(parts.z, whole.z)


def test_nothing_larger_than_one_layer_of_z_is_made(monkeypatch):
    kind = specimen("gpt2")
    batches = batches_of(kind, "left")
    traits, shapes = kind.model.traits, []
    einsum = torch.einsum

    def watched(equation, *tensors):
        shapes.extend(tensor.shape for tensor in tensors)
        return einsum(equation, *tensors)

    monkeypatch.setattr(torch, "einsum", watched)
    read_head_outputs(kind.model, batches, None, DEFAULT_BUDGET, False)
    largest = 5 * WIDTH * traits.n_heads * traits.d_head
    assert max(shape.numel() for shape in shapes) == largest
    assert read_head_outputs(kind.model, batches, None, DEFAULT_BUDGET, False).z.shape == (
        10, traits.n_layers, traits.n_heads, traits.d_head,
    )  # fmt: skip


def test_interventions_on_z_are_seen_and_on_result_refused():
    kind = specimen("gpt2")
    batches = batches_of(kind, "right")[:1]
    with interp.intervene(kind.model, [interp.zero("z[0.1]")]):
        found = read_head_outputs(kind.model, batches, None, DEFAULT_BUDGET, False)
    assert float(found.of_head(0, 1).abs().max()) == 0
    assert float(found.of_head(0, 0).abs().max()) > 0
    with (
        pytest.raises(CircuitError, match="intervention on 'result' is in force"),
        interp.intervene(kind.model, [interp.zero("result[0.1]")]),
    ):
        read_head_outputs(kind.model, batches, None, DEFAULT_BUDGET, False)
    assert kind.model.active_edits == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_no_hook(error, monkeypatch):
    kind = specimen("gpt2")

    def interrupt(*_):
        raise error

    monkeypatch.setattr("interp.circuits.discrete.activations.split_heads", interrupt)
    with installed_edits(kind.model, []):
        before = {name: len(point._forward_hooks) for name, point in kind.model.hook_points.items()}
        with pytest.raises(error):
            read_head_outputs(kind.model, batches_of(kind, "left"), None, DEFAULT_BUDGET, False)
        after = {name: len(point._forward_hooks) for name, point in kind.model.hook_points.items()}
    assert before == after
    assert kind.model.active_edits == []


def test_positions_that_a_prompt_has_not_are_refused():
    kind = specimen("gpt2")
    with pytest.raises(LensError, match="row 1 has no token at positions 7"):
        read_head_outputs(kind.model, batches_of(kind, "left"), 7, DEFAULT_BUDGET, False)
