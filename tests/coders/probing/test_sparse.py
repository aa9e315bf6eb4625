"""Sparse probes and best units, where it is known which coordinate says what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_attributes import MOOD, TENSE, D, aligned, make_data

from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.probing import match_attributes, probe_latents
from interp.coders.probing.sparse import rank_latents
from interp.errors import CoderError
from interp.results.probing import MATCH_SOURCES

DATA = make_data()


def test_one_latent_says_all_that_it_holds():
    found = probe_latents(aligned(), DATA, ks=(1, 3))
    assert found.targets == ("mood=good", "topic=food", "topic=sea", "topic=sport", "tense=past")
    for i, target in enumerate(found.targets):
        assert [found.at(target, 1, metric).value for metric in ("accuracy", "f1", "auc")] == [1, 1, 1]
        assert found.chosen[i, 0] == i
    assert (found.dense[..., 0] == 1).all()
    assert float(found.random[:, 0, 0, 0].mean()) < 0.9
    assert "k=1: 1.000" in found.summary()


def test_what_is_not_written_down_cannot_be_probed():
    blind = torch.eye(D)[5:]
    found = probe_latents(LinearDictionary(blind, blind), DATA, ks=(1, 7), targets=("mood=good",))
    assert abs(found.at("mood=good", 7).value - 0.5) < 0.1
    assert found.at("mood=good", 7).low < found.constant[0, 0] + 0.1
    assert found.dense[0, 0, 0] == 1


def test_more_latents_say_more_where_each_says_a_part():
    """Mood is spread over four noisy latents: the mean of them is better than one."""
    generator = torch.Generator().manual_seed(4)
    spread = torch.eye(4).repeat(1, 3)[:, :D]
    x = torch.randn(600, D, generator=generator)
    x[:, :4] += 1.0 * (DATA.labels["mood"] == 0)[:, None]
    x[:, 4:] = 0
    data = replace(DATA, activations=x)
    found = probe_latents(
        LinearDictionary(spread, spread, torch.full((4,), 3.0)), data, ks=(1, 4), targets=("mood=good",)
    )
    one, four = found.at("mood=good", 1), found.at("mood=good", 4)
    # two normals whose means are 1 (2 for the mean of four) standard deviations apart
    normal = torch.distributions.Normal(0, 1)
    assert one.value == pytest.approx(float(normal.cdf(torch.tensor(0.5))), abs=0.06)
    assert four.value == pytest.approx(float(normal.cdf(torch.tensor(1.0))), abs=0.05)
    assert four.low > one.value


def test_constant_answers():
    found = probe_latents(aligned(), DATA, ks=(1,), targets=("topic=food",))
    test = DATA.split()
    share = float((DATA.labels["topic"][test] == 0).float().mean())
    expected = [1 - share, 2 * share / (1 + share), 0.5]
    assert found.constant[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_latents_are_ranked_by_standardised_differences():
    latents = torch.tensor([[0.0, 0, 5], [0, 1, 5], [2, 10, 5], [2.2, 9, 5]])
    answers = torch.tensor([False, False, True, True])
    assert rank_latents(latents, answers).tolist() == [0, 1, 2]


def test_best_units_are_the_coordinates():
    found = match_attributes(aligned(), DATA)
    assert found.targets == DATA.targets
    assert found.best("mood=good")[0] == MOOD
    assert found.best("tense=past")[0] == TENSE
    latents, random, neurons, components = found.f1[..., 0]
    yes = [found.targets.index(target) for target in ("mood=good", "topic=sea", "tense=past")]
    assert (latents[yes] == 1).all()
    # "bad" is where the coordinate is low: a latent cannot say so, a neuron read downwards can
    at = found.targets.index("mood=bad")
    assert latents[at] < 1
    assert neurons[at] == 1 and found.sign[2, at] == -1 and found.unit[2, at] == MOOD
    assert float(random.mean()) < float(latents.mean()) < float(neurons.mean())
    assert (components <= 1).all()
    frame = found.to_frame().set_index(["source", "target"])
    assert len(frame) == len(MATCH_SOURCES) * len(found.targets)
    assert frame.f1["neurons", "mood=bad"] == 1


def test_always_yes_is_the_share_of_yes():
    found = match_attributes(aligned(), DATA, targets=("topic=food",))
    share = float((DATA.labels["topic"][DATA.split()] == 0).double().mean())
    assert float(found.always[0]) == pytest.approx(2 * share / (1 + share), abs=1e-6)


def test_only_labelled_rows_count():
    """Rows without a tense are all noise: they must change nothing."""
    x = DATA.activations.clone()
    x[DATA.labels["tense"] == -1, TENSE] = 0.5
    data = replace(DATA, activations=x)
    assert match_attributes(aligned(), data, targets=("tense=past",)).f1[0, 0, 0] == 1
    assert probe_latents(aligned(), data, ks=(1,), targets=("tense=past",)).at("tense=past", 1).value == 1


def test_prompts_are_never_parted():
    test = DATA.split(0.3, seed=5)
    by_prompt = test.view(60, 10)
    assert (by_prompt.all(1) | ~by_prompt.any(1)).all()
    assert int(by_prompt[:, 0].sum()) == 18
    assert not torch.equal(test, DATA.split(0.3, seed=6))


def test_records_and_files(tmp_path):
    probes, match = probe_latents(aligned(), DATA, ks=(1, 2)), match_attributes(aligned(), DATA)
    for record in (probes, match):
        read = type(record).load(record.save(tmp_path / type(record).__name__))
        assert read.to_frame().equals(record.to_frame())
        assert read.summary() == record.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(DATA, prompt=torch.zeros(3).long()), "one a row"),
        (lambda: replace(DATA, values={"mood": ("good", "bad")}), "give both of each attribute"),
        (
            lambda: replace(DATA, values=dict(DATA.values) | {"mood": ("good",)}),
            r"labels of 'mood' lie in -1..0",
        ),
        (lambda: DATA.positive("mood=god"), "did you mean 'mood=good'"),
        (lambda: DATA.counted("mod=good"), "did you mean 'mood'"),
        (lambda: DATA.split(1.0), "between 0 and 1"),
        (lambda: make_data(1).split(), "1 prompts cannot be parted"),
        (lambda: probe_latents(aligned(), DATA, ks=(0,)), "between 1 and 12"),
        (lambda: probe_latents(aligned(), DATA, ks=(13,)), "between 1 and 12"),
        (lambda: probe_latents(aligned(), DATA, ks=(1,), confidence=95), "confidence"),
        (lambda: match_attributes(aligned(), DATA, targets=("mood=god",)), "unknown target"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(CoderError, match=message):
        change()


def test_attributes_of_one_value_have_no_target():
    data = replace(DATA, labels=dict(DATA.labels) | {"mood": torch.zeros(600).long()})
    assert not any(target.startswith("mood") for target in data.targets)
