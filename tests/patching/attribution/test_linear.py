"""A model that is linear in its tokens: there every estimate is the exact effect, or known not to be."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from attribution_cases import assert_near
from model_zoo import Specimen
from naive_attribution import NaiveAttribution, cells_of
from naive_transformer import NaiveTransformer
from random_tasks import random_task
from torch import Tensor

import interp
from interp import AttributionStar, IntegratedGradients
from interp.models.plain import PlainConfig, PlainTransformer
from interp.results import PatchScores
from interp.types import parse_site

CONTENT = 20
"""Dimensions of the residual stream that tokens and layers write; the rest holds positions only."""
METHODS = (
    "attribution",
    "attribution*",
    AttributionStar(qk_fix=False),
    IntegratedGradients(steps=1),
    IntegratedGradients("activation", 2, "midpoint"),
    "relevance",
    "relevance:relp-ah",
)
# with every position's own place taken up again: the attention patterns stay
SITES = tuple(
    "embed@pos resid_pre resid_mid@all resid_post attn_out@1:3 mlp_out z@pos v@S result mlp_pre.n* "
    "mlp_post.n3,5".split()
)
# none of these holds positions, so that zeros and means of them move nothing else
OF_CONTENT = tuple("embed attn_out@all mlp_out z v@pos result@END mlp_pre@S mlp_post pattern@pos".split())
THROUGH_SOFTMAX = ["q", "q@pos", "k", "k@pos", "k@1:3", "attn_scores@-1"]


@cache
def linear() -> Specimen:
    """Three layers of linear neurons and no norm, whose attention looks at positions alone."""
    options = {"n_layers": 3, "n_heads": 3, "d_model": CONTENT + 8, "d_head": 5, "d_mlp": 9, "vocab_size": 53}
    config = PlainConfig(act="identity", norm=None, n_ctx=8, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = PlainTransformer(config).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.25)
            module.embed.W_E[:, CONTENT:] = 0
            module.pos_embed.W_pos[:, :CONTENT] = 0
            for block in module.blocks:
                for weight in (block.attn.W_Q, block.attn.W_K):
                    weight[:, :CONTENT] = 0
                    weight.mul_(6)
                for out in (block.attn.W_O, block.attn.b_O, block.mlp.W_out, block.mlp.b_out):
                    out[..., CONTENT:] = 0
    model = interp.load_model(module)
    return Specimen("linear", model, module, NaiveTransformer(model))


def patch(sites: Any, method: Any, **options: Any) -> PatchScores:
    task = random_task((6, 6, 6), "right", (0, 2, 1), seed=4)
    return interp.patch(linear().model, task, sites, method=method, progress=False, **options)


def test_patterns_are_sharp_and_do_not_depend_on_tokens() -> None:
    model, task = linear().model, random_task((6, 6), "right", (0, 0), seed=4)
    with torch.no_grad():
        clean, corrupted = (
            interp.capture(model, tokens, "pattern")["pattern"] for tokens in (task.clean, task.corrupted)
        )
    assert torch.equal(clean, corrupted)
    assert float((clean[..., -1, :] - 1 / 6).abs().max()) > 0.2


@cache
def exactly(sites: tuple[str, ...], direction: Any, ablation: Any) -> PatchScores:
    return patch(sites, "exact", direction=direction, ablation=ablation)


def assert_exact(found: PatchScores, exact: PatchScores, what: object) -> None:
    for site in exact:
        ours, theirs = found[site].per_prompt, exact[site].per_prompt
        assert ours is not None and theirs is not None
        assert_near(ours, theirs.double(), (what, site), max(1.0, float(theirs.max() - theirs.min())))


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_method_is_exact(method: Any, direction: Any) -> None:
    for ablation in ("source", "resample" if direction == "noise" else "mean-per-position"):
        exact = exactly(SITES, direction, ablation)
        moved = [float(exact.effects(site).abs().max()) for site in exact]
        assert min(moved) > 0.005 and max(moved) > 0.3, "nothing to find"
        found = patch(SITES, method, direction=direction, ablation=ablation)
        assert_exact(found, exact, (method, ablation))
        if isinstance(method, IntegratedGradients):
            assert abs(float(found.provenance.notes[-1].split("a gap of ")[1].split()[0].rstrip(","))) < 1e-4


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_other_ablations_of_what_holds_no_position(method: Any, ablation: Any) -> None:
    sites = OF_CONTENT
    # patterns have no mean; along the inputs their gradient is of values that move as well
    if ablation == "mean" or (isinstance(method, IntegratedGradients) and method.over == "inputs"):
        sites = sites[:-1]
    assert_exact(patch(sites, method, ablation=ablation), exactly(sites, "denoise", ablation), method)


def test_nothing_moves_where_nothing_differs() -> None:
    for method in ("exact", *METHODS):
        found = patch(["q", "k@pos", "pattern", "attn_scores"], method)
        assert all(float(found.effects(site).abs().max()) < 1e-5 for site in found), method


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_softmax_is_all_that_is_not_linear(direction: Any) -> None:
    """Zeroed queries, keys and scores: AtP* is exact, and attribution is not."""
    options = {"direction": direction, "ablation": "zero"}
    exact = patch(THROUGH_SOFTMAX, "exact", **options)
    assert_exact(patch(THROUGH_SOFTMAX, "attribution*", **options), exact, "attribution*")
    rough = patch(THROUGH_SOFTMAX, "attribution", **options)
    for site in THROUGH_SOFTMAX:
        error = (rough.effects(site) - exact.effects(site)).abs().max()
        assert float(error) > 0.1 * float(exact.effects(site).abs().max()), site
    # without the pattern's gradient there is no way for relevance to go
    silent = patch(THROUGH_SOFTMAX, "relevance:relp-ah", **options)
    assert all(float(silent.effects(site).abs().max()) < 1e-5 for site in silent)


def test_attnlrp_halves_at_every_attention() -> None:
    """AttnLRP gives half of each product to the pattern, even where the pattern cannot change: what
    came through k layers' attention counts 2 ** -k, and ``v`` itself half."""
    task = random_task((6, 6, 6), "right", (0, 2, 1), seed=4)
    naive = NaiveAttribution(linear(), task)
    halves = {("v", layer): lambda value: 0.5 * value + 0.5 * value.detach() for layer in range(3)}
    exact, found = (patch(SITES, method) for method in ("exact", "relevance:attnlrp"))
    for site in SITES:
        scores, cells = found[site], cells_of(parse_site(site), found[site])
        expected = naive.base_score + halved(naive, cells, halves)
        assert scores.per_prompt is not None
        assert_near(scores.per_prompt.reshape(expected.shape), expected, site)
    torch.testing.assert_close(found.effects("v@S")[-1], 0.5 * exact.effects("v@S")[-1], atol=1e-5, rtol=1e-4)
    # nothing attends to what the last layer's MLP adds
    for site in ("mlp_out", "resid_post"):
        torch.testing.assert_close(found.effects(site)[2], exact.effects(site)[2], atol=1e-5, rtol=1e-4)


def halved(naive: NaiveAttribution, cells: Any, halves: Any) -> Tensor:
    """Derivatives in a model that differs from ours in its gradients only."""
    rows = []
    for cell in cells:
        share = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        place, change = (cell.component, cell.layer or 0), naive.change(cell)

        def edit(value: Tensor, at: Any = place, share: Tensor = share, change: Tensor = change) -> Tensor:
            moved = value + share.view(-1, *[1] * (change.ndim - 1)) * change
            return halves[at](moved) if at in halves else moved

        edits = {**halves, place: edit}
        rows.append(torch.autograd.grad(naive.score(naive.run(edits)).sum(), share)[0])
    return torch.stack(rows)
