"""Applying: one steering in every operation, family, site and position, run every way, against the naive model."""

from __future__ import annotations

import gc
import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import Specimen, specimen
from naive_interventions import random_prompts, spots_of, width
from naive_steering import OPERATIONS, NaiveStep, Twin, make_operation_twin, naive_steps
from steering_runs import N_NEW, SPECIMENS, check_every_way, left_as_found
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import InterventionError, SteeringError
from interp.models.positions import Prompt
from interp.steering.apply import apply_rows
from interp.steering.operations import Add, Clamp, ProjectOut
from interp.steering.places import InstructionEnd, TextPattern
from interp.steering.steering import Steering, Step, steer_with
from interp.types import HEAD_COMPONENTS, Site, Span, parse_site

SITES = ("embed", "resid_pre[1]", "resid_mid[0]", "resid_post[0]", "attn_out[0]", "mlp_out[1]", "mlp_post[0]")
SITES += ("z[0]", "z[1.2]", "q[1]", "v[0.1]", "mlp_pre[1]", "resid_post[1]")
LABELS = {"S": torch.tensor([1, 4, 2])}
D = 36
EACH_MODEL = pytest.mark.parametrize("name", SPECIMENS)


def twin_at(site: Site, name: str, on: Specimen, seed: int) -> Twin:
    d = width(site, on, random_prompts(0, 1, 4, "none"))
    if site.component in HEAD_COMPONENTS and site.head is None:
        traits = on.model.traits
        d *= traits.n_kv_heads if site.component in ("k", "v") else traits.n_heads
    return make_operation_twin(name, d, seed)


def vector(seed: int = 0, d: int = D) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def add_at(site: str, seed: int = 0, **options: Any) -> Steering:
    return Steering((Step(parse_site(site), Add(vector(seed)), **options),))


@dataclass(frozen=True)
class Row:
    """One row of a batch: its steering and the same written out."""

    steering: Steering
    twins: tuple[Twin, ...]

    def steps(self, row: int, strength: float = 1.0) -> list[NaiveStep]:
        found = naive_steps(self.steering, self.twins, lambda _: strength)
        return [replace(one, step=replace(one.step, site=one.step.site.for_rows(row))) for one in found]


@EACH_MODEL
def test_each_operation_at_each_site_a_row_each(name: str):
    """Every operation at every site of the model, all in one batch, padded: cached, uncached and forced."""
    with left_as_found(name) as on:
        sites = [site for site in map(parse_site, SITES) if site.component in on.model.components]
        rows = []
        for seed, (site, one) in enumerate(itertools.product(sites, OPERATIONS)):
            twin = twin_at(site, one, on, seed)
            rows.append(Row(Steering((Step(site, twin.operation),)), (twin,)))
        steps = [step for number, row in enumerate(rows) for step in row.steps(number, 0.6)]

        def block(chosen):
            return apply_rows(on.model, [rows[number].steering for number in chosen], strength=0.6)

        check_every_way(on, block, steps, random_prompts(7, len(rows), 6, "left"), alone=False)


ONE_POSITION = st.one_of(
    st.integers(-3, 8),
    st.sampled_from(["S", "END", "gen", "all"]),
    st.builds(Span, st.integers(-3, 7) | st.none(), st.integers(-1, 9) | st.none()),
)


@st.composite
def random_sites(draw: st.DrawFn, on: Specimen) -> Site:
    site = parse_site(
        draw(st.sampled_from([s for s in SITES if parse_site(s).component in on.model.components]))
    )
    positions = draw(st.none() | st.lists(ONE_POSITION, min_size=1, max_size=2).map(tuple))
    return Site(site.component, site.layer, site.head, positions)


@EACH_MODEL
@settings(max_examples=4)
@given(data=st.data())
def test_any_steering_on_any_prompts(data: st.DataObject, name: str):
    """Several steps with weights, strengths by row, in order, at any positions, with and without padding."""
    on = specimen(name)
    padding = data.draw(st.sampled_from(["none", "left"]))
    prompts = random_prompts(data.draw(st.integers(0, 2)), 3, 6, padding)
    sites = data.draw(st.lists(random_sites(on), min_size=1, max_size=3))
    names = [data.draw(st.sampled_from(OPERATIONS)) for _ in sites]
    twins = [twin_at(site, one, on, seed) for seed, (site, one) in enumerate(zip(sites, names, strict=True))]
    weights = [data.draw(st.sampled_from([1.0, -0.5, 0.8])) for _ in sites]
    steering = Steering(
        tuple(Step(s, t.operation, weight=w) for s, t, w in zip(sites, twins, weights, strict=True))
    )
    strengths = data.draw(st.sampled_from([[0.5, 0.5, 0.5], [1.0, 0.0, -0.7]]))
    steps = naive_steps(steering, twins, lambda row: strengths[row])
    n_read = prompts.tokens.shape[1] + N_NEW - 1
    reached = [
        [bool(spots_of(site.for_rows(row), prompts, LABELS, n_read)) for row in range(3)] for site in sites
    ]

    def block(rows):
        labels = {"S": LABELS["S"][list(rows)]}
        return steering.apply(on.model, strength=[strengths[row] for row in rows], labels=labels)

    if all(all(by_row) for by_row in reached):
        check_every_way(on, block, steps, prompts, LABELS)
    elif not all(any(by_row) for by_row in reached):
        with pytest.raises(InterventionError, match="touched nothing"):
            check_every_way(on, block, steps, prompts, LABELS)


POSITIONS: list[tuple[str, Any]] = [
    ("", None), ("@-1", None), ("@END", None), ("@gen", None), ("@0", None), ("@2:5", None), ("@4:8", None),
    ("@-2:", None), ("@6:8", None), ("@7", None), ("@S", None), ("@S,gen", None), ("@all", None),
    ("", TextPattern("w(1|2)")), ("", TextPattern("w4", "after")), ("@gen", TextPattern("w[0-9]*[13579]")),
    ("", TextPattern("w[0-9]+w1[0-9]")), ("", InstructionEnd((7, 8))), ("@0:9", InstructionEnd((8,))),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*acted on no token")
@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "plain", pytest.param("hooked", marks=pytest.mark.hooked_transformer)]
)
def test_every_position_a_row_each(name: str, monkeypatch):
    on = specimen(name)
    monkeypatch.setattr(on.model, "tokenizer", make_tokenizer())
    prompts = random_prompts(5, len(POSITIONS), 8, "left")
    # the instruction ends before the last 7, 8 of a row, wherever that is
    prompts.tokens[:, -3:] = torch.tensor([4, 7, 8])
    prompts.tokens[::3, -5:-1] = torch.tensor([7, 8, 11, 1])
    prompts.tokens[::3, -1] = 12
    prompts.tokens[-3:, -4:] = torch.tensor([12, 7, 8, 5])
    labels = {"S": torch.tensor([(1, 4, 2)[row % 3] for row in range(len(POSITIONS))])}
    rows = []
    for at, where in POSITIONS:
        twins = (make_operation_twin("add", D, 1), make_operation_twin("rotate", D, 2))
        sites = (parse_site(f"resid_post[0]{at}"), parse_site(f"attn_out[1]{at}"))
        steps = (
            Step(sites[0], twins[0].operation, 1.5, where),
            Step(sites[1], twins[1].operation, 1.0, where),
        )
        rows.append(Row(Steering(steps), twins))
    steps_of_all = [step for number, row in enumerate(rows) for step in row.steps(number)]

    def block(chosen):
        here = {"S": labels["S"][list(chosen)]}
        return apply_rows(on.model, [rows[number].steering for number in chosen], strength=1.0, labels=here)

    tokens = check_every_way(on, block, steps_of_all, prompts, labels)[:, :-1]
    mask = torch.cat([prompts.real, torch.ones(len(tokens), N_NEW - 1).bool()], 1)
    with torch.no_grad(), on.model.continuing(Prompt.from_mask(len(tokens), 8, prompts.mask)):
        free = on.model(tokens, mask)
        with block(range(len(rows))) as applied:
            steered = on.model(tokens, mask)
    changed = (steered - free).abs().amax(-1) > 1e-3
    # a token is changed from the first one on that is steered, and none before
    first = applied.touched.long().cumsum(1) > 0
    assert torch.equal(changed & mask, first & mask)


def test_the_last_token_is_not_every_decode_step(monkeypatch):
    """What public libraries get wrong: -1 under a cache is the newest token, and a span never leaves the prompt."""
    on = specimen("gpt2")
    tokens = torch.arange(12).reshape(2, 6)
    for at, expected in (
        ("@-1", [0, 0, 0, 0, 0, 1, 0, 0]),
        ("@gen", [0] * 6 + [1, 1]),
        ("@4:8", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("@7:", [0] * 7 + [1]),
        ("@3:7", [0, 0, 0, 1, 1, 1, 1, 0]),
    ):
        for use_cache in (True, False):
            with add_at(f"resid_post[0]{at}").apply(on.model, strength=2.0) as applied:
                on.model.generate(tokens, N_NEW, use_cache=use_cache, eos_token_id=None)
            assert applied.acted.tolist() == [[2.0 * x for x in expected]] * 2
            assert applied.touched.long().tolist() == [expected] * 2


def test_strength_zero_is_the_model_to_the_bit(tokens):
    on = specimen("llama")
    bare = on.model(tokens)
    for name in OPERATIONS:
        twin = make_operation_twin(name, D)
        with steer_with({"resid_post[0]": twin.operation}).apply(on.model, strength=0.0):
            assert torch.equal(on.model(tokens), bare), name
    with steer_with({"resid_post[0]": Add(vector())}).apply(on.model, strength=[0.0, 1.0, 0.0]):
        found = on.model(tokens)
    assert torch.equal(found[[0, 2]], bare[[0, 2]])
    assert not torch.equal(found[1], bare[1])


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(0))


def test_a_sum_is_one_then_the_other(tokens):
    on = specimen("gpt2")
    a = steer_with({"resid_post[0]": ProjectOut.span(vector(1))})
    b = steer_with({"resid_post[0]": Add(vector(2)), "mlp_out[1]": Clamp(vector(3), 2.0)})
    with (a + b).apply(on.model, strength=1.0):
        both = on.model(tokens)
    with a.apply(on.model, strength=1.0), b.apply(on.model, strength=1.0):
        nested = on.model(tokens)
    with (b + a).apply(on.model, strength=1.0):
        other = on.model(tokens)
    torch.testing.assert_close(both, nested)
    assert float((both - other).detach().abs().max()) > 1e-3


def test_blocks_nest_the_outer_first_and_know_their_own_marks(tokens):
    on = specimen("gpt2")
    project, add = steer_with({"resid_post[0]": ProjectOut.span(vector(1))}), add_at("resid_post[0]@2")
    with project.apply(on.model, strength=1.0) as outer, add.apply(on.model, strength=3.0) as inner:
        on.model(tokens)
        cache = interp.capture(on.model, tokens, "resid_post[0]")
    assert outer.acted.tolist() == [[1.0] * 9] * 3
    assert inner.acted.tolist() == [[0, 0, 3.0, 0, 0, 0, 0, 0, 0]] * 3
    coordinate = cache["resid_post[0]"] @ vector(1)
    assert float(coordinate[:, [0, 1, 3, 4, 5, 6, 7, 8]].detach().abs().max()) < 1e-4
    torch.testing.assert_close(
        coordinate[:, 2], torch.full((3,), float(3 * vector() @ vector(1))), atol=1e-3, rtol=0
    )


def test_an_intervention_and_a_steering_act_in_the_order_of_their_blocks(tokens):
    on = specimen("gpt2")
    with (
        interp.intervene(on.model, interp.zero("resid_post[0]")),
        add_at("resid_post[0]").apply(on.model, strength=1.0),
    ):
        found = interp.capture(on.model, tokens, "resid_post[0]")["resid_post[0]"]
    torch.testing.assert_close(found, vector().expand(3, 9, D))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_no_hook(error, tokens):
    with (
        left_as_found("gpt2") as on,
        pytest.raises(error),
        add_at("resid_post[0]").apply(on.model, strength=1.0),
    ):
        on.model(tokens)
        raise error("stop")


def test_an_error_in_a_gate_or_width_leaves_no_hook(tokens):
    with left_as_found("gpt2") as on:
        narrow = steer_with({"resid_post[0]": Add(vector(d=35))})
        with (
            pytest.raises(SteeringError, match="of 35 entries; the activation there has 36"),
            narrow.apply(on.model, strength=1.0),
        ):
            on.model(tokens)


def test_what_an_applied_holds_is_let_go(tokens):
    import weakref

    on = specimen("gpt2")
    with add_at("resid_post[0]").apply(on.model, strength=1.0) as applied:
        on.model(tokens)
    gone = weakref.ref(applied)
    del applied
    gc.collect()
    assert gone() is None


def test_half_precision_is_steered_in_single(make_hf_model, tokens):
    """Rounded once, not at every step of the arithmetic: what enters the next block is the rounded exact value."""
    model = interp.load_model(make_hf_model("llama", dtype=torch.bfloat16))
    for name in OPERATIONS:
        twin = make_operation_twin(name, D)
        site = parse_site("resid_post[0]")
        before = interp.capture(model, tokens, site)[site].detach()
        with steer_with({site: twin.operation}).apply(model, strength=0.7):
            after = interp.capture(model, tokens, site)[site].detach()
            assert model(tokens).dtype == torch.bfloat16
        exact = torch.stack([torch.stack([twin.naive(v.double(), 0.7) for v in row]) for row in before])
        assert after.dtype == torch.bfloat16
        # half a unit in the last place of bfloat16, and what single precision adds
        assert bool(((after.double() - exact).abs() <= 2.0**-8 * exact.abs() * 1.01 + 1e-5).all()), name


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_go_through_it(name: str, tokens):
    """To the operation's tensors and to the weights below, as through the model written out in float64."""
    on = specimen("gpt2")
    twin = make_operation_twin(name, D)
    parts = {k: v.clone() for k, v in twin.operation.tensors().items()}
    leaves = {k: v.requires_grad_() for k, v in parts.items() if v.is_floating_point()}
    operation = type(twin.operation)(**parts, **twin.operation.numbers())
    goal = torch.randn(53, generator=torch.Generator().manual_seed(1))

    def loss_at(shift: dict[str, Tensor], embed: Tensor | None = None) -> float:
        made = type(operation)(
            **{
                k: v.detach().double() + shift.get(k, 0) if v.is_floating_point() else v
                for k, v in parts.items()
            },
            **operation.numbers(),
        )

        def edit(value: Tensor) -> Tensor:
            return torch.stack([torch.stack([made.change(v, 0.7) for v in row]) for row in value])

        below = {("resid_pre", 0): lambda value: value if embed is None else value + embed}
        with torch.no_grad():
            return float(
                (on.naive(tokens, edits={("resid_post", 0): edit} | below)[:, -1] @ goal.double()).sum()
            )

    kept: list[Tensor] = []

    def keep(part: Tensor) -> Tensor:
        part.retain_grad()
        kept.append(part)
        return part

    with (
        interp.intervene(on.model, interp.apply("resid_pre[0]", keep)),
        steer_with({"resid_post[0]": operation}).apply(on.model, strength=0.7),
    ):
        (on.model(tokens)[:, -1] @ goal).sum().backward()
    for leaf_name, leaf in leaves.items():
        assert leaf.grad is not None
        if isinstance(operation, ProjectOut) or leaf_name == "rotation":
            continue  # nudged, it would not be orthonormal; test_operations looks at its gradient
        step = 1e-4 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(3))
        numeric = (loss_at({leaf_name: step}) - loss_at({leaf_name: -step})) / 2
        assert float((leaf.grad * step).sum()) == pytest.approx(numeric, rel=2e-3, abs=1e-7), leaf_name
    step = 1e-4 * torch.randn(D, generator=torch.Generator().manual_seed(4)).double()
    numeric = (loss_at({}, step) - loss_at({}, -step)) / 2
    assert kept[0].grad is not None
    assert float((kept[0].grad.sum((0, 1)).double() * step).sum()) == pytest.approx(numeric, rel=2e-3)
    on.model.module.zero_grad(set_to_none=True)


def test_another_model_is_refused_unless_asked_for(make_hf_model, tokens):
    from interp.models.digest import digest_weights

    here, there = (interp.load_model(make_hf_model("gpt2", seed)) for seed in (0, 1))
    steering = replace(add_at("resid_post[0]"), model_digest=digest_weights(here))
    with steering.apply(here, strength=1.0):
        here(tokens)
    with (
        pytest.raises(SteeringError, match=r"made for weights .* give any_model=True"),
        steering.apply(there, strength=1.0),
    ):
        pass
    with steering.apply(there, strength=1.0, any_model=True):
        there(tokens)
    with pytest.raises(SteeringError, match="made for different models"):
        steering + replace(steering, model_digest="other")
    assert (steering + add_at("resid_post[1]")).model_digest == steering.model_digest


BAD_CALLS = [
    ({}, "one of both; got dose=None, strength=None"),
    ({"dose": 1.0, "strength": 1.0}, "one of both"),
    ({"strength": float("nan")}, r"finite; got \[nan\]"),
    ({"strength": [1.0, float("inf")]}, "finite"),
    ({"dose": 0.5}, "has no dose"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_calls_that_cannot_be(options: dict[str, Any], message: str):
    with (
        left_as_found("gpt2") as on,
        pytest.raises(SteeringError, match=message),
        add_at("resid_post[0]").apply(on.model, **options),
    ):
        pass


def test_strengths_for_other_numbers_of_rows(tokens):
    on = specimen("gpt2")
    with (
        pytest.raises(SteeringError, match="for 2 rows, but the batch has 3"),
        add_at("resid_post[0]").apply(on.model, strength=[1.0, 2.0]),
    ):
        on.model(tokens)


def test_a_steering_that_touched_nothing_is_an_error(tokens):
    on = specimen("gpt2")
    for at in ("@gen", "@20"):
        with (
            pytest.raises(InterventionError, match="touched nothing"),
            add_at(f"resid_post[0]{at}").apply(on.model, strength=1.0),
        ):
            on.model(tokens)
    with (
        pytest.raises(InterventionError, match="no forward pass"),
        add_at("resid_post[0]").apply(on.model, strength=1.0),
    ):
        pass


def test_nothing_is_known_before_a_forward(tokens):
    on = specimen("gpt2")
    with add_at("resid_post[0]").apply(on.model, strength=1.0) as applied:
        for name in ("acted", "touched", "tokens"):
            with pytest.raises(SteeringError, match="no forward of the model has run"):
                getattr(applied, name)
        on.model(tokens)


def test_a_cache_from_outside_the_block_is_refused(tokens):
    on = specimen("gpt2")
    seen = on.model.module(tokens, use_cache=True).past_key_values
    with (
        left_as_found("gpt2"),
        pytest.raises(SteeringError, match="continues a KV cache from outside"),
        add_at("resid_post[0]").apply(on.model, strength=1.0),
    ):
        on.model.module(tokens[:, :1], past_key_values=seen)
