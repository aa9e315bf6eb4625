"""Doses: KL against a loop, calibrations that are right and rise, exact strengths, and what has no dose."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mean_gate import MeanGate
from naive_steering import make_operation_twin
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import RecordError, SteeringError, UnreachedDoseError
from interp.steering.dose import calibrate_dose, find_strength, kl_by_token, measure_kl
from interp.steering.kl import KLMeter
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.operations import Add, AffineMap, Clamp, ProjectOut
from interp.steering.places import TextPattern
from interp.steering.steering import Steering, Step, steer_with
from interp.types import parse_site

D = 36


def vector(seed: int = 0, d: int = D) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"), tokenizer=make_tokenizer())


@pytest.fixture(scope="module")
def mix():
    return interp.load_model("mix-4l")


@pytest.fixture(scope="module")
def text():
    """Rows of unequal length."""
    draw = torch.Generator().manual_seed(0)
    return NeutralText(tuple(torch.randint(2, 53, (n,), generator=draw) for n in (5, 9, 9, 5, 12)), "random")


@pytest.fixture(scope="module")
def mix_text(mix):
    return read_neutral(mix, n=6, length=20)


def adding(site: str = "resid_post[0]", seed: int = 0) -> Steering:
    return steer_with({site: Add(vector(seed))})


def naive_kl(
    model, steering: Steering, strength: float, text: NeutralText, first: dict[int, int]
) -> list[float]:
    """Sum over tokens from ``first`` (by length) on, a token and a word at a time."""
    found = []
    for row in text.rows:
        with torch.no_grad():
            base = model(row[None])[0].double()
            with steering.apply(model, strength=strength):
                steered = model(row[None])[0].double()
        total = 0.0
        for p, q in list(zip(base.softmax(-1), steered.softmax(-1), strict=True))[first[len(row)] :]:
            total += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        found.append(total)
    return found


def test_the_kl_is_that_of_a_loop(model, text):
    for site, first in (("resid_post[0]", 0), ("attn_out[1]@3:", 3), ("mlp_out[0]@4", 4)):
        steering = adding(site)
        found = measure_kl(model, steering, [0.0, 0.7, -2.0], text, batch_size=2)
        assert found.count.tolist() == [n - first for n in (5, 9, 9, 5, 12)]
        for number, strength in enumerate((0.0, 0.7, -2.0)):
            expected = naive_kl(model, steering, strength, text, dict.fromkeys((5, 9, 12), first))
            assert found.total[number].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert found.mean[1] == pytest.approx(float(found.total[1].sum() / found.count.sum()))
        assert found.total[0].tolist() == [0.0] * 5


def test_rows_too_short_for_a_step_count_for_nothing(model, text):
    """Only one row has a tenth token; another step may act where that one does not."""
    found = measure_kl(model, adding("resid_post[0]@10"), [1.0], text)
    assert found.count.tolist() == [0, 0, 0, 0, 2]
    assert found.total[0, :4].tolist() == [0.0] * 4
    low, high = found.intervals(0.9, 0)
    assert low[0] == high[0] == pytest.approx(float(found.mean[0]))
    both = measure_kl(model, adding("resid_post[0]@10") + adding("resid_post[0]@6", 1), [1.0], text)
    assert both.count.tolist() == [0, 3, 3, 0, 6]
    with pytest.raises(SteeringError, match="acts on no token"):
        measure_kl(model, adding("resid_post[0]@40"), [1.0], text)


def test_generated_tokens_are_the_last_three_quarters(model, text):
    found = measure_kl(model, adding("resid_post[0]@gen"), [1.0], text)
    assert found.count.tolist() == [5 - 1, 9 - 2, 9 - 2, 5 - 1, 12 - 3]
    # -1 is the last token of the prompt, the first quarter; generated tokens count where they are one of several places
    with_last = [5, 9 - 1, 9 - 1, 5, 12 - 2]
    mixed = measure_kl(model, adding("resid_post[0]@gen,-1"), [1.0], text)
    assert mixed.count.tolist() == with_last
    two_steps = measure_kl(model, adding("resid_post[0]@-1") + adding("resid_post[0]@gen"), [1.0], text)
    assert two_steps.count.tolist() == with_last
    torch.testing.assert_close(two_steps.total, mixed.total)
    everywhere = measure_kl(model, adding() + adding("resid_post[0]@gen", 1), [1.0], text)
    assert float(everywhere.total.sum()) != pytest.approx(
        float(measure_kl(model, adding(), [1.0], text).total.sum())
    )


def test_a_pattern_counts_from_its_first_match_without_a_warning(model, text):
    word = int(text.rows[1][3])
    first = [
        next((len(row) - i for i, token in enumerate(row.tolist()) if token == word), 0) for row in text.rows
    ]
    steering = adding().narrowed(TextPattern(f"w{word}(?![0-9])"))
    assert measure_kl(model, steering, [1.0], text).count.tolist() == first
    assert 0 < sum(map(bool, first)) < 5


def test_a_gate_is_left_out(model, text):
    steering = adding()
    gate = MeanGate("resid_pre[0]")
    found = measure_kl(model, steering.gated(gate), [1.3], text)
    assert torch.equal(found.total, measure_kl(model, steering, [1.3], text).total)
    assert not gate.seen
    made = replace(calibrate_dose(model, steering, text, n_strengths=2), method="x")
    assert made.gated(gate).calibration is made.calibration


def test_other_interventions_act_in_both(model, text):
    steering = adding("resid_post[1]")
    with interp.intervene(model, interp.zero("mlp_out[0]")):
        inside = measure_kl(model, steering, [1.0], text).total
    assert not torch.allclose(inside, measure_kl(model, steering, [1.0], text).total)
    assert torch.equal(kl_by_token(torch.randn(1, 2, 5), torch.randn(1, 2, 5)) >= 0, torch.ones(1, 2).bool())


def test_kept_outputs_change_nothing(model, text, monkeypatch):
    kept = KLMeter(model, adding(), text).measure([0.5, 1.0])
    monkeypatch.setattr("interp.steering.kl._KEPT_BYTES", 0)
    torch.testing.assert_close(KLMeter(model, adding(), text).measure([0.5, 1.0]).total, kept.total)


def test_impossible_words_and_small_differences():
    base = torch.tensor([[[0.0, 1.0, -math.inf], [1.0, 2.0, 3.0]]])
    steered = torch.tensor([[[0.0, 1.0, -math.inf], [1.0, 2.0, 3.0 + 1e-4]]])
    found = kl_by_token(base, steered)
    p = base[0, 1].double().softmax(-1)
    assert float(found[0, 0]) == 0.0
    assert float(found[0, 1]) == pytest.approx(float(1e-8 * p[2] * (1 - p[2]) / 2), rel=2e-2)


MIX_SITES = {"neurons": "mlp_post[1]", "rotate": "z[2]", "low-rank": "attn_out[0]"}


@pytest.mark.parametrize("name", ["add", "project two", "rotate", "low-rank", "neurons"])
def test_a_calibration_rises_and_is_right(mix, mix_text, name: str):
    """On the bundled model: looked up, then measured."""
    site = parse_site(MIX_SITES.get(name, "resid_post[1]"))
    twin = make_operation_twin(name, 512 if name == "neurons" else 128, seed=3)
    steering = Steering((Step(site, twin.operation, 0.9),), "mine")
    made = calibrate_dose(mix, steering, mix_text, max_dose=0.5)
    found = made.calibration
    assert found is not None
    assert found.kl[found.strengths == 0].tolist() == [0.0]
    assert bool((found.low <= found.kl + 1e-12).all() and (found.kl <= found.high + 1e-12).all())
    most = min(0.5, found.doses[1])
    for dose in (0.9 * most, 0.3 * most, -0.5 * min(0.5, -found.doses[0])):
        strength = made.strength_for(dose)
        assert isinstance(strength, float)
        measured = float(measure_kl(mix, steering, [strength], mix_text).mean)
        assert measured == pytest.approx(abs(dose), rel=0.08), (name, dose)
        exact = find_strength(mix, steering, dose, mix_text, tolerance=1e-3)
        measured = float(measure_kl(mix, steering, [exact], mix_text).mean)
        assert measured == pytest.approx(abs(dose), rel=1e-3)
        assert exact == pytest.approx(strength, rel=0.08)
        assert (exact > 0) == (dose > 0)
    rising = found.kl[found.strengths >= 0].diff()
    assert bool((rising > 0).all())
    end = twin.operation.full_strength
    if end is not None:
        assert float(found.strengths.abs().max()) <= end / 0.9 + 1e-9


def test_the_largest_strength_is_a_little_above_the_largest_dose(model, text):
    """Whatever the length of the vector: searched for from 1, up or down."""
    for scale in (1e-2, 1e3):
        steering = steer_with({"resid_post[0]": Add(scale * vector())})
        found = calibrate_dose(model, steering, text, max_dose=0.3, n_strengths=2).calibration
        assert found is not None
        for end in (-1, 0):
            assert 0.3 < float(found.kl[end]) < 0.6, scale
        assert len(found.strengths) == 5


def test_one_side_only(model, text):
    found = calibrate_dose(model, adding(), text, n_strengths=3, both_signs=False).calibration
    assert found is not None
    assert float(found.strengths.min()) == 0.0
    with pytest.raises(RecordError, match="was not measured in that direction"):
        found.strength_for(-0.1)


def test_a_steering_that_saturates_ends_where_more_brings_no_more(model, text):
    """A vector that swamps the stream: after the last norm, only its direction counts."""
    steering = adding("resid_post[1]")
    found = calibrate_dose(model, steering, text, max_dose=1e3, n_strengths=4).calibration
    assert found is not None
    assert float(found.strengths.max()) < 2**14
    swamped = float(measure_kl(model, steering, [2.0**13], text).mean)
    assert found.doses[1] == pytest.approx(swamped, rel=0.1)
    with pytest.raises(UnreachedDoseError, match=r"no strength up to .* reaches 1000 nats"):
        find_strength(model, steering, 1e3, text)


def test_an_operation_with_an_end_is_measured_no_further(model, text):
    weak = Steering((Step(parse_site("resid_post[0]"), ProjectOut.span(vector()), 0.5),))
    found = calibrate_dose(model, weak, text, max_dose=1e3, n_strengths=2).calibration
    assert found is not None
    assert found.strengths.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    with pytest.raises(SteeringError, match="no strength up to 2 reaches 1000 nats"):
        find_strength(model, weak, 1e3, text)
    # and not as far where the dose is reached before
    strong = steer_with({"resid_post[0]": Clamp(vector(), 300.0)})
    found = calibrate_dose(model, strong, text, max_dose=0.2, n_strengths=2).calibration
    assert found is not None
    assert float(found.strengths.max()) < 0.5
    assert 0.2 < float(found.kl[-1]) < 0.4


def test_a_strength_that_cannot_be_found(model, text, monkeypatch):
    """A KL that jumps past the dose says so."""
    import interp.steering.dose as dose

    monkeypatch.setattr(dose, "_root_of_kl", lambda meter, sign: lambda s: 0.1 if s < 0.3 else 2.0)
    with pytest.raises(UnreachedDoseError, match=r"jumps past 1 nats at strength 0\.3"):
        find_strength(model, adding(), 1.0, text)
    monkeypatch.setattr(dose, "_root_of_kl", lambda meter, sign: lambda s: math.inf if s > 0.5 else s)
    assert find_strength(model, adding(), 0.16, text) == pytest.approx(0.4, rel=0.01)


def test_no_dose_is_no_strength(model, text):
    assert find_strength(model, adding(), 0.0, text) == 0.0


def test_what_the_calibration_says_of_itself(model, text):
    steering = adding()
    made = steering.calibrate(model, text, n_strengths=2, seed=7)
    found = made.calibration
    assert found is not None
    assert found.text == text.describe()
    assert found.n_tokens == 40
    assert (found.provenance.seed, found.provenance.n_prompts) == (7, 5)
    assert made.steps is steering.steps
    again = steering.calibrate(model, text, n_strengths=2, seed=7).calibration
    assert again is not None
    assert torch.equal(again.low, found.low)
    assert "doses" in repr(made)


def test_intervals_are_those_of_rows_drawn_anew(model, text):
    found = measure_kl(model, adding(), [0.5], text)
    low, high = found.intervals(0.8, 0)
    draw = np.random.default_rng(5)
    total, count = found.total[0].numpy(), found.count.numpy()
    means = []
    for _ in range(4000):
        rows = draw.integers(0, 5, 5)
        means.append(total[rows].sum() / count[rows].sum())
    assert [float(low[0]), float(high[0])] == pytest.approx(np.percentile(means, [10, 90]), rel=0.05)


def test_changed_steerings_lose_their_dose(model, text):
    made = adding().calibrate(model, text, n_strengths=1)
    changed = [made.at("gen"), made.weighted([2.0]), made.using("rotate"), made + made]
    changed.append(made.narrowed(TextPattern("w2")))
    for one in changed:
        with pytest.raises(SteeringError, match="has no dose: it was changed"):
            one.strength_for(0.1)


def test_overflow_is_no_dose(model, text):
    """Infinite logits are searched around; a model that is broken at once says so."""
    broken = steer_with({"resid_post[0]": AffineMap(torch.full((D,), 1e30), torch.zeros(D))})
    found = calibrate_dose(model, broken, text, max_dose=0.1, n_strengths=2).calibration
    assert found is not None
    assert bool(torch.isfinite(found.kl).all())


BAD = [
    ({"max_dose": 0.0}, "max_dose must be above 0"),
    ({"n_strengths": 0}, "n_strengths at least 1"),
    ({"confidence": 1.0}, r"confidence in \(0, 1\)"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=range(len(BAD)))
def test_bad_numbers(model, text, options, message: str):
    with pytest.raises(SteeringError, match=message):
        calibrate_dose(model, adding(), text, **options)


@pytest.mark.parametrize("dose, tolerance", [(math.nan, 0.01), (math.inf, 0.01), (0.1, 0.0), (0.1, math.nan)])
def test_doses_and_tolerances_are_numbers(model, text, dose, tolerance):
    with pytest.raises(SteeringError, match="finite number of nats"):
        find_strength(model, adding(), dose, text, tolerance=tolerance)


@pytest.mark.parametrize("size", [0, -1])
def test_batches_have_a_row(model, text, size):
    with pytest.raises(SteeringError, match="batch_size is at least 1"):
        measure_kl(model, adding(), [1.0], text, batch_size=size)


def test_places_that_neutral_text_does_not_have(model, text):
    for site, message in (
        ("resid_post[0]@S2", "labels of a task \\(S2\\)"),
        ("resid_post[0]#0", "rows of a batch"),
    ):
        with pytest.raises(SteeringError, match=message):
            calibrate_dose(model, adding(site), text)
    with pytest.raises(SteeringError, match="acts on no token"):
        calibrate_dose(model, adding("resid_post[0]@40"), text)
    with pytest.raises(SteeringError, match="no strength up to 16384 changes the model's output"):
        calibrate_dose(model, Steering((Step(parse_site("resid_post[0]"), Add(vector()), 0.0),)), text)
    with pytest.raises(SteeringError, match="does not read the generated world's words"):
        calibrate_dose(model, adding())
