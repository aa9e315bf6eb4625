"""Telling known from unknown by sampling, answers of the facts model, and the comparison report."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_zoo import specimen

import interp
from interp.errors import SteeringError
from interp.results.baking import BAKE_PAIRS
from interp.steering.bake import bake_bias, compare_baked, split_by_knowledge
from interp.steering.bake.abstention import measure_answers
from interp.steering.neutral import NeutralText
from interp.steering.operations import Add
from interp.steering.steering import steer_with
from interp.tasks.facts import RELATIONS, UNKNOWN, facts_token_ids, list_facts, people


@pytest.fixture(scope="module")
def model():
    return interp.load_model("facts-3l")


def ask(group: str, n: int = 40):
    return list_facts(people(group))[:n]


def test_people_are_told_apart_by_sampling(model) -> None:
    facts = [*ask("known"), *ask("unseen")]
    state = torch.get_rng_state()
    found = split_by_knowledge(model, [f.prompt for f in facts], [f.answer for f in facts], seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert set(found.known) <= {f.prompt for f in facts[:42]} and len(found.known) >= 38
    assert set(found.unknown) <= {f.prompt for f in facts[40:]} and len(found.unknown) >= 34
    assert len(found.known) + len(found.unknown) + len(found.unsure) == 80
    again = split_by_knowledge(model, [f.prompt for f in facts], [f.answer for f in facts], seed=1)
    assert torch.equal(again.right, found.right)


def test_shares_follow_the_model_and_the_temperature(model) -> None:
    fact = ask("known")[0]
    tokens, _ = model.to_padded_tokens([fact.prompt])
    with torch.no_grad():
        logits = model(tokens)[0, -1]
    for temperature in (1.0, 5.0):
        chance = float((logits / temperature).softmax(-1)[facts_token_ids()[fact.answer]])
        found = split_by_knowledge(
            model, [fact.prompt], [fact.answer], n_samples=4000, temperature=temperature
        )
        assert float(found.right[0]) == pytest.approx(
            chance, abs=4 * (chance * (1 - chance) / 4000) ** 0.5 + 1e-3
        )


def test_answers_of_several_tokens_and_prompts_of_several_lengths(model) -> None:
    fact = ask("known")[0]
    prompts = [fact.prompt, fact.prompt.rsplit(" ", 1)[0], fact.prompt]
    found = split_by_knowledge(model, prompts, [f"{fact.answer} .", f"is {fact.answer}", f". {fact.answer}"])
    assert found.right[0] > 0.9 and found.right[1] > 0.9 and found.right[2] == 0


def test_bad_splits_are_refused(model) -> None:
    for prompts, answers in (([], []), (["a"], []), (["a"], [""])):
        with pytest.raises(SteeringError, match="an answer for each"):
            split_by_knowledge(model, prompts, answers)
    with pytest.raises(SteeringError, match="got one text"):
        split_by_knowledge(model, "ab", "cd")
    for options in (dict(n_samples=0), dict(temperature=0.0), dict(known_at=0.2)):
        with pytest.raises(SteeringError, match="n_samples"):
            split_by_knowledge(model, ["a"], ["b"], **options)


def test_rates_against_one_question_at_a_time(model) -> None:
    known, unseen = ask("known", 12), ask("unseen", 12)
    ids = facts_token_ids()
    words = {number: word for word, number in ids.items()}
    vector = torch.randn(model.traits.d_model, generator=torch.Generator().manual_seed(0)) * 4
    with steer_with({"resid_post[1]": Add(vector)}).apply(model, strength=1.0):
        found = measure_answers(model, known, unseen)
        with torch.no_grad():
            said = [words[int(model(fact.prompt)[0, -1].argmax())] for fact in (*known, *unseen)]
    pairs = list(zip((*known, *unseen), said, strict=True))
    assert found.known_right == pytest.approx(sum(word == fact.answer for fact, word in pairs[:12]) / 12)
    assert found.made_up == pytest.approx(
        sum(word in RELATIONS[fact.relation] for fact, word in pairs[12:]) / 12
    )
    assert found.unseen_abstained == pytest.approx(sum(word == UNKNOWN for _, word in pairs[12:]) / 12)
    with pytest.raises(SteeringError, match="both kinds"):
        measure_answers(model, known, [])
    with pytest.raises(SteeringError, match="world of facts"):
        measure_answers(specimen("llama").model, known, unseen)


def test_the_report_against_logits_by_hand() -> None:
    model = specimen("qwen3").model
    generator = torch.Generator().manual_seed(2)
    rows = tuple(torch.randint(0, model.traits.d_vocab, (n,), generator=generator) for n in (6, 6, 9, 4))
    text = NeutralText(rows, "rows")
    steering = steer_with({"resid_post[0]": Add(torch.randn(model.traits.d_model, generator=generator))})
    other = steer_with({"resid_post[0]": Add(torch.randn(model.traits.d_model, generator=generator))})
    baked = bake_bias(model, other, strength=1.0)
    found = compare_baked(model, baked, steering, text, strength=0.5, name="other")
    sums, differences, same, n = torch.zeros(3, dtype=torch.float64), [], 0, 0
    for row in rows:
        with torch.no_grad():
            plain = model(row[None])[0]
            with steering.apply(model, strength=0.5):
                hooked = model(row[None])[0]
            with baked.installed(model):
                there = model(row[None])[0]
        logs = [x.double().log_softmax(-1) for x in (plain, hooked, there)]
        for i, (p, q) in enumerate(((1, 2), (0, 1), (0, 2))):
            sums[i] += (logs[p].exp() * (logs[p] - logs[q])).sum()
        differences.append((there - hooked).abs().flatten())
        same += int((there.argmax(-1) == hooked.argmax(-1)).sum())
        n += len(row)
    torch.testing.assert_close(found.kl[0, :, 0].double(), sums / n, atol=1e-5, rtol=1e-4)
    every = torch.cat(differences)
    assert float(found.largest[0]) == pytest.approx(float(every.max()), rel=1e-4)
    assert float(found.mean[0]) == pytest.approx(float(every.mean()), rel=1e-4)
    assert float(found.agreement[0]) == pytest.approx(same / n) and found.n_tokens == n
    assert found.names == ("other",) and found.exact == (True,)
    low, high = found.kl[0, :, 1], found.kl[0, :, 2]
    assert (
        (low <= found.kl[0, :, 0]).all() and (found.kl[0, :, 0] <= high).all() and len(low) == len(BAKE_PAIRS)
    )
    with pytest.raises(SteeringError, match="other weights"):
        compare_baked(model, replace(baked, model_digest="0"), steering, text, strength=0.5)
    with pytest.raises(SteeringError, match="confidence lies between"):
        compare_baked(model, baked, steering, text, strength=0.5, confidence=95)
