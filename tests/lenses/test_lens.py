"""Logit lens: each layer read as a transformer written out reads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import Specimen
from torch import Tensor

import interp
from interp.errors import LensError, SiteError

SIDES = ("none", "left", "right")


def read_out(kind: Specimen, resid: Tensor) -> Tensor:
    """Final norm, unembedding and soft cap in float64."""
    traits, weights = kind.model.traits, kind.naive.weights
    logits = kind.naive._norm(resid, weights.ln_final) @ weights.W_U.detach().double()
    if weights.b_U is not None:
        logits = logits + weights.b_U.detach().double()
    cap = traits.final_soft_cap
    return logits if cap is None else cap * (logits / cap).tanh()


def places(kind: Specimen) -> list[tuple[str, tuple[str, int]]]:
    """Labels and places of the default sites."""
    layers = range(kind.model.traits.n_layers)
    return [("resid_pre 0", ("resid_pre", 0)), *((f"resid_post {i}", ("resid_post", i)) for i in layers)]


@pytest.mark.parametrize("side", SIDES)
def test_every_layer_is_the_one_written_out(kind: Specimen, side: str, make_prompts: Any, run_naive: Any):
    task = make_prompts(side)
    found = interp.logit_lens(kind.model, task, top_k=4, batch_size=2)
    naive = run_naive(kind, task.clean, task.attention_mask)
    assert found.layers == tuple(label for label, _ in places(kind))
    for layer, (_, place) in enumerate(places(kind)):
        for row in range(len(task)):
            real = task.mask[row]
            n = int(real.sum())
            logits = read_out(kind, naive.record[place][row][real])
            top = logits.topk(4)
            kept = found.top_logits[layer, row, :n].double()
            torch.testing.assert_close(kept, top.values, atol=1e-4, rtol=1e-5)
            named = logits.gather(1, found.top_ids[layer, row, :n])
            torch.testing.assert_close(named, top.values, atol=1e-4, rtol=1e-5)
            probs = logits.softmax(-1).gather(1, top.indices)
            torch.testing.assert_close(found.top_probs[layer, row, :n].double(), probs, atol=1e-4, rtol=0)
            target = next(i for i in task.answers[row].tolist() if i >= 0)
            asked = found.target_logits[layer, row, :n].double()
            torch.testing.assert_close(asked, logits[:, target], atol=1e-4, rtol=1e-5)
            ranks = (logits > logits[:, [target]]).sum(1)
            assert torch.equal(found.target_ranks[layer, row, :n], ranks)


@pytest.mark.parametrize("side", SIDES)
def test_the_last_row_is_the_model_s_own_logits(kind: Specimen, side: str, make_prompts: Any):
    task = make_prompts(side, seed=3)
    d_vocab = kind.model.traits.d_vocab
    found = interp.logit_lens(kind.model, task, top_k=d_vocab, positions="END")
    logits = kind.bare_logits(task.clean, task.attention_mask).detach()
    for row, column in enumerate(task.end.tolist()):
        own = torch.empty(d_vocab).scatter(0, found.top_ids[-1, row, 0], found.top_logits[-1, row, 0])
        torch.testing.assert_close(own, logits[row, column], atol=1e-4, rtol=1e-5)
        assert found.positions_of(row) == [int(task.lengths[row]) - 1]


@pytest.mark.parametrize("side", SIDES)
def test_the_next_token_is_asked_about_without_a_task(gpt2: Specimen, side: str, make_prompts: Any):
    task = make_prompts(side)
    found = interp.logit_lens(gpt2.model, task.clean, attention_mask=task.attention_mask)
    logits = gpt2.bare_logits(task.clean, task.attention_mask).detach().log_softmax(-1)
    for row in range(len(task)):
        tokens = task.clean[row][task.mask[row]].tolist()
        assert found.tokens[row] == tuple(map(str, tokens))
        assert found.target_ids[row, : len(tokens)].tolist() == [*tokens[1:], -1]
        for pos, following in enumerate(tokens[1:]):
            expected = float(logits[row, int(task.offsets[row]) + pos, following].exp())
            assert float(found.target_probs[-1, row, pos]) == pytest.approx(expected, abs=1e-5)
        assert bool(found.target_probs[-1, row, len(tokens) - 1].isnan())
        assert int(found.target_ranks[-1, row, len(tokens) - 1]) == -1


def test_chosen_sites_come_in_the_order_of_the_model(gpt2: Specimen, make_prompts: Any, run_naive: Any):
    task = make_prompts()
    sites = ["resid_post[1]", "resid_mid", "embed", "resid_pre[1]", "resid_mid[1]"]
    found = interp.logit_lens(gpt2.model, task, sites=sites, top_k=1)
    assert found.layers == ("embed", "resid_mid 0", "resid_pre 1", "resid_mid 1", "resid_post 1")
    record = run_naive(gpt2, task.clean).record
    for layer, place in enumerate([("embed", 0), ("resid_mid", 0), ("resid_pre", 1), ("resid_mid", 1)]):
        expected = read_out(gpt2, record[place]).max(-1).values
        torch.testing.assert_close(found.top_logits[layer, ..., 0].double(), expected, atol=1e-4, rtol=1e-5)


def test_targets_of_one_s_own(gpt2: Specimen, make_prompts: Any):
    task = make_prompts("right")
    per_prompt = torch.arange(5)
    one_each = interp.logit_lens(gpt2.model, task, targets=per_prompt, positions=[0, 1])
    assert one_each.target_ids.tolist() == [[i, i] for i in range(5)]
    everywhere = torch.arange(55).view(5, 11) % 53
    each = interp.logit_lens(gpt2.model, task, targets=everywhere, positions=[0, 1])
    assert torch.equal(each.target_ids, everywhere[:, :2])
    for_all = interp.logit_lens(gpt2.model, task, targets=7, positions="IO")
    assert for_all.target_ids.tolist() == [[7]] * 5
    assert [for_all.positions_of(row) for row in range(5)] == [[1], [2], [0], [3], [1]]


def test_several_answers_are_said_in_the_notes(gpt2: Specimen, make_prompts: Any):
    assert "the target is the first" in interp.logit_lens(gpt2.model, make_prompts()).provenance.notes[0]
    assert interp.logit_lens(gpt2.model, make_prompts(), targets="next").provenance.notes == ()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens kept": ({"top_k": 0}, "top_k must be 1 to 53"),
    "more than there are": ({"top_k": 54}, "top_k must be 1 to 53"),
    "answers of tokens": ({"targets": "answer", "prompts": torch.arange(4)}, "unknown targets"),
    "targets of another shape": ({"targets": torch.zeros(5, 3).long()}, r"targets are \[5, 3\]"),
    "a token outside": ({"targets": 53}, "token ids in 0..52"),
    "a run of tokens": ({"prompts": torch.arange(4), "run": "corrupted"}, "only a task has corrupted"),
    "no batch": ({"batch_size": 0}, "batch_size must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused(gpt2: Specimen, case: str, make_prompts: Any):
    options, message = REFUSED[case]
    with pytest.raises(LensError, match=message):
        interp.logit_lens(gpt2.model, **({"prompts": make_prompts()} | options))


@pytest.mark.parametrize("site", ["attn_out", "z[0.1]", "resid_post@END", "resid_post#0"])
def test_only_whole_places_of_the_stream(gpt2: Specimen, site: str, make_prompts: Any):
    with pytest.raises(SiteError, match="logit lens"):
        interp.logit_lens(gpt2.model, make_prompts(), sites=site)
