"""Results of probes and perturbations: their arithmetic, refusals and lookups."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_ground_truth import (
    TARGETS,
    make_absorption,
    make_geometry,
    make_match,
    make_perturbation,
    make_probing,
    make_shortcuts,
)

from interp.errors import RecordError
from interp.results import Estimate


def test_drops_by_hand():
    base, after = (
        torch.tensor([0.9, 0.8, 0.7]),
        torch.tensor([[[0.5, 0.8, 0.7], [0.85, 0.5, 0.5], [0.9, 0.6, 0.6]]]),
    )
    related = torch.tensor([[True, False, False], [False, True, True], [False, True, True]])
    found = make_perturbation(
        ("a=1", "b=1", "b=2"), (3,), base=base, after=after, related=related,
        random=base - torch.tensor([[[0.1, 0.0, 0.0], [0.3, 0.0, 0.0]]]),
    )  # fmt: skip
    torch.testing.assert_close(found.own_drops, torch.tensor([[0.4, 0.3, 0.1]]))
    torch.testing.assert_close(found.other_drops, torch.tensor([[0.0, 0.05, 0.0]]))
    torch.testing.assert_close(found.random_drops, torch.tensor([[0.2, 0.0, 0.0]]))
    frame = found.to_frame().set_index(["ablated", "probe"])
    assert frame["drop"]["b=1", "a=1"] == pytest.approx(0.05, abs=1e-6)
    assert frame.related["b=1", "b=2"] and not frame.related["a=1", "b=2"]


def test_shares_of_what_the_bias_cost():
    after = torch.tensor([[[0.75, 0.7, 0.8]], [[0.6, 0.5, 0.7]]])
    found = make_shortcuts(
        2, (1,), biased=torch.tensor([0.6, 0.9]), oracle=torch.tensor([0.9, 0.8]), after=after,
        random=torch.tensor([[0.63], [0.9]]),
    )  # fmt: skip
    assert found.scores[0, 0] == pytest.approx(0.5)
    assert found.random_scores[0, 0] == pytest.approx(0.1)
    # where the biased probe is no worse, there is nothing to regain
    assert found.scores[1, 0].isnan()
    assert "SCR 0.500 over 2 pairs" in found.summary()


def test_lookups():
    found = make_probing()
    value, low, high = found.latents[1, 2, 1].tolist()
    assert found.at("topic=food", 5, "f1") == Estimate(value, low, high)
    match = make_match()
    unit, estimate = match.best("tense=past")
    assert unit == 3
    assert estimate.value == pytest.approx(float(match.f1[0, 3, 0]))
    assert make_geometry().closest_pairs(3)[0][2] == pytest.approx(0.97)


def test_absorption_rates():
    found = make_absorption(3, 2)
    assert found.rates[1].isnan()
    torch.testing.assert_close(found.rates[[0, 2]], (found.n_absorbed / found.n_active)[[0, 2]])
    assert (found.n_split, found.n_lost) == (1, 1)
    never = replace(found, child_active=torch.zeros(6).long(), child_absorbed=torch.zeros(6).long())
    assert never.child_rates.isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: make_probing().at("tense=pst", 1), "did you mean 'tense=past'"),
        (lambda: make_probing().at("tense=past", 3), "probes have 1, 2, 5, 10, 20 latents; got k=3"),
        (lambda: make_probing().at("tense=past", 1, "acuracy"), "did you mean 'accuracy'"),
        (lambda: make_probing(dense=torch.zeros(4, 3)), "dense must be"),
        (lambda: make_match().best("tense"), "unknown target"),
        (lambda: make_match(always=torch.zeros(3)), r"always must be \[target=4\]"),
        (lambda: make_perturbation(TARGETS[:1]), "at least two attributes"),
        (lambda: make_perturbation(after=torch.zeros(4, 4, 3)), "after must be"),
        (
            lambda: replace(make_shortcuts(), ks=(), after=torch.zeros(3, 0, 3), random=torch.zeros(3, 0)),
            "needs pairs",
        ),
        (lambda: make_shortcuts(random=torch.zeros(3)), "random must be"),
        (lambda: make_absorption(n_absorbed=torch.full((8,), 401)), "absorbed rows are silent ones"),
        (
            lambda: replace(make_absorption(), child_parent=torch.zeros(3).long()),
            r"child_parent must be \[child=32\]",
        ),
        (lambda: make_geometry(nearest=torch.zeros(3).long()), r"nearest must be \[latent=200\]"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(RecordError, match=message):
        change()
