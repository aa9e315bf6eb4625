"""Rows of one batch steered each in its own way, doses by row, gates, several continuations, and beams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from mean_gate import MeanGate
from model_zoo import Specimen, specimen
from naive_interventions import random_prompts
from naive_steering import NaiveStep, make_operation_twin, naive_steps
from steering_runs import check_every_way, left_as_found, step_logits
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.apply import apply_rows
from interp.steering.operations import Add
from interp.steering.places import TextPattern
from interp.steering.steering import Steering, Step
from interp.types import parse_site

D = 36
KINDS = ["gpt2", "gemma2", "plain", pytest.param("hooked", marks=pytest.mark.hooked_transformer)]
EACH_MODEL = pytest.mark.parametrize("name", KINDS)


def vector(seed: int = 0) -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def add_at(*sites: str, seed: int = 0, **options: Any) -> Steering:
    return Steering(tuple(Step(parse_site(s), Add(vector(seed + i)), **options) for i, s in enumerate(sites)))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(0))


def gate_of_naive(on: Specimen, gate: MeanGate, prompts: Any, chosen: Mapping[str, slice]) -> Tensor:
    """What it should decide, from the unsteered model written out; the sites lie below every step."""
    record: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad():
        on.naive(prompts.tokens, prompts.real, record=record)
    rows = []
    for row in range(len(prompts.tokens)):
        means = []
        for site in gate.sites:
            value = record[site.component, site.layer or 0][row][prompts.real[row]]
            means.append(value.flatten(1)[chosen[str(site)]].mean(0))
        rows.append(gate.factors(means))
    return torch.stack(rows)


@EACH_MODEL
def test_a_gate_decides_once_a_prompt_from_the_prompt_alone(name: str):
    """Two gates, one with a channel a step, under padding: cached, uncached, forced and alone."""
    on, prompts = specimen(name), random_prompts(4, 3, 7, "left")
    wide = MeanGate("resid_pre[0]", "attn_out[0]@-1", channels=2)
    single = MeanGate("mlp_out[0]@1:3")
    chosen = {
        "resid_pre[0]": slice(None), "attn_out[0]@-1": slice(-1, None), "mlp_out[0]@1:3": slice(1, 3),
    }  # fmt: skip
    twins = [make_operation_twin(kind, D, seed) for seed, kind in enumerate(("add", "clamp", "rotate"))]
    first = Steering(
        tuple(
            Step(parse_site(s), t.operation, 1.5)
            for s, t in zip(("mlp_out[0]", "resid_post[0]@gen"), twins, strict=False)
        )
    ).gated(wide)
    second = Steering((Step(parse_site("resid_post[1]"), twins[2].operation),)).gated(single)
    assert [step.channel for step in first.steps] == [0, 1]
    steering = first + second
    factors = torch.cat(
        [gate_of_naive(on, gate, prompts, chosen) for gate in (wide, single)], dim=1
    )  # fmt: skip
    assert float(factors.abs().min()) > 1e-3
    steps = [
        NaiveStep(step, twin.naive, lambda row, c=c, w=step.weight: 0.8 * w * float(factors[row, c]))
        for c, (step, twin) in enumerate(zip(steering.steps, twins, strict=True))
    ]
    check_every_way(on, lambda rows: steering.apply(on.model, strength=0.8), steps, prompts)
    with steering.apply(on.model, strength=0.8) as applied:
        on.model.generate(prompts.tokens, 2, attention_mask=prompts.mask, eos_token_id=None)
    torch.testing.assert_close(applied.gate_of(wide).double(), factors[:, :2], atol=1e-4, rtol=1e-3)
    inside = applied.acted[:, :7][prompts.real].abs()
    expected = torch.maximum(1.2 * factors[:, 0].abs(), 0.8 * factors[:, 2].abs()).float()
    torch.testing.assert_close(inside, expected.repeat_interleave(prompts.real.sum(1)), atol=1e-4, rtol=1e-3)


def test_a_gate_is_asked_once_under_a_cache(tokens):
    on, gate = specimen("gpt2"), MeanGate("resid_pre[0]")
    for use_cache, n in ((True, 1), (False, 4)):
        gate.seen.clear()
        with add_at("resid_post[0]").gated(gate).apply(on.model, strength=1.0):
            on.model.generate(tokens, 4, use_cache=use_cache, eos_token_id=None)
        assert len(gate.seen) == n
        # tokens that were generated are never among those that count
        assert all(one["resid_pre[0]"].sum(1).tolist() == [9, 9, 9] for one in gate.seen)


def test_a_gate_of_some_rows_reads_every_row(tokens):
    on, gate = specimen("gpt2"), MeanGate("resid_pre[0]")
    steering = add_at("resid_post[0]").gated(gate)
    with apply_rows(on.model, [None, steering, steering], strength=1.0) as applied, torch.no_grad():
        found = on.model(tokens)
    with steering.apply(on.model, strength=1.0) as whole, torch.no_grad():
        expected = on.model(tokens)
        torch.testing.assert_close(applied.gate_of(gate), whole.gate_of(gate))
    torch.testing.assert_close(found[1:], expected[1:])
    assert torch.equal(found[0], on.model(tokens)[0].detach())


def test_a_gate_must_read_what_comes_before(tokens):
    with left_as_found("gpt2") as on:
        steering = add_at("resid_post[0]").gated(MeanGate("resid_post[1]"))
        with (
            pytest.raises(
                SteeringError,
                match=r"reads resid_post\[1\], which comes later .* than resid_post\[0\]",
            ),
            steering.apply(on.model, strength=1.0),
        ):
            on.model(tokens)
    with add_at("resid_post[0]").apply(specimen("gpt2").model, strength=1.0) as applied:
        specimen("gpt2").model(tokens)
    with pytest.raises(SteeringError, match="has decided nothing"):
        applied.gate_of(MeanGate("resid_pre[0]"))


def test_channels_that_are_not_there():
    with pytest.raises(SteeringError, match="has 1 channels; a step asks for number 1"):
        Step(parse_site("resid_post[0]"), Add(vector()), gate=MeanGate("resid_pre[0]"), channel=1)


@EACH_MODEL
def test_rows_with_steerings_of_their_own_and_none(name: str):
    """The same object in two rows acts on both; a row with ``None`` is the model's own to the bit."""
    on, prompts = specimen(name), random_prompts(2, 4, 6, "left")
    twins = [make_operation_twin(kind, D, seed) for seed, kind in enumerate(("add", "project", "clamp"))]
    one = Steering((Step(parse_site("resid_post[0]@-1"), twins[0].operation),))
    two = Steering(
        (
            Step(parse_site("attn_out[1]"), twins[1].operation),
            Step(parse_site("resid_pre[1]@gen"), twins[2].operation),
        )
    )
    listed, strengths = [one, None, two, one], [1.0, 9.0, 0.5, -2.0]
    steps = []
    for row, steering in enumerate(listed):
        if steering is not None:
            own = twins[:1] if steering is one else twins[1:]
            made = naive_steps(steering, own, lambda _, row=row: strengths[row])
            steps += [replace(s, step=replace(s.step, site=s.step.site.for_rows(row))) for s in made]

    def block(rows):
        if [listed[row] for row in rows] == [None]:
            # a batch without a steering is refused, so the row is run beside another; strength 0 does as well
            return one.apply(on.model, strength=0.0)
        return apply_rows(on.model, [listed[row] for row in rows], strength=[strengths[row] for row in rows])

    check_every_way(on, block, steps, prompts)
    with block(range(4)) as applied, on.model.continuing(_prompt(prompts)), torch.no_grad():
        found = on.model(torch.cat([prompts.tokens, prompts.tokens[:, :1]], 1), _grown(prompts.real))
    assert not bool(applied.touched[1].any())
    with on.model.continuing(_prompt(prompts)), torch.no_grad():
        free = on.model(torch.cat([prompts.tokens, prompts.tokens[:, :1]], 1), _grown(prompts.real))
    assert torch.equal(found[1], free[1])


def _prompt(prompts: Any) -> Any:
    from interp.models.positions import Prompt

    return Prompt.from_mask(len(prompts.tokens), prompts.tokens.shape[1], prompts.mask)


def _grown(real: Tensor) -> Tensor:
    return torch.cat([real, torch.ones(len(real), 1).bool()], 1)


def calibrated(steering: Steering, slope: float) -> Steering:
    """With a made-up calibration: strength s has ``(slope * s) ** 2`` nats."""
    strengths = torch.linspace(-4, 4, 9, dtype=torch.float64)
    kl = (slope * strengths) ** 2
    made = DoseCalibration(strengths, kl, kl, kl, 0.95, "text", 10, Provenance("m"))
    return replace(steering, calibration=made)


def test_doses_by_row_are_looked_up_in_each_row_s_own_calibration(tokens):
    on = specimen("gpt2")
    a, b = calibrated(add_at("resid_post[0]"), 0.5), calibrated(add_at("resid_post[0]", seed=1), 2.0)
    with apply_rows(on.model, [a, b, None], dose=[0.25, -4.0, 1.0]) as applied, torch.no_grad():
        on.model(tokens)
    assert applied.acted[:, 0].tolist() == pytest.approx([1.0, -1.0, 0.0])
    with a.apply(on.model, dose=[0.0, 0.25, 1.0]) as applied, torch.no_grad():
        on.model(tokens)
    assert applied.acted[:, 0].tolist() == pytest.approx([0.0, 1.0, 2.0])
    with a.apply(on.model, dose=torch.tensor([0.25])) as applied, torch.no_grad():
        on.model(tokens)
    assert applied.acted[:, 0].tolist() == pytest.approx([1.0] * 3)


BAD = [
    ([None, None, None], {"strength": 1.0}, "no row has a steering"),
    ([], {"strength": 1.0}, "no row has a steering"),
    ([add_at("resid_post[0]")] * 3, {"strength": [1.0, 2.0]}, "got 2 doses for 3 rows"),
    ([add_at("resid_post[0]")] * 3, {"dose": 0.1}, "has no dose"),
    ([add_at("resid_post[0]#1"), None, None], {"strength": 1.0}, "must not name rows itself"),
    ([add_at("resid_post[0]")] * 2, {"strength": 1.0}, "for 2 rows, but the batch has 3"),
]


@pytest.mark.parametrize(("listed", "options", "message"), BAD, ids=range(len(BAD)))
def test_rows_that_cannot_be(listed, options: dict[str, Any], message: str, tokens):
    with (
        left_as_found("gpt2") as on,
        pytest.raises(SteeringError, match=message),
        apply_rows(on.model, listed, **options),
    ):
        on.model(tokens)


@pytest.mark.parametrize("options", [{"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3}])
def test_several_continuations_and_beams_are_of_their_prompt(options: dict[str, Any], tokens):
    """Steerings, doses, gates and labels mean prompts; what a prompt gets does not depend on the others."""
    on = specimen("llama")
    gate = MeanGate("resid_pre[0]@S")
    listed = [add_at("resid_post[0]", "attn_out[1]@gen"), None, add_at("mlp_out[0]@S", seed=5).gated(gate)]
    labels = torch.tensor([1, 4, 2])

    def run(rows: list[int], use_cache: bool = True) -> Tensor:
        chosen, strengths = [listed[row] for row in rows], [(2.0, 9.0, -1.5)[row] for row in rows]
        if chosen == [None]:
            return on.model.generate(tokens[rows], 4, use_cache=use_cache, eos_token_id=None, **options)
        with (
            apply_rows(on.model, chosen, strength=strengths, labels={"S": labels[rows]}) as applied,
            step_logits(on.model) as steps,
        ):
            found = on.model.generate(tokens[rows], 4, use_cache=use_cache, eos_token_id=None, **options)
        assert len(applied.touched) == 3 * len(rows)
        return found if "num_beams" in options else steps[0]

    if "num_beams" in options:
        for use_cache in (True, False):
            alone = torch.cat([run([row], use_cache) for row in range(3)])
            assert torch.equal(run([0, 1, 2], use_cache), alone)
        return
    together = run([0, 1, 2])
    alone = torch.cat([run([0]), run([2])])
    torch.testing.assert_close(together[[0, 1, 2, 6, 7, 8]], alone, atol=1e-5, rtol=1e-5)


def test_beams_and_a_text_pattern_under_a_cache_are_an_error(tokens, monkeypatch):
    with left_as_found("llama") as on:
        monkeypatch.setattr(on.model, "tokenizer", make_tokenizer())
        steering = add_at("resid_post[0]").narrowed(TextPattern("w[0-9]"))
        options = {"num_beams": 2, "eos_token_id": None}
        with (
            pytest.raises(SteeringError, match="cannot follow beams under a KV cache"),
            steering.apply(on.model, strength=1.0),
        ):
            on.model.generate(tokens, 3, **options)
        with steering.apply(on.model, strength=1.0) as applied:
            on.model.generate(tokens, 3, use_cache=False, **options)
        assert bool(applied.touched[:, -1].all())
        # one beam has nothing to change places with
        with steering.apply(on.model, strength=1.0):
            on.model.generate(tokens, 3, num_beams=1, eos_token_id=None)


def test_a_step_of_the_gate_s_own_layer_may_come_after_it(tokens):
    """A gate at resid_pre and a step at the same layer's attn_out."""
    on, gate = specimen("gpt2"), MeanGate("resid_pre[1]")
    with add_at("attn_out[1]").gated(gate).apply(on.model, strength=1.0) as applied, torch.no_grad():
        on.model(tokens)
    mean = interp.capture(on.model, tokens, "resid_pre[1]")["resid_pre[1]"].mean(1)
    expected = torch.stack([gate.factors([row]) for row in mean])
    torch.testing.assert_close(applied.gate_of(gate), expected, atol=1e-5, rtol=1e-4)
