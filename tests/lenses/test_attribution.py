"""Direct logit attribution: shares add up, and each is what a transformer written out gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import Specimen
from torch import Tensor

import interp
from interp.errors import LensError
from interp.tasks import PromptPairs

SIDES = ("none", "left", "right")


def mean_difference(values: Tensor, task: PromptPairs, row: int) -> Tensor:
    """Mean of the answers' entries of the last axis less that of the wrong ones'."""
    right = [values[..., i] for i in task.answers[row].tolist() if i >= 0]
    wrong = [values[..., i] for i in task.wrong[row].tolist() if i >= 0]
    return sum(right) / len(right) - sum(wrong) / len(wrong)


def frozen_norm(kind: Specimen, part: Tensor, whole: Tensor, norm: Any) -> Tensor:
    """What ``part`` of ``whole`` becomes in a norm that keeps the scale it has for ``whole``."""
    traits = kind.model.traits
    if traits.norm is None:
        return part
    if traits.norm == "layernorm":
        part, whole = part - part.mean(), whole - whole.mean()
    gain = 1.0 if norm is None else norm.w.detach().double() + traits.norm_plus_one
    return part / (whole.pow(2).mean() + traits.norm_eps).sqrt() * gain


def expected_shares(
    kind: Specimen, naive: Any, task: PromptPairs, row: int, column: int
) -> dict[str, Tensor]:
    """Every part's share of one prompt, one vector at a time."""
    traits, weights = kind.model.traits, kind.naive.weights
    at = {key: value[row, column] for key, value in naive.record.items() if value.shape[1] > column}
    final = at["resid_post", traits.n_layers - 1]
    unembed = weights.W_U.detach().double()

    def share(part: Tensor) -> Tensor:
        return mean_difference(frozen_norm(kind, part, final, weights.ln_final) @ unembed, task, row)

    found = {"embed": share(at["embed", 0])}
    if weights.W_pos is not None:
        found["pos_embed"] = share(at["resid_pre", 0] - at["embed", 0])
    constant = torch.zeros(traits.d_vocab, dtype=torch.float64)
    if weights.ln_final is not None and weights.ln_final.b is not None:
        constant = weights.ln_final.b.detach().double() @ unembed
    if weights.b_U is not None:
        constant = constant + weights.b_U.detach().double()
    found["bias"] = mean_difference(constant, task, row)
    for layer in range(traits.n_layers):
        w = weights.layers[layer]
        found[f"attn {layer}"] = share(at["attn_out", layer])
        if traits.d_mlp:
            found[f"mlp {layer}"] = share(at["mlp_out", layer])
        bias = torch.zeros(traits.d_model).double() if w.b_O is None else w.b_O.detach().double()
        parts = {f"head {layer}.{h}": r for h, r in enumerate(at["result", layer])} | {f"b_O {layer}": bias}
        whole = sum(parts.values())
        for name, part in parts.items():
            if traits.post_norms:
                part = frozen_norm(kind, part, whole, w.ln1_post)
            found[name] = share(part)
    return found


@pytest.mark.parametrize("side", SIDES)
def test_every_share_is_the_one_written_out(kind: Specimen, side: str, make_prompts: Any, run_naive: Any):
    task = make_prompts(side)
    found = interp.direct_logit_attribution(kind.model, task, batch_size=2)
    naive = run_naive(kind, task.clean, task.attention_mask)
    for row, column in enumerate(task.end.tolist()):
        expected = expected_shares(kind, naive, task, row, column)
        for i, name in enumerate(found.components):
            assert float(found.by_component[i, row]) == pytest.approx(float(expected[name]), abs=1e-4), name
        for layer in range(kind.model.traits.n_layers):
            for head in range(kind.model.traits.n_heads):
                share = float(found.by_head[layer, head, row])
                assert share == pytest.approx(float(expected[f"head {layer}.{head}"]), abs=1e-4)
            bias = float(found.head_bias[layer, row])
            assert bias == pytest.approx(float(expected[f"b_O {layer}"]), abs=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_shares_add_up_to_the_model_s_own_difference(kind: Specimen, side: str, make_prompts: Any):
    task = make_prompts(side, seed=1)
    found = interp.direct_logit_attribution(kind.model, task)
    logits = kind.bare_logits(task.clean, task.attention_mask).detach().double()
    cap = kind.model.traits.final_soft_cap
    if cap is not None:
        logits = torch.atanh(logits / cap) * cap
    own = torch.stack(
        [mean_difference(logits[row, column], task, row) for row, column in enumerate(task.end.tolist())]
    )
    # inverting a saturated cap loses digits, splitting does not
    torch.testing.assert_close(found.actual.double(), own, atol=1e-4 if cap is None else 2e-2, rtol=0)
    assert float(found.unexplained.abs().max()) < 1e-4
    attention = [i for i, name in enumerate(found.components) if name.startswith("attn")]
    by_layer = found.by_head.sum(1) + found.head_bias
    torch.testing.assert_close(by_layer, found.by_component[attention], atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["none", "left"])
def test_a_neuron_s_share_is_what_it_alone_wrote(
    kind: Specimen, side: str, make_prompts: Any, run_naive: Any
):
    traits, weights = kind.model.traits, kind.naive.weights
    task = make_prompts(side)
    found = interp.direct_logit_attribution(kind.model, task, n_neurons=10**6)
    if not traits.d_mlp:
        assert found.by_neuron is None and found.neurons == ()
        return
    assert found.by_neuron is not None and len(found.neurons) == traits.n_layers * traits.d_mlp
    sizes = found.by_neuron.mean(1).abs()
    assert bool((sizes.diff() <= 0).all())
    naive = run_naive(kind, task.clean, task.attention_mask)
    row, column = 1, int(task.end[1])
    final = naive.record["resid_post", traits.n_layers - 1][row, column]
    for layer, neuron in ((0, 0), (traits.n_layers - 1, traits.d_mlp - 1)):
        w = weights.layers[layer]
        post = naive.record["mlp_post", layer][row, column]
        part = post[neuron] * w.W_out.detach().double()[neuron]
        if traits.post_norms:
            whole = post @ w.W_out.detach().double()
            part = frozen_norm(kind, part, whole if w.b_out is None else whole + w.b_out.double(), w.ln2_post)
        part = frozen_norm(kind, part, final, weights.ln_final)
        expected = mean_difference(part @ weights.W_U.detach().double(), task, row)
        share = float(found.by_neuron[found.neurons.index(f"L{layer} n{neuron}"), row])
        assert share == pytest.approx(float(expected), abs=1e-4)


def test_the_stream_is_read_with_the_same_frozen_norm(kind: Specimen, make_prompts: Any):
    """Between the parts, the stream holds what was written so far, and the constant."""
    found = interp.direct_logit_attribution(kind.model, make_prompts("left"))
    names, bias = found.components, found.by_component[-1]
    at = dict(zip(found.points, found.accumulated, strict=True))
    first = found.by_component[: names.index("attn 0")].sum(0) + bias
    torch.testing.assert_close(at["resid_pre 0"], first, atol=1e-4, rtol=0)
    last = f"resid_post {kind.model.traits.n_layers - 1}"
    torch.testing.assert_close(at[last], found.actual, atol=1e-4, rtol=0)
    assert ("resid_mid 0" in at) == ("resid_mid" in kind.model.components)


@pytest.mark.parametrize("position", ["IO", -2, "-2", 0])
def test_any_one_position(gpt2: Specimen, position: int | str, make_prompts: Any):
    task = make_prompts("left")
    found = interp.direct_logit_attribution(gpt2.model, task, position=position)
    at = task.labels["IO"] if position == "IO" else (task.lengths - 2 if int(position) else 0 * task.lengths)
    logits = gpt2.bare_logits(task.clean, task.attention_mask).detach()
    for row, column in enumerate((at + task.offsets).tolist()):
        expected = mean_difference(logits[row, column], task, row)
        assert float(found.total[row]) == pytest.approx(float(expected), abs=1e-4)


def test_tokens_with_answers_are_as_good_as_a_task(gpt2: Specimen, make_prompts: Any):
    task = make_prompts("right")
    given = interp.direct_logit_attribution(
        gpt2.model, task.clean, answers=task.answers, wrong=task.wrong, attention_mask=task.attention_mask
    )
    assert torch.equal(given.by_component, interp.direct_logit_attribution(gpt2.model, task).by_component)


def test_the_corrupted_prompts(gpt2: Specimen, make_prompts: Any):
    task = make_prompts()
    found = interp.direct_logit_attribution(gpt2.model, task, run="corrupted")
    same = interp.direct_logit_attribution(gpt2.model, task.corrupted, answers=task.answers, wrong=task.wrong)
    assert torch.equal(found.by_component, same.by_component)
    assert "read on the corrupted prompts" in found.provenance.notes


def test_an_edit_during_the_run_is_split_too(gpt2: Specimen, make_prompts: Any):
    task = make_prompts()
    with interp.intervene(gpt2.model, [interp.zero("mlp_out[0]")]):
        found = interp.direct_logit_attribution(gpt2.model, task)
    assert float(found.by_component[found.components.index("mlp 0")].abs().max()) == 0
    assert float(found.unexplained.abs().max()) < 1e-4


def test_provenance_says_what_is_frozen(kind: Specimen, make_prompts: Any):
    notes = " ".join(interp.direct_logit_attribution(kind.model, make_prompts()).provenance.notes)
    traits = kind.model.traits
    assert ("final norm" in notes) == (traits.norm is not None)
    assert ("soft cap" in notes) == (traits.final_soft_cap is not None)
    assert ("after attention" in notes) == traits.post_norms


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "no answers": (lambda task: {"prompts": task.clean}, "without a task give answers"),
    "no wrong ones": (lambda task: {"prompts": task.clean, "answers": 3}, "without a task give wrong"),
    "a range": (lambda task: {"prompts": task, "position": "2:3"}, "one index or label"),
    "several": (lambda task: {"prompts": task, "position": "1:4"}, "expected exactly one"),
    "no such token": (lambda task: {"prompts": task, "answers": 53}, r"token ids in 0..52"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused(gpt2: Specimen, case: str, make_prompts: Any):
    options, message = REFUSED[case]
    with pytest.raises(LensError, match=message):
        interp.direct_logit_attribution(gpt2.model, **options(make_prompts()))
