"""Absorption: dictionaries built by hand that absorb, split, lose or keep their parents."""

from __future__ import annotations

import pytest
import torch

from interp.coders.ground_truth.absorption import measure_absorption
from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.ground_truth.planted import PlantedConfig, load_suite, plant_features
from interp.coders.ground_truth.structure import Hierarchy
from interp.errors import CoderError

PLANTED = plant_features(
    PlantedConfig(n_features=14, d_in=20, l0=3.0, structure=Hierarchy(2, 4, 0.6), directions="orthogonal")
)
"""Parents 0 and 1; 0 has children 2 to 5, 1 has 6 to 9; 10 to 13 are free."""
D = PLANTED.directions
LARGE = 20.0


class Absorbing(LinearDictionary):
    """Latents of parent 0 fall silent where one of these children fires; the children write both."""

    def __init__(self, children, parent=0):
        read, write = D.clone(), D.clone()
        for child in children:
            # more than any parent's activation is taken off where the child fires
            read[parent] -= LARGE * D[child]
            write[child] = (D[child] + D[parent]) / 2**0.5
        super().__init__(read, write)


def firing_rows(n=4000, seed=0):
    return PLANTED.draw(n, torch.Generator().manual_seed(seed)).activations > 0


def measure(dictionary, **options):
    return measure_absorption(dictionary, PLANTED, n=4000, **options)


def test_the_truth_absorbs_nothing():
    found = measure(LinearDictionary(D, D))
    assert found.latents.tolist() == [0, 1]
    assert found.rates.tolist() == [0, 0]
    assert found.silent_rates.tolist() == [0, 0]
    assert (found.n_split, found.n_lost) == (0, 0)
    torch.testing.assert_close(found.child_cosines, torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("children", [(2,), (2, 3, 4, 5)])
def test_absorbed_rows_are_those_of_the_children(children):
    firing = firing_rows()
    found = measure(Absorbing(children))
    rows = firing[:, list(children)].any(1)
    assert found.n_active.tolist() == [int(firing[:, 0].sum()), int(firing[:, 1].sum())]
    assert found.n_silent.tolist() == found.n_absorbed.tolist() == [int(rows.sum()), 0]
    assert float(found.rates[0]) == pytest.approx(float(rows.sum() / firing[:, 0].sum()))
    expected = [1.0 if child in children else 0.0 for child in range(2, 10)]
    assert found.child_rates.tolist() == expected
    assert found.child_cosines[found.child_rates > 0].tolist() == pytest.approx([0.5**0.5] * len(children))


def test_silence_that_nothing_carries_is_no_absorption():
    dictionary = Absorbing((2, 3))
    dictionary.W_dec[2], dictionary.W_dec[3] = D[2], D[3]
    found = measure(dictionary)
    assert int(found.n_silent[0]) > 0
    assert found.n_absorbed.tolist() == [0, 0]


def test_a_small_share_of_the_parent_does_not_carry_it():
    dictionary = Absorbing((2,))
    weak = D[2] + 0.1 * D[0]
    dictionary.W_dec[2] = weak / weak.norm()
    assert measure(dictionary).n_absorbed.tolist() == [0, 0]
    assert int(measure(dictionary, carries=0.05).n_absorbed[0]) > 0


def test_another_latent_that_writes_more_is_not_the_child():
    dictionary = Absorbing((2,))
    # a latent that fires with feature 2 too, and writes more of the parent
    dictionary = LinearDictionary(
        torch.cat([dictionary.W_enc, D[2:3]]), torch.cat([dictionary.W_dec, 5 * D[0:1] + 6 * D[12:13]])
    )
    found = measure(dictionary)
    assert int(found.n_silent[0]) > 0
    assert found.n_absorbed.tolist() == [0, 0]


def test_a_latent_of_a_child_that_is_not_there_absorbs_nothing():
    """Child 2's latent fires with feature 12 as well, and so silences the parent in rows without the child."""
    dictionary = Absorbing((2,))
    dictionary.W_enc[0] -= LARGE * D[12]
    dictionary.W_enc[2] += D[12]
    found, firing = measure(dictionary), firing_rows()
    assert int(found.n_absorbed[0]) == int(firing[:, 2].sum())
    assert int(found.n_silent[0]) == int((firing[:, 0] & (firing[:, 2] | firing[:, 12])).sum())
    assert int(found.n_silent[0]) > int(found.n_absorbed[0])


def test_splitting_counts_latents_nearest_to_the_parent():
    halves = torch.stack([D[0] + 0.3 * D[2], D[0] - 0.3 * D[2]])
    rows = torch.cat([halves, D[1:]])
    found = measure(LinearDictionary(rows, rows))
    assert found.n_latents.tolist() == [2, 1]
    assert found.n_split == 1


def test_a_lost_parent_has_no_rate():
    found = measure(LinearDictionary(D[1:], D[1:]))
    assert found.latents.tolist()[0] == -1
    assert found.n_latents.tolist() == [0, 1]
    assert found.rates[0].isnan() and found.rates[1] == 0
    assert found.mean_rate == 0.0
    assert found.silent_rates[0] == 1.0
    assert found.n_lost == 1


def test_record(tmp_path):
    found = measure(Absorbing((2, 3)))
    read = type(found).load(found.save(tmp_path / "a"))
    assert read.to_frame().equals(found.to_frame())
    assert read.summary() == found.summary()
    assert f"absorbed on {found.mean_rate:.1%} of rows" in found.summary()


def test_refusals():
    with pytest.raises(CoderError, match="no parents and children"):
        measure_absorption(LinearDictionary(D, D), load_suite("superposition"))
    with pytest.raises(CoderError, match="cosines lie in"):
        measure(LinearDictionary(D, D), carries=2)
