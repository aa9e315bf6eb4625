"""Detectors: scores token by token, padded and not, files, and false positive rates on fresh prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steering_search_world import planted_model, prompts, tiny
from tiny_models import make_hf_model

import interp
from interp.errors import DataFileError, InterpError, SteeringError
from interp.results import DetectorReport
from interp.steering import Steering, Step
from interp.steering.extract.extract import extract_steering
from interp.steering.monitor import (
    Detector,
    detector_of,
    evaluate_detector,
    fit_detector,
    load_detector,
)
from interp.steering.monitor.detector import score_prompts
from interp.steering.operations import Add
from interp.steering.places import InstructionEnd
from interp.types import Site, Span

POSITIVE, NEGATIVE = prompts(60, 1, 20, seed=1), prompts(80, 20, 50, seed=2)


def detector(model, **fields):
    d = model.traits.d_model
    draw = torch.Generator().manual_seed(0)
    made = dict(
        sites=(Site("resid_post", 0), Site("resid_post", 2)), directions=torch.randn(2, d, generator=draw)
    )
    return Detector(**made | fields)


def by_hand(model, one, row):
    """Score of every token of one prompt, number by number."""
    total = torch.zeros(len(row), dtype=torch.float64)
    for number, site in enumerate(one.sites):
        h = interp.capture(model, row[None], replace(site, positions=None))[replace(site, positions=None)][0]
        for sign, vectors in ((1, one.directions), (-1, one.against)):
            if vectors is None:
                continue
            dot = torch.nn.functional.cosine_similarity if one.measure == "cosine" else None
            v = vectors[number]
            total += sign * (dot(h, v[None], dim=-1) if dot else h @ v / v.norm()).double()
    return total / len(one.sites)


@pytest.mark.parametrize("measure", ["dot", "cosine", "against"])
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_scores_are_those_of_each_token(family, measure, pooling):
    model = tiny(family)
    options = dict(measure="dot" if measure == "dot" else "cosine", pooling=pooling)
    if measure == "against":
        options["against"] = torch.randn(2, 36, generator=torch.Generator().manual_seed(5))
    span = Site("resid_post", 0, positions=(Span(1, -1),)), Site("resid_post", 2, positions=(Span(1, -1),))
    one = detector(model, sites=span, **options)
    rows = POSITIVE[:5]
    wanted = []
    for row in rows:
        scores = by_hand(model, one, row)[1:-1]
        wanted.append({"mean": scores.mean(), "max": scores.max(), "last": scores[-1]}[pooling])
    torch.testing.assert_close(one.score(model, rows), torch.stack(wanted), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        one.score(model, rows, batch_size=1), torch.stack(wanted), atol=1e-4, rtol=1e-4
    )


def test_padding_on_either_side_changes_no_token(family):
    model = tiny(family)
    one = detector(model)
    row = POSITIVE[0]
    n = len(row)
    alone, _ = one.token_scores(model, row[None])
    for left in (True, False):
        tokens = torch.zeros(1, n + 3, dtype=torch.long)
        mask = torch.zeros(1, n + 3, dtype=torch.bool)
        place = slice(3, n + 3) if left else slice(0, n)
        tokens[0, place], mask[0, place] = row, True
        scores, chosen = one.token_scores(model, tokens, mask)
        torch.testing.assert_close(scores[:, place], alone, atol=1e-4, rtol=1e-4)
        assert scores[~mask].isnan().all() and torch.equal(chosen, mask)


def test_several_detectors_read_one_pass():
    model = tiny()
    one, other = detector(model), detector(model, pooling="max", name="other")
    both = score_prompts(model, [one, other], POSITIVE, batch_size=7)
    torch.testing.assert_close(both[:, 0], one.score(model, POSITIVE), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, 1], other.score(model, POSITIVE), atol=1e-5, rtol=1e-5)


def test_running_scores_end_in_the_pooled_one():
    model = tiny()
    scores = torch.tensor([[1.0, 3.0, 2.0, 5.0]]).double()
    chosen = torch.tensor([[False, True, True, False]])
    wanted = {"mean": [3.0, 2.5, 2.5], "max": [3.0, 3.0, 3.0], "last": [3.0, 2.0, 2.0]}
    for pooling, values in wanted.items():
        found = detector(model, pooling=pooling).running(scores, chosen)
        assert found[0, 0].isnan() and found[0, 1:].tolist() == values


def test_fitting_tells_sides_apart_that_it_did_not_see():
    model = planted_model(({True: (1, 20), False: (20, 50)},), 0.5)
    for measure in ("dot", "cosine", "prototypes"):
        one = fit_detector(
            model, POSITIVE, NEGATIVE, "resid_post[0-1]", measure=measure, false_positive_rate=0.1
        )
        assert one.report is not None and one.figures["auc"] == one.report.auc.value
        report = one.report
        wins = (report.positive[:, None] > report.negative).double().mean()
        assert report.auc.value == pytest.approx(float(wins))
        assert report.auc.low > 0.8
        # the threshold is the score of a prompt that is not judged
        assert one.limit not in report.negative.tolist()
        assert report.true_rate.value == pytest.approx(float((report.positive > one.limit).double().mean()))
        assert report.false_rate.value == pytest.approx(float((report.negative > one.limit).double().mean()))
        assert one.n_calibration == 20 and one.false_positive_rate == 0.1
        assert len(one.report.positive) == 15 and len(one.report.negative) == 20
        fresh = prompts(400, 20, 50, seed=9)
        rate = float(one.flag(model, fresh).double().mean())
        assert rate <= 0.1 + 3 * (0.1 * 0.9 / 20) ** 0.5


def test_the_rate_is_near_the_one_asked_for():
    """Mean over calibration sets, on fresh prompts of the same kind."""
    model = tiny()
    one = detector(model, sites=(Site("resid_post", 0),), directions=torch.ones(1, 36))
    scores = one.score(model, prompts(1400, 20, 50, seed=11))
    fresh, sets = scores[:200], scores[200:].reshape(40, 30)
    rates = [float((fresh > one.with_threshold(some, 0.1).limit).double().mean()) for some in sets]
    # k = ceil(31 x 0.9) = 28: expected rate 3 / 31
    assert sum(rates) / 40 == pytest.approx(3 / 31, abs=0.03)


def test_a_steering_is_a_detector():
    model = tiny()
    steering = extract_steering(model, POSITIVE, NEGATIVE, "resid_post[1-2]", calibrate=False)
    one = detector_of(steering)
    assert [str(site) for site in one.sites] == ["resid_post[1]", "resid_post[2]"]
    report = evaluate_detector(model, one, prompts(30, 1, 20, seed=5), prompts(30, 20, 50, seed=6))
    assert report.auc.low > 0.6 and report.true_rate is None
    with pytest.raises(SteeringError, match="no threshold"):
        one.flag(model, POSITIVE)
    single = detector_of(steering, "resid_post[2]", at=(-1,), pooling="last")
    torch.testing.assert_close(single.directions[0], steering.direction("resid_post[2]"))
    assert str(single.sites[0]) == "resid_post[2]@-1"
    twice = Steering((Step(Site("resid_post", 1), Add(torch.ones(36))),) * 2)
    with pytest.raises(SteeringError, match="one direction a site"):
        detector_of(twice)


def test_files_keep_everything(tmp_path):
    model = tiny()
    where = InstructionEnd((3, 4))
    one = fit_detector(model, POSITIVE, NEGATIVE, "resid_post[0-1]@-1", measure="prototypes", name="x")
    one = replace(one, where=where, pooling="max")
    again = load_detector(one.save(tmp_path / "detector.safetensors"))
    assert str(again) == str(one) and again.where == where and again.sites == one.sites
    torch.testing.assert_close(again.directions, one.directions)
    torch.testing.assert_close(again.against, one.against)
    for name in ("threshold", "n_calibration", "model_digest", "data", "figures", "provenance", "pooling"):
        assert getattr(again, name) == getattr(one, name)
    assert again.report is None
    torch.testing.assert_close(
        replace(again, where=None).score(model, POSITIVE), replace(one, where=None).score(model, POSITIVE)
    )
    report = one.report
    assert str(DetectorReport.load(report.save(tmp_path / "report.safetensors"))) == str(report)
    with pytest.raises(DataFileError, match="expected a saved Detector"):
        load_detector(tmp_path / "nothing")
    with pytest.raises(DataFileError, match="holds a DetectorReport"):
        load_detector(tmp_path / "report.safetensors")


def test_moved_positions_need_a_new_threshold():
    model = tiny()
    one = fit_detector(model, POSITIVE, NEGATIVE, "resid_post[1]")
    moved = one.at("gen")
    assert moved.threshold is None and str(moved.sites[0]) == "resid_post[1]@gen" and not moved.figures
    with pytest.raises(SteeringError, match="reads no token of prompts"):
        moved.score(model, POSITIVE)


def test_refusals():
    model = tiny()
    for fields, match in [
        (dict(measure="cos"), "cosine"),
        (dict(pooling="first"), "last"),
        (dict(directions=torch.ones(1, 36)), r"takes vectors \[2, d\]"),
        (dict(directions=torch.zeros(2, 36)), "none is 0"),
        (dict(directions=torch.full((2, 36), torch.nan)), "finite"),
        (dict(against=torch.ones(2, 36)), "reads cosines"),
        (dict(sites=()), "got no site"),
        (dict(sites=(Site("resid_post", 0), Site("resid_pre", 0))), "one component"),
        (dict(sites=(Site("resid_post"),), directions=torch.ones(1, 36)), "names all"),
        (dict(sites=(Site("pattern", 0),), directions=torch.ones(1, 36)), "vectors of tokens"),
    ]:
        with pytest.raises(SteeringError, match=match):
            detector(model, **fields)
    with pytest.raises(SteeringError, match="reads 8 entries"):
        detector(model, directions=torch.ones(2, 8)).score(model, POSITIVE)
    with pytest.raises(SteeringError, match="no prompts to score"):
        detector(model).score(model, [])
    with pytest.raises(SteeringError, match="was made for weights"):
        detector(model, model_digest="other").score(model, POSITIVE)
    with pytest.raises(SteeringError, match="cannot be parted"):
        fit_detector(model, POSITIVE[:2], NEGATIVE, "resid_post[0]")
    with pytest.raises(SteeringError, match="at least 99 negative prompts"):
        fit_detector(model, POSITIVE, NEGATIVE, "resid_post[0]", false_positive_rate=0.01)
    with pytest.raises(InterpError):
        fit_detector(model, POSITIVE, NEGATIVE, "resid_post[0]@-40")


def test_padding_that_holds_nan_is_not_read():
    # in double precision Hugging Face's Gemma 2 gives NaN at padding that its window of 4 parts from the prompt
    model = interp.load_model(make_hf_model("gemma2", dtype=torch.float64))
    draw = torch.Generator().manual_seed(0)
    sides = [
        [torch.randint(0, 50, (3 + i % 6,), generator=draw) for i in range(30)]
        for _ in ("positive", "negative")
    ]
    found = fit_detector(model, *sides, "resid_post[0]", false_positive_rate=0.2, batch_size=8)
    alone = fit_detector(model, *sides, "resid_post[0]", false_positive_rate=0.2, batch_size=1)
    torch.testing.assert_close(found.directions, alone.directions)
