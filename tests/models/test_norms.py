"""Norms' linear parts beside autograd through a norm written out, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.models.norms import apply_norm, norm_jvp, norm_vjp, pull_back, push_forward
from interp.models.traits import NormWeights, Traits

KINDS = ("layernorm", "rmsnorm", None)


def traits_of(norm: Any, plus_one: bool = False, eps: float = 1e-3) -> Traits:
    sizes = {
        "n_layers": 1,
        "n_heads": 1,
        "n_kv_heads": 1,
        "d_model": 5,
        "d_head": 5,
        "d_mlp": 0,
        "d_vocab": 2,
    }
    return Traits("gpt2", **sizes, n_ctx=4, norm=norm, norm_eps=eps, norm_plus_one=plus_one)


def written_out(x: Tensor, norm: NormWeights | None, traits: Traits, hold_scale: bool = False) -> Tensor:
    """The norm by its formula, one number at a time where it matters."""
    if traits.norm is None:
        return x
    if traits.norm == "layernorm":
        x = x - x.sum(-1, keepdim=True) / x.shape[-1]
    scale = (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + traits.norm_eps).sqrt()
    x = x / (scale.detach() if hold_scale else scale)
    if norm is None:
        return x
    x = x * (norm.w + 1 if traits.norm_plus_one else norm.w)
    return x if norm.b is None else x + norm.b


@st.composite
def situations(draw: st.DrawFn) -> tuple[Traits, NormWeights | None, Tensor, Tensor, Tensor]:
    """A norm, what enters it, a change of that, and a gradient at what leaves it."""
    rest = draw(st.sampled_from(((), (1,), (3,), (2, 3))))
    d = draw(st.sampled_from((1, 2, 7)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = draw(st.sampled_from(("none", "gain", "both")))
    norm = None if weights == "none" else NormWeights(random(d), random(d) if weights == "both" else None)
    traits = traits_of(draw(st.sampled_from(KINDS)), draw(st.booleans()), draw(st.sampled_from((1e-5, 0.5))))
    return traits, norm, 3 * random(*rest, d) + 1, random(*rest, d), random(*rest, d)


@given(situations())
def test_derivatives_are_those_of_autograd(
    situation: tuple[Traits, NormWeights | None, Tensor, Tensor, Tensor],
) -> None:
    traits, norm, x, change, gradient = situation
    pairs: list[tuple[bool, Callable[..., Tensor], Callable[..., Tensor]]] = [
        (False, norm_vjp, norm_jvp),
        (True, pull_back, push_forward),
    ]
    for hold_scale, back, forward in pairs:
        leaf = x.clone().requires_grad_()
        out = written_out(leaf, norm, traits, hold_scale)
        torch.testing.assert_close(apply_norm(x, norm, traits), out.detach())
        (expected,) = torch.autograd.grad(out, leaf, gradient)
        torch.testing.assert_close(back(gradient, x, norm, traits), expected, msg=back.__name__)
        # the forward map is the transpose of the backward one
        torch.testing.assert_close(
            (forward(change, x, norm, traits) * gradient).sum(),
            (change * expected).sum(),
            msg=forward.__name__,
        )


@given(situations())
def test_a_small_change_moves_the_output_by_its_derivative(
    situation: tuple[Traits, NormWeights | None, Tensor, Tensor, Tensor],
) -> None:
    traits, norm, x, change, _ = situation
    step = 1e-6
    slope = (apply_norm(x + step * change, norm, traits) - apply_norm(x - step * change, norm, traits)) / (
        2 * step
    )
    torch.testing.assert_close(norm_jvp(change, x, norm, traits), slope, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("map_through", [norm_vjp, norm_jvp, pull_back, push_forward])
def test_many_at_one_input(kind: Any, map_through: Callable[..., Tensor]) -> None:
    """One stream for several directions gives what each gives alone, in fp32 at least."""
    draw = torch.Generator().manual_seed(0)
    x, several = torch.randn(3, 5, generator=draw), torch.randn(4, 3, 5, generator=draw)
    norm, traits = NormWeights(torch.randn(5, generator=draw)), traits_of(kind)
    found = map_through(several, x, norm, traits)
    for one, expected in zip(found, several, strict=True):
        torch.testing.assert_close(one, map_through(expected, x, norm, traits))
    half = NormWeights(norm.w.bfloat16())
    assert map_through(several.bfloat16(), x.bfloat16(), half, traits).dtype == torch.float32
