"""The block of rules: forwards stay what they are, the innermost rules hold, and nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from model_zoo import Specimen, make_bare, specimen
from naive_interventions import Prompts, random_prompts
from naive_relevance import EXACT, HELD, NaiveRelevance, Place, wide
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.models.cache import ActivationCache
from interp.models.model import Model
from interp.models.relevance import RULES
from interp.types import Site

SITES = ("embed", "attn_out[0]", "mlp_pre[0]", "q[1]", "pattern[1]", "resid_post[1]")


def metric(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, -1, :7].sum()


def sites_of(model: Model) -> list[str]:
    return [site for site in SITES if site.partition("[")[0] in model.components]


def gradients(model: Model, prompts: Prompts) -> list[Tensor]:
    """At a few sites, of whatever rules hold."""
    sites = sites_of(model)
    cache = interp.capture(model, prompts.tokens, sites, attention_mask=prompts.mask, gradients_of=metric)
    assert cache.grads is not None
    return [cache.grads[site] for site in sites]


def under(model: Model, prompts: Prompts, *rules: str) -> list[Tensor]:
    """Gradients inside nested blocks, the first outermost."""
    with ExitStack() as stack:
        for name in rules:
            stack.enter_context(interp.relevance_rules(model, name))
        return gradients(model, prompts)


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def traces(model: Model) -> dict[str, Any]:
    """All that a block could leave on a model and that can be compared."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = {id(part): part for part in (*model.module.modules(), *model.hook_points.values())}
    return {
        "hooks": [
            [id(hook) for hook in getattr(part, table).values()]
            for part in parts.values()
            for table in tables
        ],
        "attributes": [sorted(vars(part)) for part in parts.values()],
        "requires_grad": [
            (parameter.requires_grad, parameter.grad) for parameter in model.module.parameters()
        ],
        "training": [part.training for part in parts.values()],
        "edits": list(model.active_edits),
        "handles": sorted(model.edit_handles),
        "results": list(model.edited_results),
        "rules": list(model.rules_in_force),
    }


@pytest.mark.parametrize("rules", list(RULES))
def test_forwards_are_the_same_to_the_bit(kind: Specimen, rules: str):
    """Logits and every activation, with gradients on and with padding on either side."""
    model = kind.model
    for padding in ("left", "right"):
        # the last row has no padding
        prompts = random_prompts(3, 3, 9, padding)
        with torch.no_grad():
            bare = interp.capture(model, prompts.tokens, model.components, attention_mask=prompts.mask)
        with interp.relevance_rules(model, rules):
            inside = interp.capture(model, prompts.tokens, model.components, attention_mask=prompts.mask)
            with torch.no_grad():
                without_gradients = model(prompts.tokens, prompts.mask)
        assert inside.logits is not None and bare.logits is not None
        assert inside.logits.requires_grad
        assert torch.equal(inside.logits, bare.logits)
        assert torch.equal(without_gradients, bare.logits)
        for component in model.components:
            assert torch.equal(inside[component], bare[component]), component


@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, torch.bfloat16) for family in FAMILIES), ("llama", torch.float16)]
)
def test_half_precision_forwards_are_the_same_to_the_bit(family: str, dtype: torch.dtype, tokens: Tensor):
    prompts = Prompts(tokens)
    model, exact = (
        interp.load_model(make_hf_model(family, dtype=dtype).to(width)) for width in (dtype, torch.float32)
    )
    with torch.no_grad():
        bare = model(tokens)
    for rules in RULES:
        with interp.relevance_rules(model, rules):
            logits = model(tokens)
        assert logits.dtype == dtype and logits.requires_grad
        assert torch.equal(logits, bare), rules
        for found, expected in zip(under(model, prompts, rules), under(exact, prompts, rules), strict=True):
            assert found.dtype == dtype
            # a random model this sharp amplifies rounding; a wrong rule turns the gradient, which this does not
            cosine = torch.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0)
            assert cosine > 0.97 or expected.abs().max() == 0, rules


@pytest.mark.parametrize(("use_cache", "rules"), [(True, "attnlrp"), (False, "relp-ah")])
def test_generation_gives_the_same_tokens(kind: Specimen, use_cache: bool, rules: str):
    prompts = random_prompts(6, 3, 6, "left")
    options: dict[str, Any] = {
        "max_new_tokens": 4,
        "attention_mask": prompts.mask,
        "use_cache": use_cache,
    }
    bare = kind.model.generate(prompts.tokens, **options)
    with interp.relevance_rules(kind.model, rules):
        inside = kind.model.generate(prompts.tokens, **options)
        # and coefficients are right afterwards
        after = gradients(kind.model, prompts)
    assert torch.equal(inside, bare)
    assert equal(after, under(kind.model, prompts, rules))


def test_backward_may_be_called_after_the_block(kind: Specimen):
    prompts = random_prompts(2, 2, 7, "none")
    with interp.relevance_rules(kind.model):
        cache = interp.capture(
            kind.model, prompts.tokens, "mlp_out" if kind.name != "attention_only" else "z"
        )
        inside = torch.autograd.grad(
            metric(cache.logits), list(kind.model.parameters())[:3], retain_graph=True
        )  # type: ignore[arg-type]
    after = torch.autograd.grad(metric(cache.logits), list(kind.model.parameters())[:3])  # type: ignore[arg-type]
    assert all(torch.equal(one, other) for one, other in zip(inside, after, strict=True))


def _stop(error: type[BaseException]) -> Callable[[Tensor], Tensor]:
    def fail(part: Tensor) -> Tensor:
        raise error("stop")

    return fail


def _leave(model: Model, prompts: Prompts, rules: str) -> None:
    with interp.relevance_rules(model, rules):
        gradients(model, prompts)


def _leave_unused(model: Model, prompts: Prompts, rules: str) -> None:
    with interp.relevance_rules(model, rules):
        pass


def _raise(error: type[BaseException]) -> Callable[[Model, Prompts, str], None]:
    def run(model: Model, prompts: Prompts, rules: str) -> None:
        with pytest.raises(error, match="stop"), interp.relevance_rules(model, rules):
            model(prompts.tokens, prompts.mask)
            raise error("stop")

    return run


def _raise_in_forward(error: type[BaseException]) -> Callable[[Model, Prompts, str], None]:
    def run(model: Model, prompts: Prompts, rules: str) -> None:
        failing = interp.intervene(model, interp.apply("z[1]", _stop(error)))
        with pytest.raises(error, match="stop"), interp.relevance_rules(model, rules), failing:
            model(prompts.tokens, prompts.mask)

    return run


def _raise_in_forward_outside(model: Model, prompts: Prompts, rules: str) -> None:
    """The intervention's block is the outer one."""
    failing = interp.intervene(model, interp.apply("attn_out[0]", _stop(ValueError)))
    with pytest.raises(ValueError, match="stop"), failing, interp.relevance_rules(model, rules):
        model(prompts.tokens, prompts.mask)


def _refused(model: Model, prompts: Prompts, rules: str) -> None:
    own = interp.UserRule("own", "blocks.9.*", lambda inputs, output: output)
    with pytest.raises(interp.RuleError), interp.relevance_rules(model, interp.RelevanceRules(custom=(own,))):
        raise AssertionError("the block was entered")


WAYS_OUT = {
    "leaving": _leave,
    "leaving unused": _leave_unused,
    "an error": _raise(ValueError),
    "an interrupt": _raise(KeyboardInterrupt),
    "an error in a forward": _raise_in_forward(RuntimeError),
    "an interrupt in a forward": _raise_in_forward(KeyboardInterrupt),
    "an error in an intervention around": _raise_in_forward_outside,
    "not entering": _refused,
}


AT_FIRST: dict[str, list[Tensor]] = {}


@pytest.mark.parametrize("way", list(WAYS_OUT))
def test_nothing_is_left_behind(kind: Specimen, way: str):
    """Hooks, flags, edits, logits and ordinary gradients are what they were, to the bit."""
    model, prompts = kind.model, random_prompts(4, 3, 8, "left")
    if kind.name not in AT_FIRST:
        AT_FIRST[kind.name] = gradients(model, prompts)
    frozen = next(model.parameters())
    try:
        frozen.requires_grad_(False)
        before = traces(model)
        for rules in ("relp-ah", "attnlrp"):
            WAYS_OUT[way](model, prompts, rules)
            assert traces(model) == before
        # the fixture compares logits
        assert equal(gradients(model, prompts), AT_FIRST[kind.name])
    finally:
        frozen.requires_grad_(True)


def test_an_error_caught_inside_changes_no_coefficient(kind: Specimen):
    """What a forward that failed halfway left is not taken for the next one's."""
    model, prompts, others = kind.model, random_prompts(4, 3, 8, "left"), random_prompts(5, 2, 6, "none")
    expected = under(model, prompts, "attnlrp")
    with interp.relevance_rules(model, "attnlrp"):
        for site in ("z[1]", "attn_out[0]", "v[0]"):
            with pytest.raises(ValueError), interp.intervene(model, interp.apply(site, _stop(ValueError))):
                model(others.tokens, others.mask)
        assert equal(gradients(model, prompts), expected)


@pytest.fixture
def entering(gpt2: Specimen) -> Iterator[list[weakref.ref[Tensor]]]:
    """What entered the last activation function in each forward, as long as it lives; no cycle is collected."""
    seen: list[weakref.ref[Tensor]] = []
    point = gpt2.model.hook_points["blocks.1.mlp.in.hook_out"]
    handle = point.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    yield seen
    gc.enable()
    handle.remove()


def test_activations_of_a_failed_forward_are_let_go_of(
    gpt2: Specimen, tokens: Tensor, entering: list[weakref.ref[Tensor]]
):
    """What entered waits for its result, which never comes."""

    def stop(module: Any, inputs: tuple[Tensor, ...]) -> None:
        raise ValueError("stop")

    handle = gpt2.model.hook_points["blocks.1.mlp.out.hook_in"].register_forward_pre_hook(stop)
    try:
        with contextlib.suppress(ValueError), interp.relevance_rules(gpt2.model):
            gpt2.model(tokens)
    finally:
        handle.remove()
    assert [ref() for ref in entering] == [None]


def test_forwards_without_a_use_for_rules_keep_nothing(
    gpt2: Specimen, tokens: Tensor, entering: list[weakref.ref[Tensor]]
):
    """Neither those without gradients nor those under other rules, while the block lasts."""
    with interp.relevance_rules(gpt2.model), torch.no_grad():
        gpt2.model(tokens)
        assert [ref() for ref in entering] == [None]
    with interp.relevance_rules(gpt2.model), interp.relevance_rules(gpt2.model, "gradient"):
        gpt2.model(tokens)
        assert [ref() for ref in entering] == [None] * 2


@pytest.mark.parametrize("name", ["gemma2", "plain"])
def test_the_innermost_rules_hold(name: str):
    """As if they stood alone, and on leaving them the outer ones hold again."""
    model, prompts = specimen(name).model, random_prompts(8, 2, 7, "right")
    alone = {rules: under(model, prompts, rules) for rules in RULES}
    plain = gradients(model, prompts)
    for outer, inner in itertools.product(RULES, RULES):
        with interp.relevance_rules(model, outer):
            with interp.relevance_rules(model, inner):
                assert equal(gradients(model, prompts), alone[inner]), (outer, inner)
            assert equal(gradients(model, prompts), alone[outer]), (outer, inner)
        assert equal(alone[outer], alone[inner]) == (outer == inner)
    assert equal(plain, alone["gradient"])
    assert equal(plain, gradients(model, prompts))
    assert equal(under(model, prompts, "relp", "attnlrp", "gradient", "relp-ah"), alone["relp-ah"])


def test_blocks_may_end_in_another_order(tokens: Tensor):
    """Blocks held by generators end when those do; the last one still open holds."""
    model, prompts = specimen("llama").model, Prompts(tokens)

    def hold(rules: str) -> Iterator[None]:
        with interp.relevance_rules(model, rules):
            yield

    before, plain = traces(model), gradients(model, prompts)
    first, second = hold("relp"), hold("attnlrp")
    next(first)
    next(second)
    assert next(first, "ended") == "ended"
    assert equal(gradients(model, prompts), under(model, prompts, "attnlrp"))
    assert next(second, "ended") == "ended"
    assert traces(model) == before
    assert equal(gradients(model, prompts), plain)


def _edit(factor: float, constant: float) -> Callable[[Tensor], Tensor]:
    return lambda part: factor * part + constant


PATTERN = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(5)).tril()
EDITS: dict[str, dict[Place, tuple[Any, Callable[[Tensor], Tensor]]]] = {
    "a zeroed mlp_post and a replaced pattern": {
        ("mlp_post", 0): (interp.zero("mlp_post[0]"), _edit(0, 0)),
        ("pattern", 1): (interp.replace("pattern[1]", PATTERN), lambda part: 0 * part + PATTERN.double()),
    },
    "edits that scale, shift and bend": {
        ("q", 1): (interp.apply("q[1]", _edit(0.5, 0.1)), _edit(0.5, 0.1)),
        ("v", 0): (interp.apply("v[0]", torch.sin), torch.sin),
        ("attn_scores", 1): (interp.scale("attn_scores[1]", 0.5), _edit(0.5, 0)),
        ("attn_out", 0): (interp.apply("attn_out[0]", _edit(0.5, 0.2)), _edit(0.5, 0.2)),
        ("mlp_pre", 1): (interp.apply("mlp_pre[1]", _edit(-1.5, 0.3)), _edit(-1.5, 0.3)),
        ("resid_pre", 1): (interp.scale("resid_pre[1]", 3.0), _edit(3.0, 0)),
    },
}


@pytest.mark.parametrize("edits", list(EDITS))
def test_interventions_beside_rules(kind: Specimen, edits: str):
    """Coefficients are those of the transformer written out with the same edits, whichever block is outer."""
    # without rounding where that is to be had: little arrives at the queries, as differences of much
    model = wide(kind.name)[0] if kind.name in EXACT else kind.model
    bound = 1e-12 if kind.name in EXACT else 1e-5
    chosen = {place: both for place, both in EDITS[edits].items() if place[0] in model.components}
    made = [intervention for intervention, _ in chosen.values()]
    changes = {place: change for place, (_, change) in chosen.items()}
    tokens = random_prompts(9, 3, 8, "none").tokens
    weights = torch.randn(3, 8, 53, generator=torch.Generator().manual_seed(6))

    def scored(logits: Tensor) -> Tensor:
        return (logits * weights.to(logits)).flatten(1).sum(1)

    def run(*blocks: Any) -> ActivationCache:
        with ExitStack() as stack:
            for block in blocks:
                stack.enter_context(block)
            found = interp.capture(model, tokens, model.components, gradients_of=scored).grads
            assert found is not None
            return found

    # all rules are among these two
    for rules in ("relp-ah", "attnlrp"):
        one = run(interp.relevance_rules(model, rules), interp.intervene(model, made))
        other = run(interp.intervene(model, made), interp.relevance_rules(model, rules))
        _, expected = NaiveRelevance(model, HELD[rules]).coefficients(scored, tokens, edits=changes)
        for (component, layer), value in expected.items():
            site = Site(component, None if component == "embed" else layer)
            assert torch.equal(one[site], other[site]), (rules, site)
            difference = float((one[site].double() - value).abs().max())
            assert difference <= bound * float(value.abs().max()), (rules, site)


def test_parameters_may_be_frozen_or_trained(tokens: Tensor):
    """Coefficients at sites do not depend on which parameters have gradients."""
    model = interp.load_model(make_bare("qwen3"))
    expected = under(model, Prompts(tokens), "attnlrp")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert equal(under(model, Prompts(tokens), "attnlrp"), expected)
    with interp.relevance_rules(model):
        assert not model(tokens).requires_grad
