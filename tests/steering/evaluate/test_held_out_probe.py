"""A probe on held-out prompts reads a steering as it should."""

from __future__ import annotations

import pytest
import torch

from interp.errors import SteeringError
from interp.steering.contrast import read_contrast
from interp.steering.evaluate.held_out_probe import HeldOutProbe
from interp.steering.operations import Add
from interp.steering.steering import steer_with
from interp.steering.world import contrast_prompts

POSITIVE, NEGATIVE = contrast_prompts("sentiment=positive", 24, 77)


def test_log_odds_are_of_negative_prompts_and_move_as_predicted(mix):
    probe = HeldOutProbe(mix, POSITIVE, NEGATIVE)
    assert probe.site == "resid_post[3]" and probe.auc > 0.8
    base = probe.read(mix, None, 0.0)["log odds"]
    assert base.part.shape == (1, 12) and base.value < 0
    # a push of the site itself adds its product with the weights, to every prompt
    push = steer_with({"resid_post[3]": Add(probe.probe.weights)})
    after = probe.read(mix, push, 0.3)["log odds"]
    wanted = 0.3 * float(probe.probe.weights @ probe.probe.weights)
    torch.testing.assert_close(
        after.part - base.part, torch.full_like(base.part, wanted), rtol=1e-3, atol=1e-3
    )


def test_it_is_fitted_on_the_first_half(mix):
    probe = HeldOutProbe(mix, POSITIVE, NEGATIVE, site="resid_post[2]")
    rows = read_contrast(mix, POSITIVE, NEGATIVE, "resid_post[2]", paired=False).at("resid_post[2]")
    scores = probe.probe.score(rows.positive[:12]), probe.probe.score(rows.negative[:12])
    assert bool((scores[0] > 0).all() and (scores[1] < 0).all())
    held = probe.probe.score(rows.negative[12:])
    torch.testing.assert_close(
        probe.read(mix, None, 0.0)["log odds"].part[0], held.double(), rtol=1e-4, atol=1e-4
    )


def test_the_auc_counts_pairs_of_prompts_that_the_probe_was_not_fitted_on(mix):
    probe = HeldOutProbe(mix, POSITIVE, NEGATIVE)
    rows = read_contrast(mix, POSITIVE[12:], NEGATIVE[12:], probe.site).at(probe.site)
    yes, no = (probe.probe.score(side).tolist() for side in (rows.positive, rows.negative))
    assert len(yes) == len(no) == 12
    pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    assert probe.auc == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_too_few_prompts(mix):
    with pytest.raises(SteeringError, match="at least 4 prompts a side; got 3 and 24"):
        HeldOutProbe(mix, POSITIVE[:3], NEGATIVE)
