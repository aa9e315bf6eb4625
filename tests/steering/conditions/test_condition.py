"""Conditions: what they read, where they are open, and how they combine."""

from __future__ import annotations

import itertools

import pytest
import torch
from model_zoo import specimen
from naive_gates import naive_similarity, random_condition
from naive_interventions import random_prompts

from interp.errors import SteeringError
from interp.steering.conditions import Combination, Condition
from interp.steering.gated.scored import read_prompts, score_gates
from interp.steering.gates import Reading
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step, steer_with
from interp.types import Site, parse_site

D = 36
SITE = Site("resid_post", 0)


def reading(rows: int = 5, pos: int = 7, seed: int = 0) -> Reading:
    """Activations of prompts of unequal length, padded on the left with what must not be read."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.arange(pos) >= torch.arange(rows)[:, None] % 4
    values = torch.randn(rows, pos, D, generator=draw)
    # of either sign, or a maximum might pass it over
    padding = 1e6 * (-1.0) ** torch.arange(pos)[None, :, None]
    return Reading(torch.where(chosen[..., None], values, padding), chosen)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_similarity_is_that_written_out(pooling, similarity):
    read = reading()
    condition = random_condition("resid_post[0]", D, pooling=pooling, similarity=similarity)
    found = condition.similarities({SITE: read})
    wanted = [
        naive_similarity(condition, values[chosen].double())
        for values, chosen in zip(read.values, read.chosen, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=1e-5)
    # the length of a direction is nothing
    longer = Condition(SITE, 7 * condition.direction, 0.0, pooling, similarity)
    torch.testing.assert_close(longer.similarities({SITE: read}), found)


def test_the_sign_of_the_cosine_stays():
    """CAST compares h with its projection, which takes a prompt the other way for one that fits."""
    c = torch.randn(D, generator=torch.Generator().manual_seed(1))
    values = torch.stack([c, -c])[:, None]
    read = {SITE: Reading(values, torch.ones(2, 1).bool())}
    assert Condition(SITE, c, 0.5).decide(read).flatten().tolist() == [1, 0]
    projected = (values @ c)[..., None] * c / (c @ c)
    assert torch.cosine_similarity(values, projected, dim=-1).flatten().tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("above", [True, False])
def test_a_threshold_and_its_score_agree(above):
    """Open where the score is above the threshold that it was set to, at equal scores too."""
    read = {SITE: reading(40)}
    condition = random_condition("resid_post[0]", D, above=above)
    scores = condition.score(read)
    for at in (float(scores.median()), float(scores.max()), 0.013):
        moved = condition.at_threshold(at)
        assert torch.equal(moved.decide(read)[:, 0] > 0, scores > at)
        assert torch.equal(moved.score(read), scores)
        assert torch.equal((~moved).decide(read), 1 - moved.decide(read))


def test_every_combination_of_three():
    """Truth tables, De Morgan and double negation, on prompts that hold all eight cases."""
    draw = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(D, 3, generator=draw))[0].T
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=3)))
    read = {SITE: Reading((signs @ axes)[:, None], torch.ones(8, 1).bool())}
    a, b, c = (Condition(SITE, axis, 0.0) for axis in axes)
    x, y, z = (signs[:, i] > 0 for i in range(3))
    for gate, wanted in (
        (a, x),
        (~a, ~x),
        (a & b, x & y),
        (a | b, x | y),
        (a & b & c, x & y & z),
        (a & (b | ~c), x & (y | ~z)),
        (~(a & ~(b | c)), ~(x & ~(y | z))),
        (~~(a & b), x & y),
        (Combination((a,), "any"), x),
    ):
        assert torch.equal(gate.decide(read)[:, 0].bool(), wanted), gate
        assert torch.equal((~gate).decide(read)[:, 0].bool(), ~wanted), gate


@pytest.mark.parametrize("how", ["all", "any"])
def test_two_conditions_act_on_the_intersection_and_on_the_union(how):
    """To the bit: open rows are steered as without a gate, closed rows as without steering."""
    on = specimen("llama")
    first, second = (random_condition(f"resid_pre[{i}]", D, seed) for i, seed in ((0, 1), (1, 5)))
    combined = first & second if how == "all" else first | second
    steering = steer_with({"resid_post[1]": Add(torch.randn(D, generator=torch.Generator().manual_seed(0)))})
    tokens = random_prompts(8, 24, 6, "none").tokens

    def run(gate):
        with torch.no_grad(), steering.gated(gate).apply(on.model, strength=2.0) as applied:
            return on.model(tokens), applied

    with torch.no_grad():
        plain = on.model(tokens)
    full = run(None)[0]
    is_open = []
    for gate in (first, second):
        logits, applied = run(gate)
        is_open.append((logits != plain).flatten(1).any(1))
        assert torch.equal(applied.gate_of(gate)[:, 0] > 0, is_open[-1])
    wanted = is_open[0] & is_open[1] if how == "all" else is_open[0] | is_open[1]
    assert 0 < int(wanted.sum()) < 24
    assert not torch.equal(is_open[0], is_open[1])
    logits, applied = run(combined)
    assert torch.equal(logits[wanted], full[wanted])
    assert torch.equal(logits[~wanted], plain[~wanted])
    assert torch.equal((applied.acted != 0).all(1), wanted)


def test_scores_of_prompts_are_those_of_the_forward():
    on = specimen("gpt_neox")
    gates = [random_condition("resid_post[0]@-1", D, 1), random_condition("mlp_out[1]", D, 2, pooling="max")]
    prompts = random_prompts(4, 9, 7, "right")
    rows = [row[real] for row, real in zip(prompts.tokens, prompts.real, strict=True)]
    found = score_gates(on.model, gates, rows, batch_size=4)
    assert found.shape == (2, 9)
    for gate, scores in zip(gates, found, strict=True):
        alone = [gate.score(read_prompts(on.model, gate.sites, [row])) for row in rows]
        torch.testing.assert_close(scores, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_condition("resid_post", D), "reads one layer"),
        (lambda: random_condition("pattern[0]", D), "reads vectors of tokens"),
        (lambda: random_condition("resid_post[0]@gen", D), "decides by the prompt alone"),
        (lambda: random_condition("resid_post[0]#1", D), "names rows"),
        (lambda: random_condition("resid_post[0]", D, pooling="min"), "pooling 'min'"),
        (lambda: random_condition("resid_post[0]", D, similarity="l2"), "similarity 'l2'"),
        (
            lambda: random_condition("resid_post[0]", D, threshold=float("nan")),
            "threshold of a condition is finite",
        ),
        (lambda: Condition(SITE, torch.zeros(D), 0.0), "not zero"),
        (lambda: Condition(SITE, torch.ones(2, D), 0.0), "finite direction"),
        (lambda: Combination((), "all"), "at least one; got none"),
        (lambda: Combination((random_condition("embed", D), None), "all"), "got NoneType"),
        (lambda: Combination((random_condition("embed", D),), "xor"), "combination 'xor'"),
    ],
)
def test_conditions_that_mean_nothing(make, message):
    with pytest.raises(SteeringError, match=message):
        make()


def test_only_conditions_combine():
    with pytest.raises(TypeError):
        random_condition("embed", D) & 3
    with pytest.raises(TypeError):
        random_condition("embed", D) | None


def test_what_cannot_be_read_is_an_error():
    on = specimen("gpt2")
    step = Step(parse_site("resid_post[0]"), Add(torch.ones(D)))

    def run(gate):
        with torch.no_grad(), Steering((step,)).gated(gate).apply(on.model, strength=1.0):
            on.model(torch.arange(8).reshape(2, 4))

    with pytest.raises(SteeringError, match=r"chooses no token of the prompts in rows \[0, 1\]"):
        run(random_condition("resid_post[0]@9", D))
    with pytest.raises(SteeringError, match=r"reads 30 entries at resid_post.* has 36"):
        run(random_condition("resid_post[0]", 30))
    with pytest.raises(SteeringError, match="comes later in the forward"):
        run(random_condition("resid_post[1]", D))
