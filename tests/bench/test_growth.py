"""The growth benchmark end to end on tiny sizes, and its exponents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.bench import flops
from interp.bench.cases import Case
from interp.bench.growth import GrowthPlan, fit_exponent, run_growth
from interp.errors import BenchError


@pytest.fixture
def plan(tiny):
    return GrowthPlan((1, 2), (8, 16), (1, 2), repeats=2, base=Case(tiny, 5, n_prompts=2, n_tokens=8))


def test_every_axis_and_site_has_its_sizes(plan):
    report = run_growth(plan)
    found = [(row.axis, row.site, row.size) for row in report.rows]
    sizes = {"layers": (1, 2), "tokens": (8, 16), "prompts": (1, 2)}
    assert found == [(axis, site, n) for axis in sizes for site in ("resid_pre", "z") for n in sizes[axis]]
    tokens = [row for row in report.rows if row.axis == "tokens" and row.site == "z"]
    assert [(row.n_tokens, row.first_difference) for row in tokens] == [(8, 5), (16, 10)]
    assert all(row.exponent_p20 <= row.exponent_p50 <= row.exponent_p80 for row in report.rows)
    counts = [flops.count_sweep(Case(plan.base.shape, n * 5 // 8, 2, n), "z") for n in (8, 16)]
    assert tokens[0].floor_exponent == pytest.approx(fit_exponent((8, 16), counts))
    for site in ("resid_pre", "z"):
        assert f"{site}: layers^" in report.last_line
    assert "\n" not in report.last_line


def test_exponents_of_counts(plan):
    rows = run_growth(replace(plan, repeats=1)).rows
    by_place = {(row.axis, row.site): row for row in rows}
    for site in ("resid_pre", "z"):
        # prompts are independent of each other
        assert by_place["prompts", site].floor_exponent == pytest.approx(1)
        assert by_place["prompts", site].peer_exponent == pytest.approx(1)
    # twice the positions: twice the sites, each of twice the tokens and a little more attention
    assert 2 < by_place["tokens", "resid_pre"].peer_exponent < 2.2


def test_plans_that_mean_nothing(plan):
    with pytest.raises(BenchError, match="at least two sizes"):
        replace(plan, tokens=(8,))
    with pytest.raises(BenchError, match="at least 1"):
        replace(plan, repeats=0)
