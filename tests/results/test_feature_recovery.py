"""Recoveries and their tables: figures from the arrays, refusals, and files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_ground_truth import make_feature_recovery, make_recovery_table

from interp.errors import DataFileError, RecordError
from interp.results.feature_recovery import RECOVERY_FIGURES, FeatureRecovery, RecoveryTable, match_one_to_one


def small(cosines, **changes):
    cosines = torch.tensor(cosines)
    return make_feature_recovery(*cosines.shape, cosines=cosines, **changes)


def test_figures_by_hand():
    found = small([[0.9, 0.1], [0.8, -0.95], [0.7, 0.2]])
    # one-to-one: latent 0 with feature 0, latent 1, negated, with feature 1
    assert found.matched.tolist() == [0, 1]
    assert found.mcc == pytest.approx((0.9 + 0.95) / 2)
    assert found.mmcs == pytest.approx((0.9 + 0.2) / 2)
    # nearest by |cosine|: 0, 1, 0
    assert found.uniqueness == pytest.approx(2 / 3)


def test_the_greedy_match_is_not_taken():
    found = small([[0.9, 0.8], [0.85, 0.1]])
    assert found.matched.tolist() == [1, 0]
    assert found.mcc == pytest.approx((0.8 + 0.85) / 2)


def test_left_over_features_count_nothing():
    found = small([[0.1, 0.9, 0.2]])
    assert found.matched.tolist() == [-1, 0, -1]
    assert found.matched_cosines.tolist() == pytest.approx([0, 0.9, 0])
    assert found.mcc == pytest.approx(0.3)


def test_activations_are_matched_anew():
    cosines = torch.eye(3)
    correlations = torch.tensor([[0.0, 0.9, 0.0], [0.8, 0.0, 0.0], [0.0, 0.0, -0.7]])
    found = make_feature_recovery(3, 3, cosines=cosines, correlations=correlations)
    # a negative correlation is no recovery
    assert found.activation_mcc == pytest.approx((0.9 + 0.8 - 0.7) / 3)
    assert match_one_to_one(correlations).tolist() == [1, 0, 2]


def test_silent_features_are_left_out_of_means():
    f1 = torch.tensor([0.5, float("nan"), 1.0])
    found = make_feature_recovery(3, 3, per_feature_f1=f1)
    assert found.f1 == pytest.approx(0.75)


def test_frame_summary_and_file(tmp_path):
    found = make_feature_recovery()
    assert list(found.figures()) == list(RECOVERY_FIGURES)
    frame = found.to_frame()
    assert len(frame) == 16
    assert frame.cosine.mean() == pytest.approx(found.mcc, abs=1e-6)
    read = FeatureRecovery.load(found.save(tmp_path / "r"))
    assert read.to_frame().equals(frame)
    assert read.figures() == found.figures()
    assert f"mcc {found.mcc:.3f}" in repr(read)
    with pytest.raises(DataFileError):
        RecoveryTable.load(tmp_path / "r.safetensors")


def test_tables(tmp_path):
    table = make_recovery_table()
    read = RecoveryTable.load(table.save(tmp_path / "t"))
    assert read.rows == table.rows
    frame = table.to_frame().set_index(["architecture", "figure"])
    assert (frame["low"] <= frame["mean"]).all() and (frame["mean"] <= frame["high"]).all()
    assert (frame.random == frame.random.groupby("figure").transform("first")).all()
    assert table.summary().startswith("mcc: standard 0.")
    assert table.summary().index("random") > table.summary().index("topk")
    assert "NaN" not in make_recovery_table(seeds=1).summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: make_feature_recovery(firing=torch.zeros(3)), r"firing must be \[feature=16\]"),
        (lambda: make_feature_recovery(correlations=torch.zeros(2, 16)), "correlations must be"),
        (
            lambda: make_feature_recovery(cosines=torch.zeros(0, 16), correlations=torch.zeros(0, 16)),
            "needs latents and features",
        ),
        (lambda: make_recovery_table(figures=("mc",)), "did you mean 'mcc'"),
        (lambda: make_recovery_table(rows=()), "at least one row"),
        (lambda: replace(make_recovery_table(), rows=make_recovery_table().rows[:-1]), "every figure once"),
        (lambda: make_recovery_table().at("topkk", "mcc"), "did you mean 'topk'"),
        (lambda: make_recovery_table().at("topk", "recall"), "unknown figure"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(RecordError, match=message):
        change()
