"""Block functions beside the models they are made from: logits, resuming, and when they are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from model_zoo import make_bare, specimen
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.models.blocks import (
    Stack,
    UnsupportedError,
    Wave,
    attend,
    run_mlp,
    run_trace,
    run_traces,
    stack_of,
)
from interp.models.model import Model

SUPPORTED = (
    *FAMILIES,
    "neox_sequential",
    "qwen3_biased",
    "plain",
    "attention_only",
    "no_norm",
    "gated",
)


def prompts(seed: int = 0, side: str | None = "left") -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 53, (3, 11), generator=draw)
    mask = torch.ones(3, 11, dtype=torch.bool)
    if side == "left":
        mask[0, :4], mask[2, :1] = False, False
    elif side == "right":
        mask[0, 7:], mask[2, 10:] = False, False
    return tokens, mask


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_are_the_models(name: str, side: str | None) -> None:
    model = specimen(name).model
    tokens, mask = prompts(1, side)
    stack = stack_of(model)
    ours = stack.unembed(run_trace(stack, tokens, mask).stream[-1])
    theirs = model(tokens, None if side is None else mask)
    torch.testing.assert_close(ours[mask], theirs[mask], atol=2e-5, rtol=1e-5)
    vocab = torch.tensor([[1, 5], [7, 52], [0, 3]])
    some = stack.unembed(run_trace(stack, tokens, mask).stream[-1], vocab)
    torch.testing.assert_close(some, ours.gather(2, vocab[:, None].expand(-1, 11, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_activation_is_the_one_that_hooks_see(name: str) -> None:
    model, stack = specimen(name).model, stack_of(specimen(name).model)
    tokens, mask = prompts(2)
    wanted = [c for c in model.components if c != "result"]
    places = {(c, 0 if c == "embed" else layer) for c in wanted for layer in (0, 1)}
    trace = run_trace(stack, tokens, mask, places)
    hooked = interp.capture(model, tokens, wanted, attention_mask=mask)
    for component, layer in places:
        theirs = hooked[component] if component == "embed" else hooked[component][layer]
        ours, real = trace[component, layer], mask
        if component in ("pattern", "attn_scores"):
            ours, theirs = ours.transpose(1, 2)[mask], theirs.transpose(1, 2)[mask]
            # masked scores are the smallest number here, minus infinity or a large one elsewhere
            ours, theirs = (x.masked_fill(x < -1e4, -1e4) for x in (ours, theirs))
        else:
            ours, theirs = ours[real], theirs[real]
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4, msg=lambda m, c=component: f"{c}: {m}")


@pytest.mark.parametrize("name", SUPPORTED)
def test_resuming_after_a_shared_prefix(name: str) -> None:
    stack = stack_of(specimen(name).model)
    tokens, mask = prompts(3)
    other = tokens.clone()
    other[:, 6:] = prompts(4)[0][:, 6:]
    places = {("z", 0), ("pattern", 1), ("k", 1)}
    base, resumed = run_traces(stack, tokens, other, 6, mask, wanted_of_others=places)
    whole = run_trace(stack, other, mask, places)
    for place in places:
        # padding sees everything, later columns too, and is seen by none
        ours, theirs = (
            x.transpose(1, 2) if place[0] == "pattern" else x for x in (resumed[place], whole[place])
        )
        torch.testing.assert_close(ours[mask], theirs[mask], atol=2e-5, rtol=1e-4)
    for ours, theirs in zip(resumed.stream, whole.stream, strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask], atol=2e-5, rtol=1e-4)
    # what comes before is the base run's own, to the bit
    assert torch.equal(resumed["z", 0][:, :6], base["z", 0][:, :6])


@pytest.mark.parametrize("name", SUPPORTED)
def test_rows_of_several_waves_from_any_layer(name: str) -> None:
    """Rows that begin at other columns and prompts, in one flight, against whole runs of each."""
    model = specimen(name).model
    stack = stack_of(model)
    tokens, mask = prompts(5)
    base = run_trace(stack, tokens, mask)
    waves, changes = [], []
    for number, (start, rows) in enumerate(((5, [0, 2, 2]), (9, [1]), (4, [0, 1]))):
        which = torch.tensor(rows)
        changed = base.stream[1][which].clone()
        changed[:, start:] += torch.randn(
            changed[:, start:].shape, generator=torch.Generator().manual_seed(6)
        )
        changes += [(row, changed[i : i + 1]) for i, row in enumerate(rows)]
        waves.append(Wave(number, start, 11, which, changed[:, start:].clone()))
    attend(stack, 1, waves, base)
    run_mlp(stack, 1, waves)
    ours = [stack.unembed(wave.resid[i : i + 1]) for wave in waves for i in range(wave.n_rows)]
    for (row, stream), logits in zip(changes, ours, strict=True):
        with interp.intervene(model, interp.replace("resid_pre[1]", stream)):
            theirs = model(tokens[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(logits[0], theirs[0, -logits.shape[1] :], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_not_copied(name: str) -> None:
    model = specimen(name).model
    owned = {p.untyped_storage().data_ptr() for p in model.module.parameters()}
    for block in stack_of(model).blocks:
        maps = (block.queries, block.keys, block.values, block.output, block.mlp_in, block.mlp_out)
        for linear in maps:
            assert linear.weight.untyped_storage().data_ptr() in owned


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision(name: str) -> None:
    model = interp.load_model(make_hf_model(name, seed=7, dtype=torch.bfloat16))
    tokens, mask = prompts(8)
    stack = stack_of(model)
    ours = stack.unembed(run_trace(stack, tokens, mask).stream[-1]).float()[mask]
    theirs = model(tokens, mask).float()[mask]
    wide = interp.load_model(make_hf_model(name, seed=7, dtype=torch.bfloat16).float())
    exact = wide(tokens, mask)[mask]
    # as near to the exact logits as the model itself is in half precision
    assert float((ours - exact).abs().mean()) < 1.3 * float((theirs - exact).abs().mean()) + 1e-3


def test_a_dropped_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.load_model(make_bare("gemma2"))
    wrong = dataclasses.replace(model.traits, attn_soft_cap=None)
    monkeypatch.setattr(model, "traits", wrong)
    with pytest.raises(UnsupportedError, match="differ by"):
        stack_of(model)
    found = interp.patch(model, _task(), "z", progress=False).provenance
    assert found.backend == "hooked" and "differ by" in (found.backend_reason or "")


def _task() -> Any:
    tokens, _ = prompts(9)
    return interp.tasks.from_tokens(tokens, tokens.flip(0), tokens[:, 0], (tokens[:, 0] + 1) % 53)


@pytest.mark.parametrize("why", ["training", "intervention", "hook", "hook point"])
def test_what_else_runs_in_the_module_is_respected(why: str) -> None:
    model: Model = interp.load_model(make_bare("llama"))
    assert interp.patch(model, _task(), "z", progress=False).provenance.backend == "wavefront"
    handles: list[Any] = []
    reason = "someone else"
    if why == "training":
        model.train()
        reason = "training mode"
    elif why == "hook":
        handles.append(model.module.model.norm.register_forward_hook(lambda m, i, out: out * 2))
    elif why == "hook point":
        handles.append(model.hook_points["blocks.1.hook_in"].register_forward_hook(lambda m, i, out: out))
    if why == "intervention":
        with interp.intervene(model, interp.scale("z[0.1]", 2.0)):
            found = interp.patch(model, _task(), "z[1]", progress=False)
            inside = interp.patch(model, _task(), "z[1]", backend="hooked", progress=False)
        assert torch.equal(found["z"].raw, inside["z"].raw)
        reason = "interventions are active"
    else:
        found = interp.patch(model, _task(), "z[1]", progress=False)
    assert found.provenance.backend == "hooked" and reason in (found.provenance.backend_reason or "")
    for handle in handles:
        handle.remove()
    model.eval()
    assert interp.patch(model, _task(), "z", progress=False).provenance.backend == "wavefront"


def test_a_part_exchanged_after_loading_is_noticed() -> None:
    model: Model = interp.load_model(make_bare("gpt2"))
    assert interp.patch(model, _task(), "z[1]", progress=False).provenance.backend == "wavefront"
    norm = next(m for m in model.module.modules() if isinstance(m, torch.nn.LayerNorm))
    norm.weight = torch.nn.Parameter(norm.weight * 2)
    found = interp.patch(model, _task(), "z[1]", progress=False)
    assert found.provenance.backend == "hooked" and "differ by" in (found.provenance.backend_reason or "")
    with torch.no_grad():
        norm.weight.mul_(0.5)
    # the same numbers again, though in another parameter
    assert interp.patch(model, _task(), "z[1]", progress=False).provenance.backend == "hooked"
    norm.weight = torch.nn.Parameter(norm.weight.clone())
    assert interp.patch(model, _task(), "z[1]", progress=False).provenance.backend == "wavefront"


def test_weights_changed_in_place_are_followed() -> None:
    model: Model = interp.load_model(make_bare("plain"))
    before = interp.patch(model, _task(), "z", progress=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after, hooked = (
        interp.patch(model, _task(), "z", backend=backend, progress=False) for backend in ("auto", "hooked")
    )
    assert after.provenance.backend == "wavefront"
    torch.testing.assert_close(after["z"].raw, hooked["z"].raw, atol=2e-5, rtol=1e-5)
    assert float((after["z"].raw - before["z"].raw).abs().max()) > 1e-2


def test_hooks_that_the_libraries_leave_behind_change_nothing() -> None:
    model: Model = interp.load_model(make_bare("gpt2"))
    bridge: Any = model.bridge
    bridge.run_with_cache(_task().clean)
    assert interp.patch(model, _task(), "z[1]", progress=False).provenance.backend == "wavefront"


@pytest.mark.hooked_transformer
def test_a_hooked_transformer_is_left_to_hooks() -> None:
    with pytest.raises(UnsupportedError, match="HookedTransformer"):
        Stack(specimen("hooked").model)
    with pytest.raises(interp.PatchError, match=r"backend='wavefront' cannot run.*HookedTransformer"):
        interp.patch(specimen("hooked").model, _task(), "z", backend="wavefront", progress=False)


@pytest.mark.cuda
@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_gpu(name: str) -> None:
    model = interp.load_model(make_hf_model(name), device="cuda")
    here = interp.patch(specimen(name).model, _task(), ["z", "resid_pre", "k@pos"], progress=False)
    there = interp.patch(model, _task(), ["z", "resid_pre", "k@pos"], progress=False)
    assert there.provenance.backend == "wavefront"
    for site in here:
        torch.testing.assert_close(there[site].raw.cpu(), here[site].raw, atol=1e-3, rtol=1e-3)


def test_a_norm_made_along_holds_for_its_stream_only() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second, norm, other = torch.randn(4, 2, 3, 5, generator=draw)
    rows = torch.tensor([0, 1])
    wave = Wave(0, 2, 5, rows[:0], first[:0])
    assert wave.normed is None
    wave.append(rows, first, norm)
    assert torch.equal(wave.resid, first) and wave.normed is not None and torch.equal(wave.normed, norm)
    wave.append(rows, second, other)
    assert wave.normed is not None and torch.equal(wave.normed, torch.cat([norm, other]))
    made = wave.normed
    wave.append(rows, second)
    assert wave.normed is None and wave.n_rows == 6
    # rows without one among those before
    wave.append(rows, second, other)
    assert wave.normed is None
    wave.carry(wave.resid[:4], made)
    assert wave.normed is made
    wave.resid = wave.resid.clone()
    assert wave.normed is None
