"""Figures by which searches are judged, against brute force of their own, and on a setting whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from steering_search_world import D_VOCAB, prompts, tiny

from interp.errors import SteeringError
from interp.results import SearchComparison
from interp.steering.neutral import NeutralText
from interp.steering.search import KLFilter, WordOdds, compare_searches
from interp.steering.search.agreement import rank_correlations, regrets, top_overlaps, with_interval

NAN = float("nan")


def test_rank_correlation_is_spearmans():
    draw = np.random.default_rng(0)
    effects, scores = draw.normal(size=(5, 7)).round(1), draw.normal(size=7).round(1)
    for found, row in zip(rank_correlations(effects, scores), effects, strict=True):
        assert found == pytest.approx(spearmanr(row, scores).statistic)
    assert np.isnan(rank_correlations(effects, np.ones(7))).all()
    scores[2], effects[:, 3] = NAN, NAN
    kept = [0, 1, 4, 5, 6]
    assert rank_correlations(effects, scores)[1] == pytest.approx(
        spearmanr(effects[1, kept], scores[kept]).statistic
    )


def test_regret_and_overlap_by_hand():
    effects = np.array([[1.0, 4.0, 2.0, 3.0], [5.0, 4.0, 1.0, 0.0], [-1.0, -2.0, -3.0, -4.0]])
    scores = np.array([0.1, 0.2, 0.9, NAN])
    np.testing.assert_allclose(regrets(effects, scores), [0.5, 0.8, NAN])
    np.testing.assert_allclose(top_overlaps(effects, scores, 2), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(top_overlaps(effects, scores, 4), [0.75, 0.75, 0.75])
    few = np.array([[1.0, NAN, NAN], [NAN, 2.0, NAN]])
    np.testing.assert_allclose(top_overlaps(few, np.array([0.1, 0.9, 0.8]), 2), [0.0, 0.5])
    nothing = np.full(4, NAN)
    assert np.isnan(regrets(effects, nothing)).all() and np.isnan(top_overlaps(effects, nothing, 2)).all()
    unreached = effects.copy()
    unreached[:, 2] = NAN
    assert np.isnan(regrets(unreached, scores)).all()


def test_intervals_are_percentiles_of_the_resamples():
    found = with_interval(np.array([0.5, 0.4, 0.6, NAN]), 0.5)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.45, 0.55))
    assert np.isnan(with_interval(np.array([0.5, NAN]), 0.5).low)


@pytest.fixture(scope="module")
def compared():
    odds = WordOdds(torch.arange(1, 20), torch.arange(20, 50))
    text = NeutralText(tuple(prompts(6, 1, D_VOCAB, seed=3, shortest=7, longest=7)), "random tokens")
    positive, negative = prompts(8, 1, 20, seed=1), prompts(10, 20, 50, seed=2)
    return compare_searches(
        tiny(), positive, negative, dose=0.02, objective=odds, neutral=text,
        limits=KLFilter(max_kl=1e-9), k=2, confidence=0.9,
    )  # fmt: skip


def test_searches_are_judged_by_prompts_they_did_not_see(compared):
    assert compared.methods == ("js", "gradient", "kl-filter", "brute-force")
    assert compared.judged.shape == (3, 2, 5)
    means = compared.judged.mean(-1).flatten()
    for number, method in enumerate(compared.methods):
        scores = compared.scores[number].flatten()
        assert compared.spearman[number].value == pytest.approx(spearmanr(scores, means).statistic)
        if method == "kl-filter":
            assert compared.chosen(method) is None and np.isnan(compared.regret[number].value)
            continue
        assert compared.regret[number].value == pytest.approx(float(1 - means[scores.argmax()] / means.max()))
        assert compared.regret[number].low <= compared.regret[number].value + 1e-9
    assert compared.any_regret.value == pytest.approx(float(1 - means.mean() / means.max()))
    # other prompts, so not the same numbers
    assert not torch.allclose(compared.scores[3], compared.judged.mean(-1))


def test_a_small_dose_is_where_gradients_are_right(compared):
    gradient, brute = compared.scores[1].flatten(), compared.scores[3].flatten()
    assert spearmanr(gradient, brute).statistic > 0.8
    assert compared.forwards[1] < compared.forwards[3]


def test_it_survives_its_file(compared, tmp_path):
    again = SearchComparison.load(compared.save(tmp_path / "compared.safetensors"))
    assert str(again) == str(compared)
    assert again.to_frame().equals(compared.to_frame())


def test_refusals():
    odds = WordOdds(torch.arange(1, 20), torch.arange(20, 50))
    sides = prompts(4, 1, 20, seed=1), prompts(4, 20, 50, seed=2)
    for options, match in [
        (dict(judge_share=0.0), "cannot be parted"),
        (dict(methods=("gradients",)), "gradient"),
        (dict(k=0), "k is at least 1"),
        (dict(objective=None), "needs an objective"),
    ]:
        with pytest.raises(SteeringError, match=match):
            compare_searches(tiny(), *sides, **{"objective": odds} | options)


def test_sites_and_positions_that_can_be_read_once():
    odds = WordOdds(torch.arange(1, 20), torch.arange(20, 50))
    sides = prompts(4, 1, 20, seed=1), prompts(4, 20, 50, seed=2)
    found = compare_searches(
        tiny(), *sides, sites=iter(["resid_post[0]", "mlp_out[1]"]), positions=iter(["all"]), methods=("js",),
        dose=0.02, objective=odds, neutral=NeutralText(tuple(sides[0]), "a side"),
    )  # fmt: skip
    assert found.sites == ("resid_post[0]", "mlp_out[1]") and found.positions == ("all",)
