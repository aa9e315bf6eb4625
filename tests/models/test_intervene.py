"""Every intervention against the same change made in a transformer written out without hooks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import Specimen, make_bare, specimen
from naive_interventions import KINDS, Change, Prompts, edits_of, make_change, random_prompts, spots_of, width
from torch import Tensor

import interp
from interp.errors import InterventionError, SiteError
from interp.models.cache import ActivationCache
from interp.models.intervene import attn_out_for
from interp.models.interventions import Intervention, mean_over, other_rows
from interp.types import HEAD_COMPONENTS, NEURON_COMPONENTS, PATTERN_COMPONENTS, Site, Span

LABELS = {"S": torch.tensor([1, 4, 2]), "IO": torch.tensor([0, 0, 3])}
SCORE_KINDS = ("zero", "number", "replace_vector", "clamp", "apply")
"""The others compute with the scores of masked keys, which are as good as minus infinity."""
BOUND = 1e-4
"""Largest difference of logits allowed, relative to their range: fp32 against fp64. Most are under
1e-6; a norm of almost nothing, where a zero was written through a difference, comes near."""


def relative_error(found: Tensor, expected: Tensor, real: Tensor) -> Tensor:
    """Largest difference of each row, [batch]."""
    found, expected = found.detach(), expected.detach()
    size = (expected.max() - expected.min()).clamp(min=1)
    return ((found - expected).abs().amax(-1) * real).amax(-1) / size


def check(
    on: Specimen, changes: list[Change], prompts: Prompts, labels: dict[str, Tensor] = LABELS, split: int = 0
) -> Tensor:
    """Logits of ``interp`` (changes before ``split`` in an outer block) equal the naive ones."""
    with torch.no_grad(), ExitStack() as stack:
        for part in (changes[:split], changes[split:]):
            if part:
                made = [change.intervention for change in part]
                stack.enter_context(interp.intervene(on.model, made, labels=labels))
        # what is captured inside must be what the interventions left
        cache = interp.capture(on.model, prompts.tokens, on.model.components, attention_mask=prompts.mask)
    edits = edits_of(changes, prompts, on.model.traits.n_layers, labels, prompts.tokens.shape[1])
    record: dict[tuple[str, int], Tensor] = {}
    expected = on.naive(prompts.tokens, prompts.mask, edits=edits, record=record)
    for (component, layer), value in {**record, ("logits", 0): expected}.items():
        if component == "attn_scores":
            continue
        found = cache.logits if component == "logits" else cache[_one_layer(component, layer)]
        if component == "pattern":
            found, value = found.transpose(1, 2), value.transpose(1, 2)
        error = relative_error(found.flatten(2), value.flatten(2), prompts.real)
        assert (error < BOUND).all(), (
            [str(change.intervention) for change in changes],
            component,
            layer,
            error,
        )
    assert cache.logits is not None
    return cache.logits


def _one_layer(component: str, layer: int) -> Site:
    return Site(component, None if component == "embed" else layer)


def kinds_at(site: Site, padding: str) -> tuple[str, ...]:
    """What can be done at a site of prompts padded in this way."""
    if site.component in PATTERN_COMPONENTS and padding != "none":
        # what a padded position holds is nobody's business, so nothing may look at it
        return ("zero", "scale", "clamp", "replace_cache") if site.component == "pattern" else ()
    if site.component == "attn_scores":
        return SCORE_KINDS
    barred = {"resample"} if padding != "none" else set()
    if site.component in PATTERN_COMPONENTS:
        barred |= {"mean", "mean_tensor"}
    return tuple(kind for kind in KINDS if kind not in barred)


def test_each_intervention_at_every_component(kind: Specimen):
    """Every kind in a batch row of its own: in all layers and positions, then in one head at two."""
    prompts = random_prompts(7, len(KINDS), 9, "none")
    labels = {"S": torch.arange(len(KINDS)) % 9}
    with torch.no_grad():
        bare = kind.model(prompts.tokens)
    for component in kind.model.components:
        head = 1 if component in HEAD_COMPONENTS else None
        part = Site(component, None if component == "embed" else 1, head, positions=(2, "S"))
        for site in (Site(component), part):
            rows = {KINDS.index(what): what for what in kinds_at(site, "none")}
            changes = [
                make_change(what, site.for_rows(row), kind, prompts, "none", seed=row)
                for row, what in rows.items()
            ]
            found = check(kind, changes, prompts, labels)
            same = [row for row in range(len(KINDS)) if torch.equal(found[row], bare[row])]
            # adding one vector to every key leaves a softmax as it was, up to rounding
            assert set(same) == set(range(len(KINDS))) - set(rows), f"{site}: {same}"


@st.composite
def sites(draw: st.DrawFn, on: Specimen, prompts: Prompts, in_subspace: bool = True) -> Site:
    component = draw(st.sampled_from(on.model.components))
    layer = None if component == "embed" else draw(st.sampled_from([None, 0, 1]))
    traits = on.model.traits
    head = None
    if component in HEAD_COMPONENTS and draw(st.booleans()):
        head = draw(st.integers(0, (traits.n_kv_heads if component in "kv" else traits.n_heads) - 1))
    neurons = None
    if component in NEURON_COMPONENTS and draw(st.booleans()):
        neurons = tuple(draw(st.lists(st.integers(0, traits.d_mlp - 1), min_size=1, max_size=4, unique=True)))
    one = st.one_of(
        st.integers(-4, 5),
        st.sampled_from(["S", "IO", "END", "all"]),
        st.builds(Span, st.integers(-4, 4) | st.none(), st.integers(-2, 9) | st.none()),
    )
    positions = draw(st.none() | st.lists(one, min_size=1, max_size=2).map(tuple))
    rows = draw(st.none() | st.sets(st.integers(0, 2), min_size=1, max_size=2).map(sorted).map(tuple))
    site = Site(component, layer, head, positions, neurons, rows=rows)
    if in_subspace and component not in PATTERN_COMPONENTS and draw(st.integers(0, 3)) == 0:
        d = width(site, on, prompts)
        k = draw(st.integers(1, min(3, d)))
        site = site.within(torch.randn(k, d, generator=torch.Generator().manual_seed(k)))
    return site


# the fixture only reads
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_list_of_interventions_on_any_prompts(data: st.DataObject, kind: Specimen):
    """Composed in order, split over nested blocks, at any sites, with padding on either side."""
    padding = data.draw(st.sampled_from(["none", "left", "right"]))
    prompts = random_prompts(data.draw(st.integers(0, 3)), 3, 9, padding)
    changes = []
    for _ in range(data.draw(st.integers(1, 3))):
        site = data.draw(sites(kind, prompts).filter(lambda site: kinds_at(site, padding)))
        what = data.draw(st.sampled_from(kinds_at(site, padding)))
        changes.append(make_change(what, site, kind, prompts, padding, data.draw(st.integers(0, 9))))
    split = data.draw(st.integers(0, len(changes)))
    if all(
        any(change.reaches(spot) for spot in spots_of(change.site, prompts, LABELS, 9)) for change in changes
    ):
        check(kind, changes, prompts, split=split)
    else:
        with pytest.raises(InterventionError, match="touched nothing"):
            check(kind, changes, prompts, split=split)


def _final(kind: Specimen, tokens: Tensor, interventions: list[Intervention], **options: Any) -> Tensor:
    with torch.no_grad(), interp.intervene(kind.model, interventions, **options):
        return kind.model(tokens)


def test_order_is_the_list_s_and_outer_blocks_come_first(kind: Specimen, tokens: Tensor):
    vector = torch.randn(36, generator=torch.Generator().manual_seed(1))
    site = "resid_post[0]@3"
    with torch.no_grad():
        before = interp.capture(kind.model, tokens, site)[site]
        orders = [
            ([interp.add(site, vector), interp.scale(site, 3.0)], (before + vector) * 3),
            ([interp.scale(site, 3.0), interp.add(site, vector)], before * 3 + vector),
        ]
        for both, expected in orders:
            with interp.intervene(kind.model, both):
                listed = interp.capture(kind.model, tokens, site)[site]
            with interp.intervene(kind.model, both[0]), interp.intervene(kind.model, both[1]):
                nested = interp.capture(kind.model, tokens, site)[site]
            torch.testing.assert_close(listed, expected)
            assert torch.equal(listed, nested)


@pytest.mark.parametrize("outer_first", [True, False])
def test_resid_mid_is_edited_after_attn_out_whichever_block_is_outer(tokens: Tensor, outer_first: bool):
    kind = specimen("gemma2")
    blocks = [interp.scale("attn_out[1]", 2.0), interp.add("resid_mid[1]", torch.ones(36))]
    blocks = blocks if outer_first else blocks[::-1]
    with torch.no_grad(), interp.intervene(kind.model, blocks[0]), interp.intervene(kind.model, blocks[1]):
        cache = interp.capture(kind.model, tokens, ["resid_pre[1]", "attn_out[1]", "resid_mid[1]"])
    bare = interp.capture(kind.model, tokens, ["resid_pre[1]", "attn_out[1]"])
    torch.testing.assert_close(cache["attn_out[1]"], 2 * bare["attn_out[1]"])
    expected = bare["resid_pre[1]"] + 2 * bare["attn_out[1]"] + 1
    torch.testing.assert_close(cache["resid_mid[1]"], expected, atol=1e-5, rtol=1e-5)


def test_result_of_one_head_is_z_of_that_head(kind: Specimen, tokens: Tensor):
    """Two routes to one ablation: the head's output, and what it adds to the residual stream."""
    found = [_final(kind, tokens, [interp.zero(site)]) for site in ("result[1.2]", "z[1.2]")]
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)


def test_rows_and_columns_outside_the_site_keep_their_bits(kind: Specimen, tokens: Tensor):
    """An edit at row 1 from position 5 on leaves other rows, and earlier positions, as they were."""
    bare = _logits(kind, tokens)
    for component in kind.model.components:
        found = _final(kind, tokens, [interp.scale(Site(component).at(Span(5, None)).for_rows(1), 0.5)])
        assert torch.equal(found[[0, 2]], bare[[0, 2]]), component
        assert torch.equal(found[1, :5], bare[1, :5]), component
        assert not torch.equal(found[1, 5:], bare[1, 5:]), component


def _logits(kind: Specimen, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return kind.model(tokens)


@pytest.mark.parametrize("site", ["z[0.1]", "resid_mid[0]", "result[0.1]"])
def test_an_intervention_acts_in_every_forward_of_its_block(gpt2: Specimen, tokens: Tensor, site: str):
    runs = [tokens, tokens.flip(0), tokens[:, :5]]
    with torch.no_grad(), interp.intervene(gpt2.model, interp.zero(f"{site}@-1")):
        found = [gpt2.model(run) for run in runs]
    for run, logits in zip(runs, found, strict=True):
        assert torch.equal(logits, _final(gpt2, run, [interp.zero(f"{site}@{run.shape[1] - 1}")]))


def test_masks_are_followed(gpt2: Specimen):
    """-1 is each row's own last token, whatever the padding."""
    prompts = [random_prompts(5, 3, 9, side) for side in ("left", "right")]
    for padded in prompts:
        with torch.no_grad(), interp.intervene(gpt2.model, interp.zero("resid_pre[1]@-1")):
            batched = gpt2.model(padded.tokens, padded.mask)
        for row in range(3):
            alone = padded.tokens[row][padded.real[row]][None]
            expected = _final(gpt2, alone, [interp.zero("resid_pre[1]@-1")])[0]
            torch.testing.assert_close(batched[row][padded.real[row]], expected, atol=1e-5, rtol=1e-5)


def test_the_attn_out_for_a_resid_mid():
    """The sum is the one asked for; what is unchanged keeps its bits, and a zero is a zero."""
    generator = torch.Generator().manual_seed(6)
    sizes = 10.0 ** torch.linspace(-6, 4, 40)[:, None, None]
    base = torch.randn(40, 5, 3, generator=generator, requires_grad=True)
    attn = (torch.randn(40, 5, 3, generator=generator) * sizes).requires_grad_()
    mid = base + attn
    wanted = torch.where(torch.tensor([True, False, False])[:, None].expand(5, 3, 3)[:, :, 0], mid, 0 * mid)
    out = attn_out_for(wanted, base, attn)
    assert torch.equal(out[..., 0], attn[..., 0])
    assert (base + out)[..., 1:].abs().max() == 0
    weight = torch.randn(40, 5, 3, generator=generator)
    grads = torch.autograd.grad(((base + out) * weight).sum(), [base, attn], retain_graph=True)
    expected = torch.autograd.grad((wanted * weight).sum(), [base, attn])
    for found, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, other)


def test_resample_takes_another_row_each_once():
    for n in (2, 3, 8, 33):
        rows = other_rows(n, seed=n)
        assert sorted(rows.tolist()) == list(range(n))
        assert not (rows == torch.arange(n)).any()
    assert not torch.equal(other_rows(33, 0), other_rows(33, 1))


def test_gradients_reach_a_vector_through_every_kind(kind: Specimen, tokens: Tensor):
    """The gradient to what is added, replaced or applied equals a finite difference."""
    generator = torch.Generator().manual_seed(4)
    for component in ("resid_mid", "result", "z", "mlp_post", "resid_post"):
        if component not in kind.model.components:
            continue
        site = Site(component, 1, 1 if component in HEAD_COMPONENTS else None, positions=(4,))
        d = width(site, kind, Prompts(tokens))
        vector, step = torch.randn(d, generator=generator), torch.randn(d, generator=generator)
        makers = (
            lambda v, s=site: interp.add(s, v, 0.5),
            lambda v, s=site: interp.replace(s, v),
            lambda v, s=site: interp.apply(s, lambda part: part * v),
        )
        for make in makers:
            leaf = vector.clone().requires_grad_()
            (found,) = torch.autograd.grad(_loss(kind, tokens, make(leaf)), leaf)
            h = 1e-2
            ahead, behind = (_loss(kind, tokens, make(vector + sign * h * step)).detach() for sign in (1, -1))
            slope = float((ahead - behind) / (2 * h))
            assert float(found @ step) == pytest.approx(slope, rel=2e-2, abs=2e-3), component


def _loss(kind: Specimen, tokens: Tensor, intervention: Intervention) -> Tensor:
    with interp.intervene(kind.model, intervention):
        return kind.model(tokens)[:, -1].log_softmax(-1)[:, 7].sum()


def test_a_cache_may_hold_just_the_site(gpt2: Specimen, tokens: Tensor):
    """The part of a run that an intervention needs is enough: a head, neurons, a subspace, a position."""
    other = tokens.flip(0)
    directions = torch.randn(2, 36, generator=torch.Generator().manual_seed(0))
    whole = interp.capture(gpt2.model, other, ["z", "mlp_post", "resid_pre"])
    for site in (
        Site("z", 1, 2),
        Site("z", None, 2),
        Site("mlp_post", 0, neurons=(3, 8)),
        Site("resid_pre", 1).within(directions),
        Site("resid_pre", 1, positions=(4,)),
        Site("resid_pre", None, positions=("END",)),
        Site("z", 1, 2, positions=(-2,)),
    ):
        only = interp.capture(gpt2.model, other, site)
        found = [_final(gpt2, tokens, [interp.replace(site, cache)]) for cache in (only, whole)]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
        if site.positions is None:
            averaged = [_final(gpt2, tokens, [interp.mean(site, cache)]) for cache in (only, whole)]
            torch.testing.assert_close(*averaged, atol=1e-5, rtol=1e-5)
    several = interp.capture(gpt2.model, other, "resid_pre[1]@2:4")
    with pytest.raises(InterventionError, match="capture the site without positions"):
        _final(gpt2, tokens, [interp.replace("resid_pre[1]@2:4", several)])
    with pytest.raises(SiteError, match="was not captured"):
        _final(gpt2, tokens, [interp.replace("resid_pre[0]", several)])


def test_a_subspace_of_full_rank_is_the_whole_activation(gpt2: Specimen, tokens: Tensor):
    """As many directions as entries: values of a cache must still be taken to that basis."""
    cache = interp.capture(gpt2.model, tokens.flip(0), "z")
    basis = torch.randn(9, 9, generator=torch.Generator().manual_seed(3))
    site = Site("z", 1, 2)
    found = _final(gpt2, tokens, [interp.replace(site.within(basis), cache)])
    torch.testing.assert_close(
        found, _final(gpt2, tokens, [interp.replace(site, cache)]), atol=1e-5, rtol=1e-5
    )


def test_the_mean_of_one_head_may_be_given_alone(gpt2: Specimen, tokens: Tensor):
    means = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    found = [_final(gpt2, tokens, [interp.mean("z[1.2]", value)]) for value in (means, means[2])]
    assert torch.equal(*found)
    assert torch.equal(found[0], _final(gpt2, tokens, [interp.replace("z[1.2]", means[2])]))


@pytest.mark.parametrize("per_position", [True, False])
def test_means_of_half_precision_data_are_as_good_as_their_numbers(per_position: bool):
    """Thousands of rows: a bf16 sum would stand still long before the last."""
    values = torch.rand(1, 3000, 2, 4, generator=torch.Generator().manual_seed(0)) + 1
    site = Site("resid_pre")
    cache = ActivationCache({site: values.bfloat16()}, torch.zeros(3000, 2).long())
    found = mean_over(cache, site, 0, per_position).float()
    expected = values[0].mean(0) if per_position else values[0].flatten(0, 1).mean(0)
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-2)


def test_half_precision_models_can_be_changed(tokens: Tensor):
    model = interp.load_model(make_bare("llama"), dtype=torch.bfloat16)
    cache = interp.capture(model, tokens, ["z", "resid_mid", "result"])
    assert cache["result"].dtype == torch.bfloat16
    vector = torch.randn(36)
    changes = [
        interp.add("resid_mid[0]", vector),
        interp.replace("z[1.2]", cache),
        interp.mean("result[0.1]", cache),
        interp.project("resid_post[0]", vector),
        interp.zero(Site("mlp_out", 1).within(vector)),
        interp.clamp("pattern[1]", 0.1, 0.2),
    ]
    with torch.no_grad():
        bare = model(tokens)
        with interp.intervene(model, changes):
            found = model(tokens)
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()
    assert not torch.equal(found, bare)
    assert torch.equal(model(tokens), bare)


def test_a_subspace_that_is_the_whole_space_is_no_restriction() -> None:
    on = specimen("hooked")
    tokens = torch.arange(1, 8)[None]
    turned, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
    value = torch.randn(1, 7, 2, generator=torch.Generator().manual_seed(1))
    site = interp.Site("mlp_pre", 1, neurons=(0, 1))
    found = []
    for place in (site, site.within(turned)):
        changes = [interp.replace(place, value), interp.add(place, value), interp.mean(place, value[0, 0])]
        for change in changes:
            with torch.no_grad(), interp.intervene(on.model, change):
                found.append(on.model(tokens))
    for whole, within in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(within, whole, atol=1e-5, rtol=1e-5)
