"""Relation-specific neurons: ranking, zeroing and accuracies, one prompt and one relation at a time."""

from __future__ import annotations

import pytest
import torch

import interp
from interp import tasks
from interp.errors import SteeringError
from interp.results import RelationNeurons
from interp.steering.extract import RelationPrompts, find_relation_neurons
from interp.steering.extract.detection import average_precision
from interp.steering.extract.random_neurons import draw_other_neurons
from interp.steering.extract.relation_neurons import zero_neurons
from interp.tasks.base import NO_TOKEN


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("llama"))


def padded(n: int, seed: int, left: bool) -> RelationPrompts:
    """Prompts of 2 to 5 tokens; answers are the model's guesses for some and made up for others."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (n,), generator=draw)
    tokens = torch.randint(53, (n, 5), generator=draw)
    columns = torch.arange(5)
    mask = columns >= 5 - lengths[:, None] if left else columns < lengths[:, None]
    return RelationPrompts(tokens, torch.randint(53, (n, 2), generator=draw), mask)


def with_right_answers(model, prompts: RelationPrompts, share: int) -> RelationPrompts:
    """Every ``share``-th prompt's first answer is the model's own."""
    answers = prompts.answers.clone()
    for i in range(0, len(answers), share):
        answers[i] = torch.tensor([guess(model, prompts, i), NO_TOKEN])
    return RelationPrompts(prompts.tokens, answers, prompts.attention_mask)


def guess(model, prompts: RelationPrompts, i: int) -> int:
    with torch.no_grad():
        return int(model(prompts.tokens[i][prompts.attention_mask[i]][None])[0, -1].argmax())


@pytest.fixture(scope="module")
def relations(model):
    return {
        "right": with_right_answers(model, padded(12, 0, left=False), 1),
        "left": with_right_answers(model, padded(9, 1, left=True), 2),
        "none": padded(8, 2, left=True),
    }


@pytest.fixture(scope="module")
def found(model, relations) -> RelationNeurons:
    return find_relation_neurons(model, relations, ks=(5, 2), draws=3, batch_size=4, seed=3)


def halves(prompts: RelationPrompts, seed: int = 3) -> tuple[list[int], list[int]]:
    order = torch.randperm(len(prompts.tokens), generator=torch.Generator().manual_seed(seed)).tolist()
    n_test = round(len(order) / 2)
    return order[n_test:], order[:n_test]


def test_neurons_are_ranked_by_their_precision_on_the_one_half(model, relations, found):
    responses, owner = [], []
    for number, prompts in enumerate(relations.values()):
        for i in halves(prompts)[0]:
            tokens = prompts.tokens[i][prompts.attention_mask[i]][None]
            with torch.no_grad():
                responses.append(interp.capture(model, tokens, "mlp_post")["mlp_post"][:, 0, -1].flatten())
            owner.append(number)
    for number in range(3):
        x, own = torch.stack(responses), torch.tensor(owner) == number
        precision = average_precision(x, own)
        gap = (x[own].mean(0) - x[~own].mean(0)) / x.std(0)
        best = torch.tensor(sorted(range(104), key=lambda i: (-float(precision[i]), -float(gap[i])))[:5])
        torch.testing.assert_close(found.precision[number], precision[best].float())
        assert (found.layer[number] * 52 + found.neuron[number]).tolist() == best.tolist()


def test_accuracies_are_those_of_the_other_half_with_neurons_zeroed(model, relations, found):
    def accuracy(prompts: RelationPrompts, edits: list) -> float:
        right = 0
        rows = halves(prompts)[1]
        for i in rows:
            with interp.intervene(model, edits) if edits else torch.no_grad():
                right += guess(model, prompts, i) in prompts.answers[i].tolist()
        return right / len(rows)

    assert found.ks == (2, 5)
    for b, (name, prompts) in enumerate(relations.items()):
        assert float(found.base[b]) == pytest.approx(accuracy(prompts, []))
        assert int(found.n_judged[b]) == len(halves(prompts)[1])
        for i, k in enumerate(found.ks):
            for a in range(3):
                edits = [
                    interp.zero(f"mlp_post[{int(found.layer[a, j])}].n{int(found.neuron[a, j])}")
                    for j in range(k)
                ]
                assert float(found.accuracy[i, a, b]) == pytest.approx(accuracy(prompts, edits)), name
    assert found.base[0] == 1.0


def test_the_same_seed_gives_the_same(model, relations, found):
    again = find_relation_neurons(model, relations, ks=(2, 5), draws=3, batch_size=64, seed=3)
    for name in ("base", "accuracy", "random", "layer", "neuron"):
        assert torch.equal(getattr(found, name), getattr(again, name)), name


def test_zeroed_is_zero_at_every_token(model):
    tokens = torch.tensor([[3, 9, 22]])
    neurons = torch.tensor([[1, 4], [0, 51], [1, 30]])
    with torch.no_grad(), zero_neurons(model, neurons).apply(model, strength=1.0):
        after = interp.capture(model, tokens, "mlp_post")["mlp_post"]
    for layer, neuron in neurons.tolist():
        assert not after[layer, ..., neuron].any()
    assert int((after == 0).sum()) == 3 * 3


def test_the_control_draws_others_of_the_same_layer():
    taken = torch.tensor([1, 5, 6])
    seen = set()
    for seed in range(40):
        drawn = draw_other_neurons(taken, 8, torch.Generator().manual_seed(seed)).tolist()
        assert len(set(drawn)) == 3 and not set(drawn) & {1, 5, 6}
        seen |= set(drawn)
    assert seen == {0, 2, 3, 4, 7}
    with pytest.raises(SteeringError, match="leaves 3 for a control of as many"):
        draw_other_neurons(torch.arange(5), 8, torch.Generator())


def test_tasks_of_a_bundled_model_have_neurons_of_their_own(mix):
    pairs = {name: tasks.load(name, mix, n=24, seed=0) for name in ("greater_than", "docstring", "pronouns")}
    found = find_relation_neurons(mix, pairs, ks=(64,), draws=2)
    assert (found.base > 0.9).all()
    assert float(found.within[0]) > 0.3
    assert float(found.across[0]) < 0.1
    assert abs(float(found.random_within[0])) < 0.1


def test_bad_requests(model, relations):
    with pytest.raises(SteeringError, match="at least two; got 1"):
        find_relation_neurons(model, {"a": relations["right"]})
    for options in (dict(ks=()), dict(ks=(0,)), dict(ks=(105,)), dict(draws=0), dict(confidence=1.0)):
        with pytest.raises(SteeringError, match=r"ks lie in 1\.\.104"):
            find_relation_neurons(model, relations, **({"ks": (1,)} | options))
    with pytest.raises(SteeringError, match="share of nan"):
        find_relation_neurons(model, relations, ks=(1,), test_share=float("nan"))
    with pytest.raises(SteeringError, match="batch_size is at least 1"):
        find_relation_neurons(model, relations, ks=(1,), batch_size=0)
    with pytest.raises(SteeringError, match=r"mask \[3, 4\]"):
        RelationPrompts(torch.zeros(3, 2).long(), torch.zeros(3, 1).long(), torch.ones(3, 4).bool())
    few = RelationPrompts(torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(SteeringError, match="relation 'few' has 3 prompts"):
        find_relation_neurons(model, {"few": few, "other": few}, ks=(1,))
    with pytest.raises(SteeringError, match="answers"):
        RelationPrompts(torch.zeros(3, 2, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long))
