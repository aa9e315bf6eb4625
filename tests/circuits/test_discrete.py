"""Heads by codes that positive prompts alone show: on models whose circuit is known, and on a trained one."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.circuits.discrete import activations, find
from interp.circuits.discrete.sides import read_sides
from interp.errors import CircuitError, LensError, PatchError
from interp.models.bundled.planted import PLANTED, planted_task
from interp.results import DiscreteCircuit

QUIET = {"progress": False}
SHORT = {"steps": 200, "shuffles": 199, "n_latents": 60, **QUIET}
N = 64


def asks_for_nobody(model, tokens: torch.Tensor) -> torch.Tensor:
    """``micro`` without a look-up: the asked name is not in the table."""
    words, draw = model.tokenizer.get_vocab(), random.Random(0)
    names = {words[name] for name in ("ann", "bob", "cat", "dan")}
    found = tokens.clone()
    for row in found:
        row[8] = draw.choice(sorted(names - {int(row[3]), int(row[5])}))
    return found


def ends_on_something_new(model, tokens: torch.Tensor) -> torch.Tensor:
    """``planted-copy`` without induction: the last letter has not occurred before."""
    letters, draw = {i for word, i in model.tokenizer.get_vocab().items() if len(word) == 1}, random.Random(0)
    found = tokens.clone()
    for row in found:
        row[-1] = draw.choice(sorted(letters - set(row.tolist())))
    return found


def speaks_of_the_sky(model, tokens: torch.Tensor) -> torch.Tensor:
    """``planted-gate`` with neither a door nor a sign."""
    words, draw = model.tokenizer.get_vocab(), random.Random(0)
    found = tokens.clone()
    for row in found:
        for i, token in enumerate(row.tolist()):
            if token in (words["door"], words["sign"]):
                row[i] = words["sky"]
            if token in (words["open"], words["closed"], words["left"], words["right"]):
                row[i] = words[draw.choice(["blue", "grey"])]
    return found


NOT_NEEDED = {
    "micro": asks_for_nobody,
    "planted-copy": ends_on_something_new,
    "planted-gate": speaks_of_the_sky,
}


@pytest.fixture(scope="module")
def found_at_end() -> dict[str, list[DiscreteCircuit]]:
    """Each planted model at END, against prompts on which its behaviour is not needed; two seeds."""
    found = {}
    for name, without in NOT_NEEDED.items():
        model, task = interp.load_model(name), planted_task(name, N, 0)
        negatives = without(model, task.clean)
        found[name] = [
            interp.find_discrete_circuit(model, task, negatives, at="END", seed=seed, **SHORT)
            for seed in (0, 1)
        ]
    return found


@pytest.mark.parametrize(
    ("name", "heads"),
    [("micro", ["a1.h0"]), ("planted-copy", ["a1.h0"]), ("planted-gate", ["a0.h0", "a0.h1"])],
)
def test_planted_heads_that_work_on_positives_only_stand_out(found_at_end, name, heads):
    """At END these heads find what they look for on positive prompts only. (A planted head that does the
    same on both sides, such as the previous-token head, has no codes of its own: the method misses it.)"""
    for found in found_at_end[name]:
        frame = found.to_frame().set_index("head")
        assert (frame.family_p_value[heads] < 0.05).all()


def test_planted_heads_that_work_alike_on_both_sides_are_missed(found_at_end):
    """Truths that the method cannot see: in ``micro`` END is brought a name, and the mode, either way."""
    for found in found_at_end["micro"]:
        frame = found.to_frame().set_index("head")
        for head in ("a0.h0", "a0.h1", "a0.h2", "a1.h1"):
            assert frame.p_value[head] > 0.05
    for found in found_at_end["planted-copy"]:
        assert found.to_frame().set_index("head").p_value["a0.h0"] > 0.05


def test_decoys_that_write_nothing_have_one_code(found_at_end):
    for name, decoy in (("micro", (1, 3)), ("planted-copy", (1, 2)), ("planted-gate", (1, 1))):
        for found in found_at_end[name]:
            assert found.head_variety()[decoy] == 1
            assert found.head_scores()[decoy] == 0
            assert found.p_values[decoy] == 1


@pytest.mark.parametrize("name", sorted(NOT_NEEDED))
def test_corrupted_prompts_that_need_the_behaviour_tell_nothing(name):
    """Planted tasks corrupt a prompt into another of the same kind, so labels are exchangeable."""
    model = interp.load_model(name)
    for seed in (0, 1):
        found = interp.find_discrete_circuit(model, planted_task(name, N, 0), seed=seed, **SHORT)
        smallest = float(found.family_p_values.min())
        assert smallest > 0.01
        said = any("no head tells positive from negative" in note for note in found.provenance.notes)
        assert said == (smallest > find.NOTABLE)


@pytest.fixture(scope="module")
def mix():
    return interp.load_model("mix-4l")


def heads_that_matter(model, task) -> list[tuple[int, ...]]:
    """Heads whose noising moves the metric by more than a tenth of the gap."""
    effects = interp.patch(model, task, "z", direction="noise", **QUIET)["z"].values - 1
    return [tuple(place) for place in (effects.abs() > 0.1).nonzero().tolist()]


def test_greater_than_of_a_trained_model(mix):
    """The head that alone carries the task by exact patching has codes of its own on positive prompts."""
    task = interp.tasks.load("greater_than", mix, n=N, seed=0)
    truth = heads_that_matter(mix, task.select(range(16)))
    assert truth == [(3, 1)]
    for seed in (0, 1):
        found = interp.find_discrete_circuit(mix, task, at="END", seed=seed, steps=300, **QUIET)
        assert found.evaluate(truth).heads.auroc > found.evaluate(truth).heads_by_variety.auroc
        assert found.family_p_values[3, 1] < 0.05


def test_heads_of_ioi_are_ranked_by_variety_not_by_need(mix):
    """With negatives as in the paper the ranking is above chance, and so is one that knows no labels."""
    task = interp.tasks.load("ioi", mix, n=128, seed=0, corrupted="abc")
    truth = heads_that_matter(mix, task.select(range(32)))
    assert truth == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for seed in (0, 1):
        found = interp.find_discrete_circuit(mix, task, seed=seed, steps=300, **QUIET)
        result = found.evaluate(truth)
        assert result.heads.auroc > 0.6
        assert result.heads_by_variety.auroc > result.heads.auroc - 0.1


def test_the_same_seed_gives_the_same_record_and_touches_no_global_one():
    kind = specimen("gpt2")
    task = random_task([7] * 8, "right", [1] * 8)
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    first = interp.find_discrete_circuit(kind.model, task, seed=3, **SHORT)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    again = interp.find_discrete_circuit(kind.model, task, seed=3, **SHORT)
    other = interp.find_discrete_circuit(kind.model, task, seed=4, **SHORT)
    for name in ("codes", "held_out", "p_values", "family_p_values", "null_means"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.codes, other.codes)
    assert first.fit == again.fit


def test_held_out_prompts_are_not_trained_on():
    """Codes of the prompts trained on are the same whatever the held-out ones are."""
    kind = specimen("gpt2")
    task = random_task([7] * 10, "right", [1] * 10)
    first = interp.find_discrete_circuit(kind.model, task, holdout=0.3, **SHORT)
    assert int(first.held_out.sum()) == 6
    assert torch.equal(first.held_out[:10], first.held_out[10:])
    rows = first.held_out[:10]
    other = random_task([7] * 10, "right", [1] * 10, seed=9)
    mixed = replace(
        task,
        clean=torch.where(rows[:, None], other.clean, task.clean),
        corrupted=torch.where(rows[:, None], other.corrupted, task.corrupted),
    )
    second = interp.find_discrete_circuit(kind.model, mixed, holdout=0.3, **SHORT)
    assert torch.equal(first.codes[~first.held_out], second.codes[~first.held_out])
    assert not torch.equal(first.codes[first.held_out], second.codes[first.held_out])


def test_negatives_of_every_kind(mix):
    task = interp.tasks.load("induction", mix, n=6, seed=0)
    assert task.attention_mask is None
    texts = [
        "The sky is blue and",
        "Mary went to the store",
        "John gave Mary a drink",
        "The",
        "a b",
        "to the",
    ]
    for negatives in (task.corrupted, replace(task, clean=task.corrupted)):
        found = interp.find_discrete_circuit(mix, task, negatives, **(SHORT | {"steps": 20}))
        assert not found.paired
        own = interp.find_discrete_circuit(mix, task, **(SHORT | {"steps": 20}))
        assert own.paired
        assert torch.equal(found.codes, own.codes)
    found = interp.find_discrete_circuit(mix, task, texts, at="END", **(SHORT | {"steps": 20}))
    assert found.codes.shape == (12, 4, 4)
    assert "negatives: prompts of their own" in found.provenance.notes
    assert "outputs at END, less the mean of each head" in found.provenance.notes


def test_repeated_prompts_are_counted():
    kind = specimen("gpt2")
    task = random_task([5] * 4, "right", [1] * 4)
    same = replace(task, clean=task.clean[:1].repeat(4, 1))
    sides = read_sides(kind.model, same, None, 0.5, torch.Generator().manual_seed(0))
    assert sides.count_repeated() == 2
    found = interp.find_discrete_circuit(kind.model, same, **SHORT)
    assert "2 of 4 held-out prompts are also among those trained on" in found.provenance.notes


def test_normalised_scores_have_normalised_means_and_the_same_p_values():
    kind = specimen("gpt2")
    task = random_task([7] * 10, "right", [1] * 10)
    counts = interp.find_discrete_circuit(kind.model, task, **SHORT)
    shares = interp.find_discrete_circuit(kind.model, task, normalise=True, **SHORT)
    assert torch.equal(counts.codes, shares.codes)
    assert torch.equal(counts.p_values, shares.p_values)
    variety = counts.head_variety()
    torch.testing.assert_close(shares.head_scores(), counts.head_scores() / variety)
    torch.testing.assert_close(shares.null_means, counts.null_means / variety)


@pytest.mark.parametrize("centre", [True, False])
def test_outputs_are_scaled_and_centred_by_the_prompts_trained_on(centre):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(9, 2, 3, 4, generator=draw) + 5
    outputs = activations.HeadOutputs(z, tuple(torch.randn(2, 3, 4, 7, generator=draw)))
    held_out = torch.arange(9) % 3 == 0
    known, new = find._split_to_scale(outputs, held_out, centre)
    rows = torch.stack([known.of_head(i, j) for i in range(2) for j in range(3)])
    assert float((rows - rows.mean((0, 1))).square().sum(2).mean()) == pytest.approx(1, rel=1e-5)
    assert (float(rows.mean(1).abs().max()) < 1e-5) == centre
    plain = outputs.of_head(1, 2)
    change = new.of_head(1, 2)[1] - known.of_head(1, 2)[0]
    torch.testing.assert_close(change, (plain[3] - plain[1]) / known.scale, atol=1e-5, rtol=1e-4)


def test_fit_is_measured_on_both_parts(mix):
    task = interp.tasks.load("ioi", mix, n=24, seed=0)
    found = interp.find_discrete_circuit(mix, task, **SHORT)
    assert 0 < found.fit.fvu < 0.4
    assert found.fit.fvu < found.fit.fvu_held_out < 1
    denser = interp.find_discrete_circuit(mix, task, l1=0.02, **SHORT)
    assert denser.fit.l0 > found.fit.l0 > 0
    assert denser.fit.fvu < found.fit.fvu


def test_an_interrupted_search_leaves_no_hook(monkeypatch):
    kind = specimen("gpt2")
    task = random_task([7] * 8, "right", [1] * 8)
    points = kind.model.hook_points

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for place, name in ((activations, "split_heads"), (find, "train_coder"), (find, "score_shuffled")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                interp.find_discrete_circuit(kind.model, task, **SHORT)
        assert kind.model.active_edits == []
        assert not any(point._forward_hooks for point in points.values())
    assert not any(p.grad is not None for p in kind.model.parameters())


def test_what_has_no_meaning_is_refused():
    kind = specimen("gpt2")
    task = random_task([7] * 8, "right", [1] * 8)

    def run(*args, **options):
        return interp.find_discrete_circuit(kind.model, *(args or (task,)), **{**SHORT, **options})

    for name in ("n_latents", "steps", "batch_size", "shuffles"):
        with pytest.raises(CircuitError, match=f"{name} must be a whole number of at least 1; got 0"):
            run(**{name: 0})
    with pytest.raises(CircuitError, match="l1 of 0 or more"):
        run(l1=-0.1)
    with pytest.raises(CircuitError, match="positive learning_rate"):
        run(learning_rate=0.0)
    for holdout in (0.0, 1.0):
        with pytest.raises(CircuitError, match="between 0 and 1"):
            run(holdout=holdout)
    with pytest.raises(CircuitError, match="of 8 prompts a side leaves 8 to train on and 0"):
        run(holdout=0.01)
    with pytest.raises(CircuitError, match="only a task brings corrupted prompts"):
        run(task.clean)
    with pytest.raises(CircuitError, match="8 positive and 3 negative prompts"):
        run(task, task.clean[:3])
    with pytest.raises(CircuitError, match="heads put out the same on every prompt"):
        run(task.clean[:1].repeat(4, 1), task.clean[:1].repeat(4, 1))
    with pytest.raises(LensError, match="expected at least one prompt"):
        run(task, task.clean[:0])
    with pytest.raises(PatchError, match="memory_budget must be a positive number"):
        run(memory_budget=0)


def test_a_circuit_of_the_model_comes_out():
    model, task = interp.load_model("micro"), planted_task("micro", 16, 0)
    found = interp.find_discrete_circuit(model, task, **SHORT)
    graph = interp.build_graph(model)
    circuit = found.to_circuit(graph, 2)
    assert circuit.n_edges == 6
    assert circuit.prune().n_edges == 0
    whole = found.to_circuit(graph, 16, others=True)
    assert whole.n_edges == graph.n_edges
    planted = PLANTED["micro"].build()[2].edges
    assert (
        found.evaluate(["a1.h0"], [e for e in planted if e.startswith("a") and "->a" in e]).edges.n_true == 3
    )
