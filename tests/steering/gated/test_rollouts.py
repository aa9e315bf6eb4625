"""Continuations: sampled from the unsteered model, scored where the next token is foretold."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen
from naive_interventions import random_prompts

from interp.errors import SteeringError
from interp.steering.gated.behaviour import raise_words
from interp.steering.gated.rollouts import Rollouts, continue_prompts, pad_left
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import Site


def rows(n: int = 5, seed: int = 0) -> list[torch.Tensor]:
    prompts = random_prompts(seed, n, 6, "left")
    return [row[real] for row, real in zip(prompts.tokens, prompts.real, strict=True)]


def test_they_are_samples_of_the_model_and_of_the_seed():
    on = specimen("gpt2")
    before = torch.random.get_rng_state()
    first, again, other = (continue_prompts(on.model, rows(), n_tokens=4, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.n_prompt == 6
    for row, tokens, mask in zip(rows(), first.tokens, first.mask, strict=True):
        assert torch.equal(tokens[:6][mask], row)


def test_shares_of_the_first_token_are_its_probabilities():
    on = specimen("llama")
    prompt = rows(1)[0]
    found = continue_prompts(on.model, [prompt] * 3000, n_tokens=1, batch_size=1000)
    with torch.no_grad():
        p = on.model(prompt[None])[0, -1].softmax(-1)
    shares = found.tokens[:, -1].bincount(minlength=53) / 3000
    assert float((shares - p).abs().max()) < 4 * (0.25 / 3000) ** 0.5


def test_nothing_counts_after_the_end():
    on = specimen("gpt2")
    found = continue_prompts(on.model, rows() * 20, n_tokens=6, end=7)
    new = found.tokens[:, found.n_prompt :]
    ended = 0
    for tokens, scored in zip(new.tolist(), found.scored.tolist(), strict=True):
        n = tokens.index(7) + 1 if 7 in tokens else 6
        assert scored == [i < n for i in range(6)]
        ended += n < 6
    assert ended


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_logits_are_those_of_each_row_alone(family):
    """Steered while generating only: the continuation counts as generated, the prompt does not."""
    on = specimen(family)
    rollouts = continue_prompts(on.model, rows(), n_tokens=4)
    steering = Steering((Step(Site("resid_post", 0, positions=("gen",)), Add(torch.ones(36))),))
    with torch.no_grad(), rollouts.continuing(on.model), steering.apply(on.model, strength=1.0):
        found = rollouts.logits(on.model)
    assert found.shape == (5, 4, 53)
    for row, tokens in enumerate(rollouts.tokens):
        own = torch.cat([tokens[:6][rollouts.mask[row]], tokens[6:]])
        n = len(own) - 4
        spans = Steering(
            (Step(Site("resid_post", 0, positions=tuple(range(n, n + 4))), Add(torch.ones(36))),)
        )
        with torch.no_grad(), spans.apply(on.model, strength=1.0):
            alone = on.model(own[None])[0, n - 1 : n + 3]
        torch.testing.assert_close(found[row], alone, atol=2e-4, rtol=1e-4)


def test_rows_are_chosen_and_averaged():
    one = Rollouts(
        torch.arange(12).reshape(2, 6), torch.ones(2, 4).bool(), torch.tensor([[True, False], [True, True]])
    )
    assert one.mean(torch.tensor([[1.0, 9.0], [2.0, 4.0]])).tolist() == [1.0, 3.0]
    assert torch.equal(one.select(torch.tensor([1])).tokens, one.tokens[1:])
    assert [len(batch) for batch in one.batches(1)] == [1, 1]
    tokens, mask = pad_left([torch.tensor([5, 6]), torch.tensor([7])])
    assert tokens.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]


def test_what_does_not_fit():
    full = torch.ones(2, 2).bool()
    with pytest.raises(SteeringError, match="do not fit together"):
        Rollouts(torch.zeros(2, 5).long(), full, full)
    with pytest.raises(SteeringError, match="no continuation that counts"):
        Rollouts(torch.zeros(2, 4).long(), full, ~full)
    with pytest.raises(SteeringError, match="no prompts"):
        continue_prompts(specimen("gpt2").model, [])


def test_log_odds_of_words():
    logits = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    up, down = torch.tensor([1, 4]), torch.tensor([2])
    against = raise_words(up, down, "log odds")
    torch.testing.assert_close(against.measure(logits), (p[..., up].sum(-1) / p[..., down].sum(-1)).log())
    assert against.name == "log odds, nats"
    share = p[..., up].sum(-1)
    torch.testing.assert_close(raise_words(up).measure(logits), (share / (1 - share)).log())
    with pytest.raises(SteeringError, match="raised and lowered at once"):
        raise_words(up, torch.tensor([4]))
    with pytest.raises(SteeringError, match="needs tokens to raise"):
        raise_words(up[:0])
    with pytest.raises(SteeringError, match="0 or more"):
        raise_words(torch.tensor([-1]))
    with pytest.raises(SteeringError, match=r"token 99999; the model has 0\.\."):
        raise_words(up, torch.tensor([99999])).measure(logits)
    torch.testing.assert_close(
        raise_words(up.tolist(), down.tolist()).measure(logits), against.measure(logits)
    )
    with pytest.raises(SteeringError, match="lists of ids"):
        raise_words(torch.tensor([0.5]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_that_mean_nothing(temperature):
    with pytest.raises(SteeringError, match="temperature is above 0"):
        continue_prompts(specimen("gpt2").model, rows(), n_tokens=1, temperature=temperature)
