"""Generation with interventions: with a KV cache, without, padded, batched, sampled, in beams.

The reference is the naive transformer, run again on the whole sequence for every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import HOOKED, Specimen, specimen
from naive_interventions import Change, Prompts, edits_of, make_change, random_prompts, spots_of
from torch import Tensor

import interp
from interp.errors import InterventionError, ModelError
from interp.types import HEAD_COMPONENTS, Site, Span

N_NEW = 4
LABELS = {"S": torch.tensor([1, 4, 2])}
BOUND = 1e-4
BY_VALUE = ("zero", "number", "scale", "clamp")
KINDS = (
    *BY_VALUE,
    "replace_vector",
    "replace_tensor",
    "replace_cache",
    "mean",
    "mean_per_position",
    "resample",
    "add",
    "project",
    "keep",
    "apply",
)


@contextmanager
def step_logits(on: Specimen) -> Iterator[list[Tensor]]:
    """Logits of the last column at every step, as the model gave them."""
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output.logits)[:, -1].detach())

    handle = on.model.module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def run(
    on: Specimen, changes: Sequence[Change], prompts: Prompts, labels: dict[str, Tensor], **options: Any
) -> tuple[Tensor, list[Tensor]]:
    options = {"max_new_tokens": N_NEW, "eos_token_id": None, **options}
    with step_logits(on) as steps:
        if not changes:
            return on.model.generate(prompts.tokens, attention_mask=prompts.mask, **options), steps
        with interp.intervene(on.model, [change.intervention for change in changes], labels=labels):
            return on.model.generate(prompts.tokens, attention_mask=prompts.mask, **options), steps


def check(
    on: Specimen, changes: Sequence[Change], prompts: Prompts, labels: dict[str, Tensor] = LABELS
) -> Tensor:
    """Tokens and logits of every step equal the naive ones, cached and uncached."""
    tokens, real = prompts.tokens, prompts.real
    expected: list[Tensor] = []
    for _ in range(N_NEW):
        edits = edits_of(changes, prompts, on.model.traits.n_layers, labels, tokens.shape[1])
        expected.append(on.naive(tokens, real, edits=edits)[:, -1])
        tokens = torch.cat([tokens, expected[-1].argmax(-1)[:, None]], dim=1)
        real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
    for use_cache in (True, False):
        found, steps = run(on, changes, prompts, labels, use_cache=use_cache)
        what = [str(change.intervention) for change in changes]
        assert torch.equal(found, tokens), (use_cache, what)
        assert len(steps) == N_NEW
        size = max(1.0, float(expected[0].max() - expected[0].min()))
        error = max(float((a - b).abs().max()) for a, b in zip(steps, expected, strict=True))
        assert error / size < BOUND, (use_cache, what, error)
    return tokens


def kinds_at(site: Site, padding: str) -> tuple[str, ...]:
    if site.component == "attn_scores":
        return BY_VALUE[:1] if padding == "none" else ()
    if site.component == "pattern":
        return ("zero", "scale", "clamp", "replace_cache")
    return tuple(kind for kind in KINDS if kind != "resample" or padding == "none")


def test_each_intervention_at_every_component(kind: Specimen):
    """A row for every kind: cached, uncached and recomputed from nothing agree, token and logit."""
    prompts = random_prompts(7, len(KINDS), 6, "none")
    for component in kind.model.components:
        head = 1 if component in HEAD_COMPONENTS else None
        site = Site(component, None if component == "embed" else 1, head)
        if component == "attn_scores":
            # zeros at masked scores look ahead, which a cache cannot
            continue
        changes = [
            make_change(what, site.for_rows(row), kind, prompts, "none", seed=row)
            for row, what in enumerate(KINDS)
            if what in kinds_at(site, "none")
        ]
        check(kind, changes, prompts, labels={})


@st.composite
def sites(draw: st.DrawFn, on: Specimen) -> Site:
    component = draw(st.sampled_from([c for c in on.model.components if c != "attn_scores"]))
    layer = None if component == "embed" else draw(st.sampled_from([None, 0, 1]))
    head = draw(st.none() | st.integers(0, 1)) if component in HEAD_COMPONENTS else None
    one = st.one_of(
        st.integers(-3, 8),
        st.sampled_from(["S", "END", "gen", "all"]),
        st.builds(Span, st.integers(-3, 7) | st.none(), st.integers(-1, 9) | st.none()),
    )
    positions = draw(st.none() | st.lists(one, min_size=1, max_size=2).map(tuple))
    rows = draw(st.none() | st.sets(st.integers(0, 2), min_size=1, max_size=2).map(sorted).map(tuple))
    return Site(component, layer, head, positions, rows=rows)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_interventions_on_any_prompts(data: st.DataObject, kind: Specimen):
    padding = data.draw(st.sampled_from(["none", "left"]))
    prompts = random_prompts(data.draw(st.integers(0, 2)), 3, 6, padding)
    changes = []
    for _ in range(data.draw(st.integers(1, 3))):
        site = data.draw(sites(kind))
        what = data.draw(st.sampled_from(kinds_at(site, padding)))
        changes.append(make_change(what, site, kind, prompts, padding, data.draw(st.integers(0, 9))))
    # the last new token is never read, so nothing can be done to it
    n_read = prompts.tokens.shape[1] + N_NEW - 1
    reached = [
        any(change.reaches(spot) for spot in spots_of(change.site, prompts, LABELS, n_read))
        for change in changes
    ]
    if all(reached):
        check(kind, changes, prompts)
    else:
        with pytest.raises(InterventionError, match="touched nothing"):
            check(kind, changes, prompts)


def test_alone_padded_and_batched_are_the_same(kind: Specimen):
    """A prompt's continuation does not depend on what stands beside it or before it."""
    prompts = random_prompts(3, 3, 8, "left")
    vector = torch.randn(36, generator=torch.Generator().manual_seed(1))
    interventions = [interp.add("resid_post[0]@gen", vector), interp.scale("attn_out[1]@-1", -1.0)]
    with interp.intervene(kind.model, interventions):
        batched = kind.model.generate(prompts.tokens, 5, attention_mask=prompts.mask, eos_token_id=None)
        for row in range(3):
            alone = prompts.tokens[row][prompts.real[row]][None]
            for use_cache in (True, False):
                found = kind.model.generate(alone, 5, use_cache=use_cache, eos_token_id=None)
                assert torch.equal(found[0, -5:], batched[row, -5:]), row


def test_without_interventions_it_is_the_bare_model_s(kind: Specimen, tokens: Tensor):
    if kind.name in HOOKED:
        expected = tokens
        for _ in range(6):
            expected = torch.cat([expected, kind.bare(expected)[:, -1].argmax(-1)[:, None]], dim=1)
    else:
        mask = torch.ones_like(tokens)
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        expected = kind.bare.generate(tokens, attention_mask=mask, **settings)
    for use_cache in (True, False):
        found = kind.model.generate(tokens, 6, use_cache=use_cache, eos_token_id=None)
        assert torch.equal(found, expected)


def test_past_a_sliding_window():
    """Gemma 2's window is 4 here: prompt and continuation are far longer."""
    kind = specimen("gemma2")
    prompts = random_prompts(2, 3, 9, "left")
    change = make_change("scale", Site("z", None, 1, ("gen", 2)), kind, prompts, "left", 0)
    check(kind, [change], prompts)


def test_generated_positions_count_on_from_each_prompt(gpt2: Specimen):
    """@7 is the 8th token of every row, be it prompt or not; -1 is never a generated one."""
    prompts = random_prompts(3, 3, 8, "left")
    seen: list[Tensor] = []

    def look(part: Tensor) -> Tensor:
        seen.append(part.detach().clone())
        return part

    with interp.intervene(gpt2.model, [interp.apply("resid_pre[0]", look), interp.zero("resid_post[1]@-1")]):
        gpt2.model.generate(prompts.tokens, N_NEW, attention_mask=prompts.mask, eos_token_id=None)
    assert [part.shape[1] for part in seen] == [8, 1, 1, 1]
    beyond = interp.intervene(gpt2.model, interp.zero("resid_pre[0]@11"))
    with pytest.raises(InterventionError, match="touched nothing"), beyond:
        gpt2.model.generate(prompts.tokens, N_NEW, attention_mask=prompts.mask, eos_token_id=None)


def test_sampling_follows_the_interventions_and_the_seed(kind: Specimen, tokens: Tensor):
    """A token made certain is sampled every time; the same seed gives the same tokens."""
    settings: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 20, "eos_token_id": None}
    torch.manual_seed(0)
    first = kind.model.generate(tokens, 5, **settings)
    torch.manual_seed(0)
    assert torch.equal(first, kind.model.generate(tokens, 5, use_cache=False, **settings))
    torch.manual_seed(1)
    assert not torch.equal(first, kind.model.generate(tokens, 5, **settings))
    direction = kind.model.weights.W_U[:, 17].detach()
    with interp.intervene(kind.model, interp.add("resid_post[1]", direction, 1e4)):
        found = kind.model.generate(tokens, 5, **settings)
    assert len(found[:, -5:].unique()) == 1


def test_a_row_that_has_ended_is_padded(kind: Specimen, tokens: Tensor):
    free = kind.model.generate(tokens, 6, eos_token_id=None)
    stop = int(free[0, 10])
    found = kind.model.generate(tokens, 6, eos_token_id=stop, pad_token_id=51)
    for row in range(3):
        new = free[row, 9:].tolist()
        n = new.index(stop) + 1 if stop in new else len(new)
        expected = new[:n] + [51] * (found.shape[1] - 9 - n)
        assert found[row, 9:].tolist() == expected[: found.shape[1] - 9]
    assert found.shape[1] == 9 + max(
        (free[row, 9:].tolist().index(stop) + 1 if stop in free[row, 9:] else 6) for row in range(3)
    )


@pytest.mark.parametrize("options", [{"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3}])
def test_rows_and_labels_mean_prompts_also_in_beams(tokens: Tensor, options: dict[str, Any]):
    """Every beam of a prompt gets what is said of its row, label and source."""
    on = specimen("llama")
    vectors = torch.randn(3, 9, 36, generator=torch.Generator().manual_seed(3))

    def found_for(rows: list[int]) -> Tensor:
        source = interp.capture(on.model, tokens.flip(0)[rows], "resid_pre[1]")
        interventions = [
            interp.zero("attn_out[0]@S"),
            interp.replace("resid_pre[1]@2", source),
            interp.replace("z[1.0]@3", vectors[rows][..., :10]),
            interp.add("resid_post[0]", vectors[rows], 0.3),
        ]
        if 1 in rows:
            interventions.append(interp.scale(f"mlp_out[0]#{rows.index(1)}", -1.0))
        with interp.intervene(on.model, interventions, labels={"S": LABELS["S"][rows]}):
            if "num_beams" in options:
                return on.model.generate(tokens[rows], 4, eos_token_id=None, **options)
            return _first_step(on, tokens[rows], options)

    alone = torch.cat([found_for([row]) for row in range(3)])
    torch.testing.assert_close(found_for([0, 1, 2]), alone, atol=1e-5, rtol=1e-5)


def _first_step(on: Specimen, tokens: Tensor, options: dict[str, Any]) -> Tensor:
    with step_logits(on) as steps:
        on.model.generate(tokens, 2, eos_token_id=None, **options)
    assert len(steps[0]) == 3 * len(tokens)
    return steps[0]


BAD_CALLS = [
    ({"max_new_tokens": 57}, "9 tokens and 57 new ones do not fit the model's context of 64"),
    ({"max_new_tokens": 0}, "max_new_tokens must lie in 1..56"),
    ({"attention_mask": torch.tensor([[1] * 8 + [0]] * 3)}, "padded on the left; a row ends in padding"),
    ({"attention_mask": torch.tensor([[1, 0] + [1] * 7] * 3)}, "padding between its tokens"),
    ({"attention_mask": torch.ones(3, 8)}, r"attention_mask has shape \(3, 8\), tokens \(3, 9\)"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_calls_that_cannot_be(kind: Specimen, tokens: Tensor, options: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        kind.model.generate(tokens, **options)
    assert kind.model.generating_from is None


def test_the_longest_generation_fits(kind: Specimen, tokens: Tensor):
    """The last new token is not read, so one more than the context can be written."""
    assert kind.model.generate(tokens[:1], 56, eos_token_id=None).shape == (1, 65)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_nothing(kind: Specimen, tokens: Tensor, error: type[BaseException]):
    calls = []

    def fail_later(part: Tensor) -> Tensor:
        calls.append(part.shape)
        if len(calls) == 3:
            raise error("stop")
        return part

    with pytest.raises(error), interp.intervene(kind.model, interp.apply("z[1]", fail_later)):
        kind.model.generate(tokens, 5, eos_token_id=None)
    assert kind.model.generating_from is None
    check(kind, [], Prompts(tokens[:, :6]))
