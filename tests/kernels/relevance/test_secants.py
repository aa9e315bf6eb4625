"""The coefficients of activation functions, against a division and against their limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, ndtr
from torch import Tensor
from torch.nn import functional as F

from interp.errors import RuleError
from interp.kernels.relevance import SECANTS, secant
from interp.models.blocks.layers import ACTIVATIONS

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    # F.gelu loses all digits of its negative tail
    "gelu": lambda x: x * torch.from_numpy(ndtr(x.numpy())),
    "gelu_new": lambda x: x * torch.from_numpy(expit((8 / torch.pi) ** 0.5 * (x + 0.044715 * x**3).numpy())),
    "quick_gelu": lambda x: x * torch.from_numpy(expit(1.702 * x.numpy())),
    "silu": lambda x: x * torch.from_numpy(expit(x.numpy())),
    "relu": F.relu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}
SAME = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
"""Other spellings."""
LIMITS = {"tanh": (0.0, 0.0), "identity": (1.0, 1.0)}
"""At minus and plus infinity; 0 and 1 for the others."""
AT_ZERO = {"tanh": 1.0, "identity": 1.0}
"""One half for the others."""


each = pytest.mark.parametrize("act_fn", sorted(SECANTS))


def _act(act_fn: str) -> Callable[[Tensor], Tensor]:
    return ACTS[SAME.get(act_fn, act_fn)]


def test_every_activation_that_blocks_know_has_a_coefficient():
    assert set(SECANTS) == set(ACTIVATIONS) == set(ACTS) | set(SAME)


@pytest.mark.parametrize("act_fn", ["gelu", "gelu_new", "silu", "relu", "tanh"])
def test_the_references_are_those_of_torch(act_fn: str):
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    own = {"gelu": F.gelu, "gelu_new": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}
    torch.testing.assert_close(ACTS[act_fn](x), own.get(act_fn, getattr(torch, act_fn, None))(x))


@each
@given(x=st.floats(-50, 50).filter(lambda x: abs(x) > 1e-300))
def test_it_is_the_quotient(act_fn: str, x: float):
    """Relative to itself, the tail where an activation all but vanishes included."""
    at = torch.tensor([x], dtype=torch.float64)
    torch.testing.assert_close(secant(act_fn, at), _act(act_fn)(at) / at, rtol=1e-11, atol=1e-300)


@each
def test_around_the_smallest_numbers(act_fn: str):
    """On either side of where a division would lose digits, and of where a series takes over."""
    sizes = torch.cat(
        [torch.logspace(-300, 1, 400, dtype=torch.float64), 1e-3 + torch.linspace(-1e-9, 1e-9, 9)]
    )
    for x in (sizes, -sizes):
        torch.testing.assert_close(secant(act_fn, x), _act(act_fn)(x) / x, rtol=1e-12, atol=1e-300)


@each
def test_at_zero_it_is_the_limit(act_fn: str):
    """That from both sides; of ReLU, whose sides differ, the mean."""
    h = torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    sides = _act(act_fn)(h) / h
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for zero in (0.0, -0.0):
            found = secant(act_fn, torch.tensor([zero], dtype=dtype))
            assert float(found) == AT_ZERO.get(act_fn, 0.5), (dtype, zero)
            assert float(found) == pytest.approx(float(sides.mean()), abs=1e-8)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_far_out_it_is_finite(act_fn: str, dtype: torch.dtype):
    """No overflow in a cube, and no NaN; what is in half precision is computed in fp32."""
    far = [1e3, 1e4] if dtype == torch.float16 else [1e3, 1e4, 1e10, 1e15, 1e30]
    x = torch.tensor(far, dtype=dtype)
    below, above = LIMITS.get(act_fn, (0.0, 1.0))
    for sign, limit in ((-1, below), (1, above)):
        found = secant(act_fn, sign * x)
        assert found.isfinite().all()
        # tanh(x) / x goes to its limit as 1 / x
        near = 1 / x.double() if act_fn == "tanh" else torch.zeros(len(far), dtype=torch.float64)
        torch.testing.assert_close(found.double(), limit + near, rtol=0.01 if near.any() else 0, atol=0)


@each
@pytest.mark.parametrize(("dtype", "ulp"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_in_half_precision_only_the_result_is_rounded(act_fn: str, dtype: torch.dtype, ulp: float):
    x = (4 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).to(dtype)
    x = x[x != 0]
    found, wide = secant(act_fn, x), x.double()
    assert found.dtype == dtype
    exact = _act(act_fn)(wide) / wide
    # half a unit in the last place, and as little as fp32 is off before; fp16 goes in steps of 2**-24 near 0
    torch.testing.assert_close(found.double(), exact, rtol=1.01 * ulp, atol=1.01 * 2**-25)


@each
def test_a_shape_is_kept_and_nothing_written(act_fn: str):
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))[..., ::2]
    before = x.clone()
    assert secant(act_fn, x).shape == x.shape
    assert torch.equal(x, before)


def test_an_unknown_name_is_told():
    with pytest.raises(RuleError, match=r"unknown activation function 'gelu_nwe'; did you mean 'gelu_new'"):
        secant("gelu_nwe", torch.zeros(1))
