"""Whole evaluations: what is known to steer beats its controls, at the same dose, and the record says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import interp
from interp.errors import SteeringError
from interp.results import SteeringEvaluation
from interp.steering.evaluate import evaluate_steering, measure_off_target, write_examples
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.kl import measure_kl
from interp.steering.neutral import NeutralText
from interp.steering.operations import Add, ProjectOut, Rotate
from interp.steering.steering import Steering, steer_with


@pytest.fixture(scope="module")
def found(mix, happy, contrast, mix_text) -> SteeringEvaluation:
    sad = steer_with({"resid_post[1]": Add(-happy.direction())}, method="backwards")
    turn = steer_with({"resid_post[1]": Rotate(happy.direction())}, method="rotate")
    return evaluate_steering(
        mix,
        {"mean-difference": happy, "backwards": sad, "rotate": turn},
        "sentiment=positive",
        doses=(0.1, 0.4),
        neutral=mix_text,
        contrast=contrast,
        draws=2,
        n=12,
        new_tokens=18,
    )


def test_what_steers_beats_its_controls_and_the_other_way_does_not(found):
    for measure in ("concept", "log odds"):
        assert found.at("mean-difference", 0.4, measure, "shifts").low > 0
        assert found.at("mean-difference", 0.4, measure, "over_controls").low > 0
        assert found.at("backwards", 0.4, measure, "over_controls").value < 0
    assert found.at("mean-difference", 0.4, "generated", "shifts").value > 0.3
    assert found.effect == "concept"
    gain = found.at("mean-difference", 0.4, "concept", "shifts").value
    assert found.gain_per_nat("mean-difference", 0.4) == pytest.approx(gain / 0.4)


def test_doses_are_equal_and_dearer_doses_do_more(found, mix, happy, mix_text):
    for name in found.conditions:
        for dose in found.doses:
            if math.isfinite(found.at(name, dose, "kl").value):
                # the last token of each row has a KL and no next token
                assert found.at(name, dose, "kl").value == pytest.approx(dose, rel=0.1)
    row = found.conditions.index("mean-difference")
    kl = measure_kl(mix, happy, found.strengths[row].tolist(), mix_text).mean
    assert kl.tolist() == pytest.approx(found.doses, rel=0.021)
    low, high = (found.at("mean-difference", dose, "concept").value for dose in found.doses)
    assert low < high


def test_the_record_holds_methods_then_controls_by_place(found):
    assert found.methods == ("mean-difference", "backwards", "rotate")
    kinds = ("random direction", "orthogonal direction", "shuffled labels")
    wanted = [f"{kind} at {what}(resid_post[1])" for what in ("add", "rotate") for kind in kinds]
    assert list(found.controls) == wanted
    assert set(found.draws) == {1, 2}
    assert len(set(found.places)) == 2
    over = found.over_controls[:, :, 0, 0]
    assert bool(over[3:].isnan().all()) and bool(over[:2].isfinite().all())
    assert found.measures[:3] == ("concept", "generated", "log odds") and len(found.measures) == 10
    assert any("AUC" in note for note in found.provenance.notes)


def test_the_lead_is_over_the_controls_of_the_same_place(found):
    effect = found.values[:, :, 0, 0]
    for method, what in (("mean-difference", "add"), ("rotate", "rotate")):
        row, place = found.conditions.index(method), f"{what}(resid_post[1])"
        beside = [i for i, name in enumerate(found.conditions) if name in found.controls]
        own = [i for i in beside if found.places[i] == place]
        # as many draws of each kind: the mean of their means
        wanted = effect[row] - effect[own].mean(0)
        torch.testing.assert_close(found.over_controls[row, :, 0, 0], wanted, rtol=1e-6, atol=1e-6)
        assert bool(wanted.isfinite().all()) and not torch.equal(effect[own].mean(0), effect[beside].mean(0))


def test_shifts_are_from_the_unsteered_model_and_its_ends_hold_the_value(found):
    base = found.unsteered[:, 0]
    torch.testing.assert_close(
        found.shifts[..., 0], found.values[..., 0] - base, rtol=1e-6, atol=1e-9, equal_nan=True
    )
    for part in (found.values, found.shifts):
        whole = part[part.isfinite().all(-1)]
        assert bool((whole[:, 1] <= whole[:, 0] + 1e-9).all() and (whole[:, 0] <= whole[:, 2] + 1e-9).all())


def test_a_dose_out_of_reach_is_said_and_nothing_else(mix, happy, contrast, mix_text):
    out = steer_with({"resid_post[1]": ProjectOut.span(happy.direction())})
    found = evaluate_steering(
        mix,
        {"out": out},
        "sentiment=positive",
        doses=(5.0,),
        neutral=mix_text,
        controls=(),
        n=8,
        new_tokens=4,
    )
    assert found.unreached == ("out at 5 nats",) and bool(found.values.isnan().all())
    assert "not reached: out at 5 nats" in found.summary()


def test_any_model_by_held_out_prompts(make_hf_model, family, tiny_text):
    """Prompts that hold one token, or another: the direction of their embeddings is told by the probe."""
    model = interp.load_model(make_hf_model(family, tie_word_embeddings=False))
    draw = torch.Generator().manual_seed(0)

    def prompts(token):
        rows = torch.randint(10, 50, (16, 7), generator=draw)
        rows[:, 2:5] = token
        return [row[None] for row in rows]

    positive, negative = prompts(3), prompts(4)
    steering = interp.extract_steering(
        model, positive[:8], negative[:8], "resid_post[0]", paired=False, calibrate=False
    )
    found = evaluate_steering(
        model,
        {"mean-difference": steering},
        positive=positive[8:],
        negative=negative[8:],
        neutral=tiny_text,
        doses=(0.3,),
        controls=("random", "shuffled"),
        draws=3,
    )
    assert found.measures == ("log odds", "loss", "kl", "entropy")
    assert found.controls == ("random direction",)
    assert any("give contrast=" in note for note in found.provenance.notes)
    assert found.at("mean-difference", 0.3, "log odds", "shifts").value > 0


def test_the_same_seed_gives_the_same_record(mix, happy, mix_text):
    def run(seed):
        return evaluate_steering(
            mix, {"a": happy}, "sentiment=positive", doses=(0.2,), neutral=mix_text, controls=("random",), draws=1,
            n=8, new_tokens=6, seed=seed,
        )  # fmt: skip

    first, again, other = run(0), run(0), run(1)
    assert torch.equal(first.values, again.values) and torch.equal(first.shifts, again.shifts)
    assert not torch.equal(first.values, other.values)


def test_bad_input(mix, happy, tiny):
    good = dict(doses=(0.2,), n=8)
    with pytest.raises(SteeringError, match="no steering to evaluate"):
        evaluate_steering(mix, {}, "sentiment=positive", **good)
    with pytest.raises(SteeringError, match="nothing says what the concept is"):
        evaluate_steering(mix, {"a": happy}, **good)
    with pytest.raises(SteeringError, match="two sides"):
        evaluate_steering(mix, {"a": happy}, positive=["a"], **good)
    for doses in ((), (0.0,), (-0.1,), (0.2, 0.2), (math.nan,), (0.2, math.inf)):
        with pytest.raises(SteeringError, match="nats above 0, each once"):
            evaluate_steering(mix, {"a": happy}, "sentiment=positive", doses=doses)
    with pytest.raises(SteeringError, match="n at least 4"):
        evaluate_steering(mix, {"a": happy}, "sentiment=positive", n=3)
    with pytest.raises(SteeringError, match="was made for weights"):
        evaluate_steering(tiny, {"a": happy}, positive=["a"] * 8, negative=["b"] * 8)
    with pytest.raises(SteeringError, match="did you mean 'positive'"):
        evaluate_steering(mix, {"a": happy}, "sentiment=positiv", **good)
    with pytest.raises(SteeringError, match="kind of control"):
        evaluate_steering(mix, {"a": happy}, "sentiment=positive", controls=("noise",))
    with pytest.raises(SteeringError, match=r"generated tokens \(add\(resid_post\[1\]@gen\)\)"):
        evaluate_steering(
            mix, {"a": happy.at("gen")}, positive=["The cook"] * 8, negative=["A cook"] * 8, **good
        )


def test_steerings_of_generated_tokens_are_judged_by_what_is_written(mix, happy, contrast, mix_text):
    options = dict(doses=(0.4,), neutral=mix_text, contrast=contrast, controls=("random",), draws=2, n=12)
    alone = evaluate_steering(mix, {"gen": happy.at("gen")}, "sentiment=positive", **options)
    assert "concept" not in alone.measures and alone.effect == "generated"
    assert alone.at("gen", 0.4, "generated", "shifts").value > 0.2
    assert alone.at("gen", 0.4, "kl").value > 0 and "gen: acts on generated" in alone.provenance.notes[-1]
    both = evaluate_steering(mix, {"gen": happy.at("gen"), "all": happy}, "sentiment=positive", **options)
    assert both.effect == "concept"
    for measure in ("concept", "log odds"):
        assert math.isnan(both.at("gen", 0.4, measure).value)
        assert math.isfinite(both.at("all", 0.4, measure).value)
    for measure in alone.measures:
        assert both.at("gen", 0.4, measure) == alone.at("gen", 0.4, measure)
    assert both.plot() is not None and "undefined" in both.summary()


def test_a_contrast_of_another_model_is_refused(mix, happy, contrast):
    other = replace(contrast, model_digest="0")
    with pytest.raises(SteeringError, match="read from weights 0"):
        evaluate_steering(mix, {"a": happy}, "sentiment=positive", contrast=other, doses=(0.2,), n=8)


def test_the_off_target_matrix_has_its_effect_on_target(mix, happy, mix_text):
    back = replace(happy, steps=steer_with({"resid_post[1]": Add(-happy.direction())}).steps)
    found = measure_off_target(
        mix, {"sentiment=positive": happy, "sentiment=negative": back}, 0.3, neutral=mix_text, draws=2, n=12
    )
    assert found.steerings == ("sentiment=positive", "sentiment=negative", "random direction")
    assert found.controls == ("random direction",) and len(found.values) == 11
    assert found.at("sentiment=positive", "sentiment=positive").low > 0
    assert found.at("sentiment=negative", "sentiment=negative").low > 0
    assert float(found.on_target[0]) > float(found.off_target[0])
    # shares of one attribute sum to 1 before and after
    for name in ("sentiment", "topic", "tense", "formality"):
        own = [i for i, value in enumerate(found.values) if value.startswith(name)]
        torch.testing.assert_close(
            found.shifts[:, own, 0].sum(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-4
        )
        assert float(found.unsteered[own].sum()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(SteeringError, match="dose above 0"):
        measure_off_target(mix, {"a": happy}, 0.0)
    with pytest.raises(SteeringError, match="dose above 0"):
        measure_off_target(mix, {"a": happy}, math.inf)
    with pytest.raises(SteeringError, match="was made for weights 0"):
        measure_off_target(mix, {"a": replace(happy, model_digest="0")})
    with pytest.raises(SteeringError, match="acts on generated tokens"):
        measure_off_target(mix, {"a": happy.at("gen")})


def test_examples_are_the_models_own_continuations_at_each_dose(mix, happy: Steering, mix_text: NeutralText):
    (strength,) = equal_strengths(mix, happy, [0.5], mix_text).tolist()
    prompts = ["The baker", "Yeah , the cook"]
    text = write_examples(mix, happy, prompts, (0.0, 0.5), (0.0, strength), new_tokens=8)
    assert len(text) == 4 and text.unit == "dose" and text.asked.tolist() == [0.0, 0.5, 0.0, 0.5]
    plain = mix.generate(mix.to_tokens(prompts[1]), 8)
    with happy.apply(mix, strength=strength):
        steered = mix.generate(mix.to_tokens(prompts[1]), 8)
    n = plain.shape[1]
    assert text.tokens[2][:n] == tuple(mix.to_str_tokens(plain[0]))
    assert text.tokens[3][: steered.shape[1]] == tuple(mix.to_str_tokens(steered[0]))
    with pytest.raises(SteeringError, match=r"no strength reaches 0\.5"):
        write_examples(mix, happy, prompts, (0.0, 0.5), (0.0, math.nan))
    with pytest.raises(SteeringError, match="examples need prompts"):
        write_examples(mix, happy, [], (0.5,), (1.0,))
    with pytest.raises(SteeringError, match="one text for prompts"):
        write_examples(mix, happy, "The baker", (0.5,), (1.0,))
    with pytest.raises(SteeringError, match="made for weights 0"):
        write_examples(mix, replace(happy, model_digest="0"), prompts, (0.5,), (1.0,))
