"""The block of rules: forwards stay what they are, the innermost rules hold, and nothing is left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from model_zoo import Specimen, make_bare, specimen
from naive_interventions import Prompts, random_prompts
from naive_relevance import HELD, NaiveRelevance
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.models.model import Model
from interp.models.relevance import RULES
from interp.types import Site

SITES = ("embed", "attn_out[0]", "mlp_pre[0]", "q[1]", "pattern[1]", "resid_post[1]")
PADDINGS = ("none", "left", "right")


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
    for padding in PADDINGS:
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_forwards_are_the_same_to_the_bit(family: str, dtype: torch.dtype, tokens: Tensor):
    model = interp.load_model(make_hf_model(family, dtype=dtype))
    with torch.no_grad():
        bare = model(tokens)
    for rules in RULES:
        with interp.relevance_rules(model, rules):
            logits = model(tokens)
        assert logits.dtype == dtype
        assert torch.equal(logits, bare), rules
        found = under(model, Prompts(tokens), rules)
        wide = under(interp.load_model(make_hf_model(family, dtype=dtype).float()), Prompts(tokens), rules)
        for mine, exact in zip(found, wide, strict=True):
            assert mine.dtype == dtype
            # a random model this sharp amplifies rounding; a wrong rule turns the gradient, which this does not
            cosine = torch.cosine_similarity(mine.float().flatten(), exact.flatten(), dim=0)
            assert cosine > 0.97 or exact.abs().max() == 0, rules


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_gives_the_same_tokens(kind: Specimen, use_cache: bool):
    prompts = random_prompts(6, 3, 6, "left")
    options: dict[str, Any] = {"max_new_tokens": 5, "attention_mask": prompts.mask, "use_cache": use_cache}
    bare = kind.model.generate(prompts.tokens, **options)
    for rules in ("relp-ah", "attnlrp"):
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


@pytest.mark.parametrize("way", list(WAYS_OUT))
def test_nothing_is_left_behind(kind: Specimen, way: str):
    """Hooks, flags, edits, logits and ordinary gradients are what they were, to the bit."""
    model, prompts = kind.model, random_prompts(4, 3, 8, "left")
    frozen = next(model.parameters())
    try:
        frozen.requires_grad_(False)
        before, plain = traces(model), gradients(model, prompts)
        logits = model(prompts.tokens, prompts.mask)
        for rules in ("relp", "relp-ah", "attnlrp"):
            WAYS_OUT[way](model, prompts, rules)
            assert traces(model) == before
            assert equal(gradients(model, prompts), plain)
            assert torch.equal(model(prompts.tokens, prompts.mask), logits)
    finally:
        frozen.requires_grad_(True)


def test_an_error_caught_inside_changes_no_coefficient(kind: Specimen):
    """What a forward that failed halfway left is not taken for the next one's."""
    model, prompts, others = kind.model, random_prompts(4, 3, 8, "left"), random_prompts(5, 2, 6, "none")
    for rules in ("relp", "attnlrp"):
        expected = under(model, prompts, rules)
        with interp.relevance_rules(model, rules):
            for site in ("z[1]", "attn_out[0]", "v[0]"):
                with (
                    pytest.raises(ValueError),
                    interp.intervene(model, interp.apply(site, _stop(ValueError))),
                ):
                    model(others.tokens, others.mask)
            assert equal(gradients(model, prompts), expected)


def test_activations_of_a_failed_forward_are_let_go_of(gpt2: Specimen, tokens: Tensor):
    seen: list[weakref.ref[Tensor]] = []

    def watch(part: Tensor) -> Tensor:
        seen.append(weakref.ref(part))
        raise ValueError("stop")

    def run(block: Any) -> None:
        try:
            with block, interp.intervene(gpt2.model, interp.apply("mlp_pre[1]", lambda part: part * 1.0)):
                # the norm before has passed on what it knew; the activation waits for its result
                gpt2.model.hook_points["blocks.1.mlp.out.hook_in"].register_forward_pre_hook(
                    stop, prepend=True
                )
                gpt2.model(tokens)
        except ValueError:
            pass

    def stop(module: Any, inputs: tuple[Tensor, ...]) -> None:
        raise ValueError("stop")

    point = gpt2.model.hook_points["blocks.1.mlp.in.hook_out"]
    keep = point.register_forward_hook(lambda m, i, out: seen.append(weakref.ref(out)))
    gc.collect()
    gc.disable()
    try:
        block = interp.relevance_rules(gpt2.model)
        run(block)
        del block
        assert seen and all(ref() is None for ref in seen)
    finally:
        gc.enable()
        keep.remove()
        gpt2.model.hook_points["blocks.1.mlp.out.hook_in"]._forward_pre_hooks.clear()


@pytest.mark.parametrize("inner", list(RULES))
@pytest.mark.parametrize("outer", list(RULES))
def test_the_innermost_rules_hold(outer: str, inner: str):
    """As if they stood alone, and on leaving them the outer ones hold again."""
    prompts = random_prompts(8, 2, 7, "right")
    for name in ("gemma2", "plain"):
        model = specimen(name).model
        alone = {rules: under(model, prompts, rules) for rules in (outer, inner)}
        plain = gradients(model, prompts)
        assert equal(plain, under(model, prompts, "gradient"))
        with interp.relevance_rules(model, outer):
            assert equal(gradients(model, prompts), alone[outer])
            with interp.relevance_rules(model, inner):
                assert equal(gradients(model, prompts), alone[inner])
                with interp.relevance_rules(model, "gradient"):
                    assert equal(gradients(model, prompts), plain)
            assert equal(gradients(model, prompts), alone[outer])
        assert equal(gradients(model, prompts), plain)
        assert equal(alone[outer], alone[inner]) == (outer == inner)


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
EDITS: dict[str, tuple[Any, tuple[str, int], Callable[[Tensor], Tensor]]] = {
    "a zeroed mlp_post": (interp.zero("mlp_post[0]"), ("mlp_post", 0), _edit(0, 0)),
    "a replaced pattern": (
        interp.replace("pattern[0]", PATTERN),
        ("pattern", 0),
        lambda part: 0 * part + PATTERN.double(),
    ),
    "an edit at mlp_pre": (interp.apply("mlp_pre[1]", _edit(-1.5, 0.3)), ("mlp_pre", 1), _edit(-1.5, 0.3)),
    "an edit at resid_pre": (interp.scale("resid_pre[1]", 3.0), ("resid_pre", 1), _edit(3.0, 0)),
    "an edit at attn_out": (interp.apply("attn_out[0]", _edit(0.5, 1)), ("attn_out", 0), _edit(0.5, 1)),
    "an edit at q": (interp.apply("q[1]", _edit(2.0, 0.1)), ("q", 1), _edit(2.0, 0.1)),
    "an edit at v": (interp.apply("v[0]", torch.sin), ("v", 0), torch.sin),
    "an edit of scores": (interp.scale("attn_scores[1]", 0.5), ("attn_scores", 1), _edit(0.5, 0)),
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_interventions_beside_rules(kind: Specimen, edit: str):
    """Coefficients are those of the transformer written out with the same edit, whichever block is outer."""
    model, (intervention, place, change) = kind.model, EDITS[edit]
    if place[0] not in model.components:
        assert kind.name == "attention_only"
        return
    prompts = random_prompts(9, 3, 8, "none")
    weights = torch.randn(3, 8, 53, generator=torch.Generator().manual_seed(6))

    def scored(logits: Tensor) -> Tensor:
        return (logits * weights.to(logits)).flatten(1).sum(1)

    def run(*blocks: Any) -> interp.models.cache.ActivationCache:
        with ExitStack() as stack:
            for block in blocks:
                stack.enter_context(block)
            return interp.capture(model, prompts.tokens, model.components, gradients_of=scored)

    for rules, held in HELD.items():
        caches = [
            run(interp.relevance_rules(model, rules), interp.intervene(model, intervention)),
            run(interp.intervene(model, intervention), interp.relevance_rules(model, rules)),
        ]
        _, expected = NaiveRelevance(model, held).coefficients(scored, prompts.tokens, edits={place: change})
        for (component, layer), value in expected.items():
            site = Site(component, None if component == "embed" else layer)
            grads = [cache.grads[site] for cache in caches if cache.grads is not None]
            assert torch.equal(*grads), (rules, site)
            difference = float((grads[0].double() - value).abs().max())
            assert difference <= 1e-5 * float(value.abs().max()), (rules, site)


def test_parameters_may_be_frozen_or_trained(tokens: Tensor):
    """Coefficients at sites do not depend on which parameters have gradients."""
    model = interp.load_model(make_bare("qwen3"))
    expected = under(model, Prompts(tokens), "attnlrp")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert equal(under(model, Prompts(tokens), "attnlrp"), expected)
    with interp.relevance_rules(model):
        assert not model(tokens).requires_grad
