"""Probes after ablation: what is predicted of dictionaries made by hand."""

from __future__ import annotations

import pytest
import torch
from fake_attributes import MOOD, TENSE, D, aligned, make_data, tangled

from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.probing import perturb_probes, remove_shortcuts
from interp.coders.probing.ablation import Ablatable
from interp.errors import CoderError

DATA = make_data(noise=0.05)
TARGETS = ("mood=good", "tense=past", "topic=food")


def test_ablation_takes_out_what_the_latent_wrote():
    generator = torch.Generator().manual_seed(0)
    dictionary = LinearDictionary(
        torch.randn(7, D, generator=generator), torch.randn(7, D, generator=generator), k=4
    )
    x = torch.randn(30, D, generator=generator)
    whole = Ablatable.make(dictionary, x)
    chosen = torch.tensor([2, 5])
    latents = dictionary.encode(x)
    kept = latents.clone()
    kept[:, chosen] = 0
    # what the dictionary does not reconstruct stays
    error = x - dictionary.decode(latents)
    torch.testing.assert_close(whole.without(chosen), dictionary.decode(kept) + error, atol=1e-4, rtol=1e-4)


def test_own_latents_silence_their_own_probe_alone():
    found = perturb_probes(aligned(), DATA, ks=(1,), targets=TARGETS)
    assert found.chosen[:, 0].tolist() == [MOOD, TENSE, 1]
    assert (found.base > 0.99).all()
    # a probe whose coordinate is gone answers alike everywhere
    assert found.after[0].diagonal().tolist() == pytest.approx([0.5] * 3, abs=0.01)
    off = found.after[0][~torch.eye(3, dtype=torch.bool)]
    assert float(off.min()) > 0.98
    assert float(found.scores[0, 0]) == pytest.approx(0.5, abs=0.02)
    assert found.scores[0, 1] <= found.scores[0, 0] <= found.scores[0, 2]
    assert float(found.random_drops.mean()) < 0.3
    assert float(found.random_scores[0, 0]) == pytest.approx(0.0, abs=1e-6)


def test_tangled_latents_silence_the_other_probe_too():
    found = perturb_probes(tangled(), DATA, ks=(1,), targets=("mood=good", "tense=past"))
    assert float(found.other_drops.mean()) > 0.15
    assert float(found.scores[0, 0]) < 0.35


def test_values_of_one_attribute_do_not_count_as_others():
    found = perturb_probes(aligned(), DATA, ks=(1,))
    topics = [found.targets.index(f"topic={value}") for value in ("food", "sea", "sport")]
    assert found.related[topics][:, topics].all()
    assert int(found.related.sum()) == 9 + 2
    by_hand = torch.stack([found.drops[0, a][~found.related[a]].mean() for a in range(len(found.targets))])
    torch.testing.assert_close(found.other_drops[0], by_hand)
    expected = float((found.own_drops[0] - found.other_drops[0]).mean())
    assert float(found.scores[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_a_shortcut_is_learned():
    """The biased probe leans on both coordinates, which say the same where it is fitted."""
    found = remove_shortcuts(aligned(), DATA, pairs=[("mood=good", "tense=past")], ks=(1,))
    assert found.chosen[0, 0] == TENSE
    assert float(found.oracle[0]) > 0.99
    # it weighs them alike, so that noise decides where they disagree
    assert float(found.biased[0]) == pytest.approx(0.75, abs=0.08)
    assert float(found.on_shortcut[0]) == pytest.approx(0.75, abs=0.08)


def test_where_the_shortcut_is_louder_it_hides_the_target():
    x = DATA.activations.clone()
    x[:, TENSE] = 4 * (x[:, TENSE] - 0.5)
    x[:, MOOD] = x[:, MOOD] - 0.5
    data = type(DATA)(x, DATA.labels, DATA.values, DATA.prompt, DATA.provenance)
    both = LinearDictionary(
        torch.cat([torch.eye(D), -torch.eye(D)]), torch.cat([torch.eye(D), -torch.eye(D)])
    )
    found = remove_shortcuts(both, data, pairs=[("mood=good", "tense=past")], ks=(1, 2))
    assert sorted(found.chosen[0].tolist()) == [TENSE, TENSE + D]
    assert float(found.biased[0]) < 0.85
    # with both of its latents gone, the shortcut is gone, and the target is what the probe has
    assert float(found.after[0, 1, 0]) > 0.98
    assert float(found.scores[0, 1]) > 0.9
    assert float(found.random[0, 1]) < float(found.after[0, 1, 0])
    assert "SCR" in found.summary()


def test_pairs_that_occur_together_are_found():
    found = remove_shortcuts(aligned(), DATA, ks=(1,), draws=2)
    names = ("mood=good", "topic=food", "tense=past")
    assert found.pairs == tuple((a, b) for a in names for b in names if a != b)


def test_records_and_files(tmp_path):
    made = [
        perturb_probes(aligned(), DATA, ks=(1, 2), targets=TARGETS),
        remove_shortcuts(aligned(), DATA, pairs=[("mood=good", "tense=past")], ks=(1, 2)),
    ]
    for record in made:
        read = type(record).load(record.save(tmp_path / type(record).__name__))
        assert read.to_frame().equals(record.to_frame())
        assert read.summary() == record.summary()
        assert repr(read).startswith(type(record).__name__)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: perturb_probes(aligned(), DATA, ks=(99,)), "number 1 to 12"),
        (lambda: perturb_probes(aligned(), DATA, ks=(1,), draws=0), "at least one random draw"),
        (
            lambda: perturb_probes(aligned(), DATA, targets=("topic=food", "topic=sea"), ks=(1,)),
            "two attributes",
        ),
        (
            lambda: perturb_probes(LinearDictionary(torch.eye(D), torch.ones(D, 3)), DATA, ks=(1,)),
            "A transcoder's latents cannot be",
        ),
        (
            lambda: remove_shortcuts(aligned(), DATA, pairs=[("topic=food", "topic=sea")], ks=(1,)),
            "are of one attribute",
        ),
        (
            lambda: remove_shortcuts(aligned(), make_data(4, 4), pairs=[("mood=good", "topic=sea")], ks=(1,)),
            "needs 10 rows of each combination",
        ),
        (lambda: remove_shortcuts(aligned(), make_data(4, 4), ks=(1,)), "no two attributes occur together"),
    ],
)
def test_refusals(run, message):
    with pytest.raises(CoderError, match=message):
        run()
