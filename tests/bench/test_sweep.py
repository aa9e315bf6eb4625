"""The sweep benchmark end to end on a tiny model, its gate and its last line."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from interp.bench import sweep
from interp.bench.cases import Case, make_task, parse_shape
from interp.bench.gate import metric_range, refuse_disagreement
from interp.bench.sweep import SweepPlan, run_sweep
from interp.bench.sweep_report import SweepRow, headline
from interp.errors import BenchError


@pytest.fixture
def plan(tiny):
    return SweepPlan((tiny,), (10,), sample=6, repeats=2, between=1)


def variants():
    import transformer_lens

    kinds = ["HookedTransformer"] if hasattr(transformer_lens, "HookedTransformer") else []
    return [(kind, autograd) for kind in [*kinds, "TransformerBridge"] for autograd in (True, False)]


def test_a_tiny_sweep_has_a_row_for_every_variant(plan):
    kept: list[SweepRow] = []
    report = run_sweep(plan, keep=kept.extend)
    assert list(report.rows) == kept
    for site, n_sites, n_rows in (("resid_pre", 32, 48), ("z", 4, 16)):
        rows = [row for row in report.rows if row.site == site]
        assert [(row.peer, row.peer_autograd) for row in rows] == variants()
        # the headline runs every site, the others the sample
        assert [row.peer_sites_timed for row in rows] == [n_sites, *[min(6, n_sites)] * (len(rows) - 1)]
        for row in rows:
            assert (row.shape, row.first_difference, row.n_sites, row.n_rows) == ("2x32", 10, n_sites, n_rows)
            assert 0 <= row.max_error < 1e-4
            assert 0 < row.ours_p20 <= row.ours_p50 <= row.ours_p80
            assert row.ratio == row.peer_seconds / row.ours_p50
            assert row.ours_over_floor == pytest.approx(row.ours_p50 / row.floor_seconds)
            assert row.floor_seconds == pytest.approx(row.floor_gflop / row.matmul_gflops)
    part = r"(resid_pre|z) 2x32@10: \S+x TransformerLens \(\w+, autograd on\), \S+x the FLOP floor, error \S+"
    assert re.fullmatch(f"{part}; {part}", report.last_line)


def test_a_wrong_score_stops_it_before_the_clock(plan, monkeypatch):
    right = sweep.patch

    def wrong(*args, **kwargs):
        scores = right(*args, **kwargs)
        site = scores["z"]
        site.raw[1, 0] += 1e-3 * metric_range(site)
        return scores

    monkeypatch.setattr(sweep, "patch", wrong)
    monkeypatch.setattr(sweep, "measure_matmul_rate", lambda *_: pytest.fail("the clock was started"))
    with pytest.raises(BenchError, match=r"z 2x32@10, \w+: the scores differ .* by 0.001"):
        run_sweep(replace(plan, sites=("z",)))


def test_a_peer_with_other_weights_is_refused(plan, monkeypatch, tiny):
    build = sweep.build_peers

    def other(hf, shape, task):
        hf.transformer.h[0].mlp.c_fc.weight.data *= 2
        return build(hf, shape, task)

    monkeypatch.setattr(sweep, "build_peers", other)
    with pytest.raises(BenchError, match="logits of"):
        run_sweep(plan)


def test_nan_is_no_agreement():
    assert refuse_disagreement("here", 1e-4) == 1e-4
    for error in (1.01e-4, float("nan"), float("inf")):
        with pytest.raises(BenchError, match="no figure"):
            refuse_disagreement("here", error)


def test_a_limit_of_seconds_times_fewer_sites_and_says_so(plan):
    report = run_sweep(replace(plan, sites=("resid_pre",), peer="sample", seconds=1e-9))
    assert {row.peer_sites_timed for row in report.rows} == {1}
    assert ", autograd on, timed on 1 of 32 sites)" in report.last_line


def test_threads_are_held_and_given_back(plan, monkeypatch):
    held: list[int] = []
    monkeypatch.setattr(sweep, "_run_cases", lambda *_: held.append(torch.get_num_threads()) or [])
    before = torch.get_num_threads()
    report = run_sweep(replace(plan, threads=before + 1))
    assert held == [before + 1] and report.notes[-1].startswith(f"threads: {before + 1}")
    assert torch.get_num_threads() == before


def test_the_headline_in_words():
    figures = dict(n_sites=96, n_rows=144, peer="HookedTransformer", peer_autograd=True, peer_seconds=19.0)
    figures |= dict(peer_sites_timed=96, ours_p20=0.19, ours_p50=0.2, ours_p80=0.21, ours_repeats=10)
    figures |= dict(ratio=95.04, floor_seconds=0.095, floor_gflop=12.0, matmul_gflops=126.0)
    figures |= dict(ours_over_floor=2.11, max_error=3.2e-7, seed=0, first_difference=10, n_tokens=16)
    row = SweepRow(shape="6x512", n_heads=8, d_vocab=50257, n_prompts=4, site="resid_pre", **figures)
    assert headline(row) == (
        "resid_pre 6x512@10: 95x TransformerLens (HookedTransformer, autograd on), 2.1x the FLOP floor, error 3e-07"
    )
    assert "on, timed on 8 of 96 sites), 2.1x" in headline(replace(row, peer_sites_timed=8))


def test_prompts_differ_from_the_stated_position_on(tiny):
    for at in (0, 1, 10, 15):
        task = make_task(Case(replace(tiny, d_vocab=3), at, n_prompts=50), 0, torch.device("cpu"))
        unequal = task.clean != task.corrupted
        assert not bool(unequal[:, :at].any()) and bool(unequal[:, at].all())
        assert bool((task.answers != task.wrong).all())


@pytest.mark.parametrize("text", ["6", "6x", "x512", "6x500", "0x512", "6x512x3", "6X512"])
def test_shapes_that_are_none(text):
    with pytest.raises(BenchError, match="LAYERSxWIDTH"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": ("zz",)}, "unknown site 'zz'"),
        ({"peer": "al"}, "did you mean 'all'"),
        ({"repeats": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"differences": (16,)}, "from 0 to 15"),
    ],
)
def test_plans_that_mean_nothing(plan, options, message):
    with pytest.raises(BenchError, match=message):
        run_sweep(replace(plan, **options))
