"""Every search on random models: gradients against finite differences, filters by hand, equal KL measured again."""

from __future__ import annotations

import math

import pytest
import torch
from steering_search_world import D_VOCAB, prompts, tiny

import interp
from interp.errors import RecordError, SteeringError
from interp.results import SteeringSearch
from interp.steering.dose import kl_by_token, measure_kl
from interp.steering.neutral import NeutralText
from interp.steering.search import (
    KLFilter,
    WordOdds,
    js_divergence,
    search_steering,
    steering_from,
    weighted_steering,
)
from interp.steering.search.cost import count_cost
from interp.steering.search.kl_filter import ablation
from interp.steering.search.objective import measure_objective
from interp.steering.search.search import _check_doses
from interp.types import Span

POSITIVE, NEGATIVE = prompts(7, 1, 20, seed=1), prompts(6, 20, 50, seed=2)
ODDS = WordOdds(torch.arange(1, 20), torch.arange(20, 50))
TEXT = NeutralText(tuple(prompts(6, 1, D_VOCAB, seed=3, shortest=7, longest=7)), "random tokens")


def search(method, model=None, **options):
    chosen = dict(positions=("all", -1), objective=ODDS, neutral=TEXT, seed=0) | options
    return search_steering(model or tiny(), POSITIVE, NEGATIVE, method=method, **chosen)


def test_log_odds_by_hand():
    logits = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True, False], [False, True, True]])
    p = logits.softmax(-1)
    each = (p[..., [1, 4]].sum(-1) / p[..., [0, 2]].sum(-1)).log()
    target, other = torch.tensor([1, 4]), torch.tensor([0, 2])
    torch.testing.assert_close(
        WordOdds(target, other)(logits, real),
        torch.stack([each[0, :2].mean(), each[1, 1:].mean()]),
    )
    torch.testing.assert_close(
        WordOdds(target, other, "last")(logits, real), torch.stack([each[0, 1], each[1, 2]])
    )
    share = p[..., [1, 4]].sum(-1)
    rest = (share / (1 - share)).log()
    torch.testing.assert_close(
        WordOdds(target, at="last")(logits, real), torch.stack([rest[0, 1], rest[1, 2]])
    )


@pytest.mark.parametrize("where", [{}, {"at": -1}, {"act_where_read": True}, {"at": (0, -2)}])
def test_slopes_are_what_a_small_step_does(family, where):
    model = tiny(family)
    found = search("gradient", model, **where)
    base = measure_objective(model, NEGATIVE, ODDS)
    size = 2e-2
    for number, site in enumerate(found.sites):
        for column, position in enumerate(found.positions):
            one = next(c for c in found.listed() if (c.site, c.position) == (site, position))
            steering = steering_from(model, found, one.rank, calibrate=False)
            moved = []
            for strength in (size, -size):
                with steering.apply(model, strength=strength):
                    moved.append((measure_objective(model, NEGATIVE, ODDS) - base).mean())
            predicted = float(found.figures["slope"][number, column])
            assert float(moved[0] - moved[1]) / (2 * size) == pytest.approx(predicted, rel=0.02, abs=2e-4)


def test_curvatures_are_the_kl_of_a_small_step():
    model = tiny()
    text = NeutralText(tuple(prompts(64, 1, D_VOCAB, seed=4, shortest=7, longest=7)), "random tokens")
    found = search("gradient", model, neutral=text, doses=(1e-4,))
    for one in found.ranked():
        steering = steering_from(model, found, one.rank, calibrate=False)
        kl = float(measure_kl(model, steering, [one.strength], text).mean)
        # 64 rows x 4 draws: a relative error of about sqrt(2 / 256)
        assert kl == pytest.approx(1e-4, rel=0.35)
    every = torch.tensor([one.score for one in found.ranked()])
    assert (every.diff() <= 0).all()


def test_effects_grow_with_the_root_of_the_dose():
    found = search("gradient", doses=(0.1, 0.4))
    torch.testing.assert_close(found.scores[..., 1], 2 * found.scores[..., 0])
    torch.testing.assert_close(
        found.scores, found.figures["slope"][..., None] * found.strengths, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("where", [{}, {"at": (0, -1)}])
def test_brute_force_measures_at_equal_kl(where):
    model = tiny()
    found = search("brute-force", model, doses=(0.05, 0.2), **where)
    assert found.effects is not None
    base = measure_objective(model, NEGATIVE, ODDS)
    for dose in found.doses:
        for one in found.ranked(dose):
            steering = steering_from(model, found, one.rank, dose, calibrate=False)
            kl = float(measure_kl(model, steering, [one.strength], TEXT).mean)
            assert kl == pytest.approx(dose, rel=0.021)
            with steering.apply(model, strength=one.strength):
                effect = measure_objective(model, NEGATIVE, ODDS) - base
            at = found.sites.index(one.site), found.positions.index(one.position), found.dose_index(dose)
            torch.testing.assert_close(found.effects[at], effect)
            assert one.score == pytest.approx(float(effect.mean()))
    assert found.best.score == pytest.approx(float(found.scores[..., 1].max()))


def test_padding_and_batches_change_no_effect():
    whole, single = (search("brute-force", batch_size=size) for size in (32, 1))
    torch.testing.assert_close(whole.effects, single.effects, atol=2e-4, rtol=2e-3)


def test_a_dose_out_of_reach_is_no_score_and_no_rank():
    found = search("brute-force", doses=(60.0,), positions=("all",))
    assert found.scores.isnan().all() and found.strengths.isnan().all()
    assert found.ranked() == ()
    assert len(found.listed()) == 3
    with pytest.raises(RecordError, match="0 of 3 candidates have one"):
        found.steering()


def test_divergence_is_that_of_the_rows():
    model = tiny()
    found = search("js", model, positions=(Span(1, 3),), paired=False, objective=None)
    again = search("js", model, positions=(Span(1, 3),), paired=False, seed=0)
    torch.testing.assert_close(found.scores, again.scores)
    cache = interp.capture(model, torch.stack([row[:5] for row in NEGATIVE]), "resid_post[0]@1:3")
    rows = cache["resid_post[0]@1:3"].mean(1).detach()
    other = interp.capture(model, torch.stack([row[:5] for row in POSITIVE]), "resid_post[0]@1:3")
    others = other["resid_post[0]@1:3"].mean(1).detach()
    paired = search("js", model, positions=(Span(1, 3),), paired=False, seed=4)
    draw = torch.Generator().manual_seed(4)
    first = torch.randperm(7, generator=draw)[:6]
    second = torch.randperm(6, generator=draw)[:6]
    wanted = js_divergence(others[first], rows[second]).mean()
    torch.testing.assert_close(paired.scores[0, 0, 0], wanted, atol=1e-6, rtol=1e-5)
    assert found.backwards == 0 and found.forwards == len(POSITIVE) + len(NEGATIVE)
    assert (found.scores >= 0).all() and (found.scores <= math.log(2)).all()


def test_the_filter_by_hand():
    model = tiny()
    loose = KLFilter(max_kl=50.0, min_inducing=-50.0, layers=1.0)
    found = search("kl-filter", model, positions=("all",), limits=loose)
    assert found.passed.all()
    base = measure_objective(model, POSITIVE, ODDS).mean()
    tokens = torch.stack(TEXT.rows)
    for one in found.ranked():
        direction = found.direction_of(one)
        unit = direction / direction.norm()
        number = found.sites.index(one.site)
        with taken_out_everywhere(model, unit):
            without = measure_objective(model, POSITIVE, ODDS).mean()
            with torch.no_grad():
                moved = model(tokens)
        with torch.no_grad():
            kl = kl_by_token(model(tokens), moved).mean()
        assert one.score == pytest.approx(float(base - without), abs=1e-4)
        assert float(found.figures["kl"][number, 0]) == pytest.approx(float(kl), rel=1e-3)
        with steering_from(model, found, one.rank, calibrate=False).apply(model, strength=1.0):
            induced = measure_objective(model, NEGATIVE, ODDS).mean()
        assert float(found.figures["inducing"][number, 0]) == pytest.approx(float(induced), abs=1e-4)


def taken_out_everywhere(model, unit):
    sites = [f"{name}[{i}]" for i in range(3) for name in ("resid_pre", "attn_out", "mlp_out")]
    return interp.intervene(model, [interp.project(site, unit) for site in sites])


def test_each_filter_rules_out():
    loose = dict(max_kl=50.0, min_inducing=-50.0, layers=1.0)
    free = search("kl-filter", limits=KLFilter(**loose))
    kl, inducing = free.figures["kl"], free.figures["inducing"]
    middle = float(kl.median())
    assert torch.equal(search("kl-filter", limits=KLFilter(**loose | {"max_kl": middle})).passed, kl < middle)
    middle = float(inducing.median())
    strict = search("kl-filter", limits=KLFilter(**loose | {"min_inducing": middle}))
    assert torch.equal(strict.passed, inducing > middle)
    early = search("kl-filter", limits=KLFilter(**loose | {"layers": 0.8}))
    assert early.passed.tolist() == [[True, True], [True, True], [False, False]]
    base = float(measure_objective(tiny(), NEGATIVE, ODDS).mean())
    risen = search("kl-filter", limits=KLFilter(**loose, relative=True)).figures["inducing"]
    torch.testing.assert_close(risen, inducing - base)


@pytest.mark.parametrize("n_layers, last", [(4, 2), (5, 3), (10, 7), (15, 11)])
def test_the_first_80_percent_of_layers(n_layers, last):
    limits = KLFilter()
    assert [i for i in range(n_layers) if limits.allows_layer(i, n_layers)] == list(range(last + 1))


def test_a_direction_of_neurons_is_taken_out_at_its_own_site():
    found = search("kl-filter", sites="mlp_post[1]", positions=("all",))
    assert found.figures["kl"].isfinite().all()


@pytest.mark.parametrize("place", ["z[1]", "q[1]", "mlp_in[1]", "mlp_post[1]", "z[1.2]"])
def test_only_directions_of_the_residual_stream_are_taken_out_everywhere(place):
    """All heads side by side are as wide as the stream, and another space."""
    from interp.steering.search.candidates import read_candidates

    (one,) = read_candidates(tiny(), POSITIVE, NEGATIVE, place, ["all"], paired=False).every
    assert [str(step.site) for step in ablation(tiny(), one).steps] == [place]
    (one,) = read_candidates(tiny(), POSITIVE, NEGATIVE, "mlp_out[1]", ["all"], paired=False).every
    assert len(ablation(tiny(), one).steps) == 9


def test_heads_and_neurons_can_be_searched():
    for site in ("z[1.2]", "mlp_post[0]"):
        found = search("brute-force", sites=site, positions=(-1,), doses=(0.02,))
        assert found.best.site == site


def test_costs_are_counted():
    model = tiny()
    with count_cost(model) as cost:
        model(torch.ones(3, 4, dtype=torch.long))
        model(torch.ones(2, 4, dtype=torch.long))
    assert cost.forwards == 5
    model(torch.ones(3, 4, dtype=torch.long))
    assert cost.forwards == 5
    read = 2 * (len(POSITIVE) + len(NEGATIVE))
    found = search("gradient", model)
    assert found.forwards == read + len(NEGATIVE) + 4 * len(TEXT.rows)
    assert found.backwards == len(NEGATIVE) + 4 * len(TEXT.rows)


def test_a_found_steering_is_calibrated_and_survives_its_file(tmp_path):
    model = tiny()
    found = search("brute-force", model, doses=(0.05, 0.1), positions=("all",))
    steering = found.steering(2, 0.05)
    assert float(measure_kl(model, steering, [steering.strength_for(0.1)], TEXT).mean) == pytest.approx(
        0.1, rel=0.1
    )
    again = SteeringSearch.load(found.save(tmp_path / "search.safetensors"))
    assert again.ranked() == found.ranked()
    torch.testing.assert_close(again.effects, found.effects)
    with pytest.raises(RecordError, match="steering_from"):
        again.steering()
    torch.testing.assert_close(
        steering_from(model, again, 2, 0.05, calibrate=False).direction(), steering.direction()
    )
    assert found.cheapest(0.0).dose == 0.05
    with pytest.raises(RecordError, match="no candidate"):
        found.cheapest(1e9)
    assert len(found.to_frame()) == 6


def test_weights_follow_scores():
    model = tiny()
    found = search("brute-force", model)
    found = type(found)(**vars(found) | {"scores": found.scores.abs() + 0.1})
    steering = weighted_steering(model, found, neutral=TEXT)
    best = {}
    for one in found.ranked():
        best.setdefault(one.site, one)
    most = max(one.score for one in best.values())
    assert [str(step.site) for step in steering.steps] == list(found.sites)
    for step in steering.steps:
        one = best[str(step.site)]
        assert step.weight == pytest.approx(one.score / most * one.strength)
    assert steering.calibration is not None
    with pytest.raises(SteeringError, match="no candidate has a score above 0"):
        weighted_steering(model, type(found)(**vars(found) | {"scores": -found.scores}))


def test_refusals():
    for options, match in [
        (dict(method="brute"), "brute-force"),
        (dict(method="gradient", objective=None), "needs an objective"),
        (dict(method="js", doses=()), "different numbers above 0"),
        (dict(method="js", sites="resid_post[0]@-1"), "positions apart from sites"),
        (dict(method="js", positions=(-1, -1)), "differ"),
        (dict(method="js", positions=("gen",)), "names no positions"),
        (dict(method="js", at="gen"), "names no positions"),
        (dict(method="js", at=-1, act_where_read=True), "not both"),
        (
            dict(method="brute-force", objective=lambda logits, real: logits.mean()),
            "one finite number a prompt",
        ),
        (dict(method="gradient", objective=lambda logits, real: logits.mean()), "one finite number a prompt"),
        (
            dict(method="gradient", objective=lambda *both: ODDS(*both) * math.nan),
            "one finite number a prompt",
        ),
        (dict(method="gradient", objective=lambda *both: ODDS(*both).detach()), "has no gradient"),
        (dict(method="js", batch_size=0), "batch_size is at least 1"),
        (dict(method="gradient", objective="sentiment"), "is written"),
    ]:
        with pytest.raises(SteeringError, match=match):
            search(**options)
    with pytest.raises(SteeringError, match="no positive prompts"):
        search_steering(tiny(), [], NEGATIVE, method="js")
    with pytest.raises(SteeringError, match="both wanted and unwanted"):
        WordOdds(torch.tensor([1]), torch.tensor([1, 2]))
    with pytest.raises(SteeringError, match="on both sides"):
        WordOdds(torch.tensor([1]), torch.tensor([], dtype=torch.long))
    with pytest.raises(SteeringError, match="same mean activation"):
        search_steering(tiny(), NEGATIVE, NEGATIVE, method="js")
    assert _check_doses([0.3, 1]) == (0.3, 1.0)


@pytest.mark.parametrize("limits", [dict(max_kl=math.nan), dict(layers=80.0), dict(min_inducing=math.nan)])
def test_a_filter_has_limits_that_can_be_met(limits):
    with pytest.raises(SteeringError, match="a filter has max_kl above 0"):
        KLFilter(**limits)


def test_ablation_of_a_head_stays_there():
    found = search("js", sites="z[1.2]", positions=("all",))
    from interp.steering.contrast import ContrastRows
    from interp.steering.search.candidates import Candidate
    from interp.types import parse_site

    direction = found.direction_of(found.best)
    rows = ContrastRows(direction[None], -direction[None], True)
    candidate = Candidate(parse_site("z[1.2]"), "all", parse_site("z[1.2]"), rows, direction)
    assert [str(step.site) for step in ablation(tiny(), candidate).steps] == ["z[1.2]"]
