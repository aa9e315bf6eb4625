"""Tables over seeds: means, intervals and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_ground_truth import make_feature_recovery
from scipy.stats import bootstrap, ttest_1samp

from interp.coders.ground_truth.seeds import compare_seeds, estimate_mean
from interp.errors import CoderError


def test_t_intervals_are_scipys():
    values = [0.9, 0.93, 0.87, 0.95, 0.91]
    found = estimate_mean(values, "t", 0.9)
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.mean(values), expected.low, expected.high)
    )


def test_bootstrap_intervals_are_scipys():
    values = [0.9, 0.93, 0.87, 0.95, 0.91, 0.99, 0.8]
    found = estimate_mean(values, "bootstrap", 0.9)
    expected = bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    assert estimate_mean(values, "bootstrap", 0.9) == found


def test_one_seed_has_no_interval():
    found = estimate_mean([0.5], "t", 0.95)
    assert found.value == 0.5
    assert np.isnan(found.low) and np.isnan(found.high)


def test_a_table_holds_every_figure_of_every_seed():
    runs = {name: [make_feature_recovery(24, 16, fvu=0.1 * i) for i in range(1, 4)] for name in ("a", "b")}
    random = [make_feature_recovery(24, 16, fvu=0.9)]
    table = compare_seeds(runs, random, figures=("mcc", "fvu"))
    assert table.architectures == ("a", "b", "random")
    assert table.at("a", "fvu").values == pytest.approx((0.1, 0.2, 0.3))
    assert table.at("a", "fvu").mean == pytest.approx(0.2)
    assert table.at("b", "mcc").mean == pytest.approx(runs["b"][0].mcc)
    frame = table.to_frame().set_index(["architecture", "figure"])
    assert frame.random["a", "fvu"] == pytest.approx(0.9)
    assert frame.n_seeds["random", "mcc"] == 1
    assert len(frame) == 6


def test_refusals():
    one = make_feature_recovery()
    with pytest.raises(CoderError, match="at least one recovery"):
        compare_seeds({"a": []}, [one])
    with pytest.raises(CoderError, match="call the architecture otherwise"):
        compare_seeds({"random": [one]}, [one])
    with pytest.raises(CoderError, match="unknown figure 'mc'; did you mean 'mcc'"):
        compare_seeds({"a": [one]}, [one], figures=("mc",))
    with pytest.raises(CoderError, match="same kind of features"):
        compare_seeds({"a": [one]}, [make_feature_recovery(features=9)])
    other = make_feature_recovery(provenance=replace(one.provenance, task="planted hierarchy"))
    with pytest.raises(CoderError, match="same kind of features"):
        compare_seeds({"a": [one]}, [other])
    with pytest.raises(CoderError, match="unknown interval 'z'"):
        estimate_mean([1.0, 2.0], "z", 0.9)
    with pytest.raises(CoderError, match="confidence"):
        estimate_mean([1.0, 2.0], "t", 95)
