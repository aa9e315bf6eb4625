"""Where gradients are known to mislead, on models in which the truth can be read off the weights.

Each test says what every method gives there, also where a method does no better than the others.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import interp
from interp.models.bundled.planted import planted_task
from interp.models.bundled.planted.wiring import Wiring
from interp.models.model import Model
from interp.models.plain import PlainConfig, PlainTransformer
from interp.results import PatchScores
from interp.tasks.base import PromptPairs

UNIT = torch.ones(1)
ONE_TOKEN = PromptPairs(torch.tensor([[2]]), torch.tensor([[1]]), torch.tensor([3]), torch.tensor([0]))
"""Token 1 where token 2 was; the answer is token 3's logit, as token 0 has none."""


@cache
def planted(name: str, method: str, direction: Any = "denoise") -> PatchScores:
    model = interp.load_model(name)
    sites = ["z", "q", "k", "v"] + (["mlp_post.n*"] if model.traits.d_mlp else [])
    task = planted_task(name, n=24, seed=5)
    return interp.patch(model, task, sites, method=method, direction=direction, progress=False)


def effect(name: str, method: str, site: str, layer: int, head: int, direction: Any = "denoise") -> float:
    """Recovered score, from nothing; the same sign in both directions."""
    found = float(planted(name, method, direction).effects(site)[layer, head])
    return found if direction == "denoise" else -found


DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])


@DIRECTIONS
@pytest.mark.parametrize(("name", "share"), [("micro", 0.25), ("planted-copy", 1 / 3)])
def test_a_saturated_softmax_hides_queries_and_keys(name: str, share: float, direction: Any) -> None:
    """A head that matches names attends to 98 % where it looks: it moves, but hardly at first."""
    for site in ("q", "k"):
        found = {
            method: effect(name, method, site, 1, 0, direction)
            for method in ("exact", "attribution", "attribution*", "relevance", "relevance:relp-ah", "ig")
        }
        assert found["exact"] == pytest.approx(share, abs=1e-3)
        assert 0 < found["attribution"] < 0.15 * share
        assert found["attribution*"] == pytest.approx(share, rel=0.02)
        assert found["ig"] == pytest.approx(share, rel=0.05)
        # the rules do not touch the softmax, or take it as given
        assert found["relevance"] == pytest.approx(found["attribution"], rel=0.05)
        assert found["relevance:relp-ah"] == pytest.approx(0.0, abs=1e-6)


@DIRECTIONS
@pytest.mark.parametrize("name", ["micro", "planted-copy"])
def test_the_qk_fix_reaches_no_further_than_queries_and_keys(name: str, direction: Any) -> None:
    """The heads that write what is matched come before the softmax; AtP* sees as little of them as AtP."""
    exact, plain, star, along = (
        effect(name, method, "z", 0, 0, direction)
        for method in ("exact", "attribution", "attribution*", "ig")
    )
    assert plain == pytest.approx(star, abs=1e-6) and plain < 0.15 * exact
    assert along == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", ["micro", "planted-copy"])
def test_with_two_layers_grad_drop_leaves_direct_effects_only(name: str) -> None:
    """By its formula: a layer's own gradients do not count, and there is but one other to drop."""
    scores = planted(name, "attribution*")
    sizes = scores["z"].magnitude
    assert sizes is not None
    assert float(sizes[0].max()) < 1e-5 < 0.02 < float(scores.effects("z")[0, 0])
    torch.testing.assert_close(sizes[1], scores.effects("z")[1].abs(), atol=1e-6, rtol=1e-4)


@DIRECTIONS
def test_a_kink_hides_half_of_an_exclusive_or(direction: Any) -> None:
    """``|heat + mode| - |heat - mode|``: two of the four ReLUs lie at their kinks, and to first order
    the answer depends on the weaker of both inputs alone."""
    found = {
        method: effect("micro", method, "z", 1, 1, direction)
        for method in ("exact", "attribution", "attribution*", "relevance", "ig", "ig:activation")
    }
    assert found["exact"] == pytest.approx(0.25, abs=1e-3)
    for method in ("attribution", "attribution*", "relevance"):
        assert found[method] == pytest.approx(0.0, abs=1e-6), method
    for method in ("ig", "ig:activation"):
        assert found[method] == pytest.approx(0.25, rel=0.05), method


@DIRECTIONS
def test_the_half_rule_gives_half_where_one_factor_moves(direction: Any) -> None:
    """``silu(4 g) u - silu(-4 g)`` is linear in either of its factors at these values: gradients are
    exact, and the Half-rule keeps half of what a moving factor does for the one that does not move."""
    for head in (0, 1):
        exact = effect("planted-gate", "exact", "z", 0, head, direction)
        assert effect("planted-gate", "attribution", "z", 0, head, direction) == pytest.approx(
            exact, abs=1e-3
        )
        assert effect("planted-gate", "relevance", "z", 0, head, direction) == pytest.approx(
            exact / 2, abs=1e-3
        )
        # and AttnLRP half of that to the values
        attnlrp = effect("planted-gate", "relevance:attnlrp", "v", 0, head, direction)
        assert attnlrp == pytest.approx(exact / 4, abs=1e-3)


def moved_by(model: Model, site: str, method: Any, direction: Any = "denoise") -> float:
    scores = interp.patch(model, ONE_TOKEN, site, method=method, direction=direction, progress=False)[site]
    return float(scores.raw.sum()) - (scores.corrupted if direction == "denoise" else scores.clean)


def size_of(model: Model, site: str, direction: Any) -> float:
    scores = interp.patch(model, ONE_TOKEN, site, method="attribution*", direction=direction, progress=False)[
        site
    ]
    assert scores.magnitude is not None
    return float(scores.magnitude.sum()) * abs(scores.clean - scores.corrupted)


def cancelling_model() -> Model:
    """A head writes its number to the answer; the next layer takes ``min(number, 1)`` away again."""
    sizes = {"n_layers": 2, "n_heads": 1, "d_head": 2, "d_mlp": 2, "vocab_size": 4, "n_ctx": 2, "act": "relu"}
    wiring = Wiring({"number": 1, "moved": 1, "answer": 1}, **sizes)
    wiring.embed(1, number=0.5)
    wiring.embed(2, number=4.0)
    wiring.unembed(3, answer=1.0)
    to_both = {"moved": torch.tensor([[1.0], [0.0]]), "answer": torch.tensor([[0.0], [1.0]])}
    wiring.head(0, 0, q={}, k={}, v={"number": torch.ones(1, 2)}, o=to_both)
    wiring.neuron(1, 0, reads={"moved": UNIT}, writes={"answer": -UNIT})
    wiring.neuron(1, 1, reads={"moved": UNIT}, writes={"answer": UNIT}, bias=-1.0)
    return interp.load_model(wiring.model)


def test_a_direct_and_an_indirect_effect_cancel() -> None:
    model = cancelling_model()
    for site in ("z[0]", "attn_out[0]@all", "v[0]"):
        assert moved_by(model, site, "exact") == pytest.approx(3.0, abs=1e-5)
        for method in ("attribution", "attribution*", "relevance", "relevance:relp-ah"):
            assert moved_by(model, site, method) == pytest.approx(0.0, abs=1e-5), method
        # without the layer that takes it away, all of the direct effect is left
        assert size_of(model, site, "denoise") == pytest.approx(3.5, abs=1e-5)
        assert moved_by(model, site, "ig") == pytest.approx(3.0, rel=0.05)
        # the other way the neurons have stopped, and nothing cancels
        assert moved_by(model, site, "exact", "noise") == pytest.approx(-3.0, abs=1e-5)
        assert moved_by(model, site, "attribution", "noise") == pytest.approx(-3.5, abs=1e-5)
        assert size_of(model, site, "noise") == pytest.approx(3.5, abs=1e-5)
    ranked = interp.patch(model, ONE_TOKEN, ["z", "mlp_out@all"], method="attribution*", progress=False).top(
        4
    )
    assert (ranked[0].name, ranked[0].effect) == ("L0H0", pytest.approx(0.0, abs=1e-6))
    plain = interp.patch(model, ONE_TOKEN, ["z", "mlp_out@all"], method="attribution", progress=False).top(4)
    assert plain[0].name == "mlp_out L1"


@cache
def one_neuron(act: str, base: float, source: float) -> Model:
    """The answer is one neuron of the token's number."""
    sizes = {"n_layers": 1, "n_heads": 1, "d_head": 1, "d_mlp": 1, "vocab_size": 4, "n_ctx": 2, "act": act}
    wiring = Wiring({"number": 1, "answer": 1}, **sizes)
    wiring.embed(1, number=base)
    wiring.embed(2, number=source)
    wiring.unembed(3, answer=1.0)
    wiring.neuron(0, 0, reads={"number": UNIT}, writes={"answer": UNIT})
    return interp.load_model(wiring.model)


@pytest.mark.parametrize(
    ("act", "base", "source", "exact", "attribution", "relevance"),
    [
        # asleep at the base run: no slope, and no share of nothing either
        ("relu", -2.0, 3.0, 3.0, 0.0, 0.0),
        ("gelu", -3.0, 3.0, 3.0, -0.072, 0.008),
        # falling asleep: both take it to go on below zero
        ("relu", 2.0, -2.0, -2.0, -4.0, -4.0),
        ("gelu_new", 3.0, -3.0, -3.0, -6.07, -5.993),
        # at the bottom of the curve the slope is zero, and the Identity-rule finds a part
        ("gelu", -0.75, 1.0, 1.011, 0.0, 0.397),
        ("silu", -1.278, 2.0, 2.04, 0.0, 0.714),
        # at the kink it takes the mean of both sides
        ("relu", 0.0, 3.0, 3.0, 0.0, 1.5),
        # where the neuron is awake throughout, all agree
        ("relu", 1.0, 3.0, 2.0, 2.0, 2.0),
        ("gelu", 3.5, 6.0, 2.5, 2.507, 2.499),
    ],
)
def test_one_neuron(
    act: str, base: float, source: float, exact: float, attribution: float, relevance: float
) -> None:
    model = one_neuron(act, base, source)
    for site in ("mlp_pre", "resid_pre@all", "embed@all"):
        found = {
            name: moved_by(model, site, name)
            for name in ("exact", "attribution", "attribution*", "relevance")
        }
        expected = {
            "exact": exact,
            "attribution": attribution,
            "attribution*": attribution,
            "relevance": relevance,
        }
        assert found == {name: pytest.approx(value, abs=2e-3) for name, value in expected.items()}, site
        for over in ("inputs", "activation"):
            along = moved_by(model, site, interp.IntegratedGradients(over, 40))
            assert along == pytest.approx(exact, abs=0.03 * abs(exact) + 1e-3), (site, over)


def normed_model(source: float) -> Model:
    """The answer is the token's number after the final RMSNorm, beside a small constant."""
    sizes = {"n_layers": 1, "n_heads": 1, "d_head": 1, "d_model": 2, "vocab_size": 4, "n_ctx": 2}
    module = PlainTransformer(PlainConfig(norm="rmsnorm", **sizes)).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if not name.endswith(".w"):
            parameter.zero_()
    module.embed.W_E[1] = torch.tensor([3.0, 0.1])
    module.embed.W_E[2] = torch.tensor([source, 0.1])
    module.unembed.W_U[0, 3] = 1.0
    return interp.load_model(module)


def test_a_norm_takes_the_slope_of_what_dominates_it() -> None:
    """The normalised number hardly moves as the number grows, until it changes its sign."""
    root = 2**0.5
    model = normed_model(-3.0)
    for site in ("resid_pre@all", "resid_post@all", "embed@all"):
        assert moved_by(model, site, "exact") == pytest.approx(-2 * root, abs=5e-3)
        assert moved_by(model, site, "attribution") == pytest.approx(0.0, abs=5e-3)
        assert moved_by(model, site, "relevance") == pytest.approx(-2 * root, abs=5e-3)
    # the path passes the origin, where the norm turns about within a thirtieth of it
    coarse, fine = (moved_by(model, "embed@all", interp.IntegratedGradients(steps=n)) for n in (10, 400))
    assert abs(coarse + 2 * root) > 1.0 and fine == pytest.approx(-2 * root, rel=0.02)


def test_the_ln_rule_sees_effects_that_the_norm_takes_away() -> None:
    """Twice the number is the same number once normalised: there the gradient is right, the rule wrong."""
    model = normed_model(6.0)
    assert moved_by(model, "embed@all", "exact") == pytest.approx(0.0, abs=2e-3)
    assert moved_by(model, "embed@all", "attribution") == pytest.approx(0.0, abs=3e-3)
    assert moved_by(model, "embed@all", "relevance") == pytest.approx(2**0.5, abs=5e-3)


def test_verifying_tells() -> None:
    """What a result says of itself follows how wrong it is."""
    agreement = {m: planted("micro", m).verify(top=None) for m in ("attribution", "attribution*", "ig")}
    pearson = {method: found.pearson.value for method, found in agreement.items()}
    assert pearson["ig"] > 0.99 and pearson["attribution"] < pearson["attribution*"] < 0.95, pearson
