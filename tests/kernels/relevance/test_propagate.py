"""Backwards of relevance rules as kernels, against their chains of PyTorch operations in fp64."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from kernel_checks import TOLERANCES, kernel_errors
from torch import Tensor
from torch.library import opcheck

from interp.errors import KernelError, RuleError
from interp.kernels import use_kernels
from interp.kernels.norm import Norm, normalise
from interp.kernels.relevance import (
    SECANTS,
    Propagated,
    measure_gap,
    ops,
    propagate_activation,
    propagate_gate,
    propagate_norm,
    scale_gradient,
    secant,
)
from interp.kernels.relevance.triton import FORMS

pytestmark = pytest.mark.triton

DTYPES = tuple(TOLERANCES)
INTERPRETED_NAN = "ignore:invalid value encountered:RuntimeWarning"
"""NumPy, in which the interpreter computes, says when infinities become NaN."""
SHAPES = ((1, 1), (3, 7), (2, 3, 64), (1, 2, 1030))
KINDS: tuple[Literal["layernorm", "rmsnorm"], ...] = ("layernorm", "rmsnorm")


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, leaf: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape))
    value = torch.randn(*shape, generator=generator).to(dtype)
    return (value.cuda() if torch.cuda.is_available() else value).requires_grad_(leaf)


def assert_close(run: Callable[..., Any], inputs: dict[str, Any]) -> None:
    errors = kernel_errors(run, inputs)
    assert errors.pop("out0") == 0.0
    assert any(name.startswith("d ") for name in errors)
    dtype = next(value.dtype for value in inputs.values() if value is not None)
    assert max(errors.values()) < TOLERANCES[dtype], errors


def activation(act_fn: str, cap: float | None = None) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        found = propagate_activation(value, x, act_fn, cap, check=True)
        assert found.gap is not None
        return found.value, found.gap

    return run


def test_every_activation_function_has_a_form() -> None:
    assert FORMS.keys() == SECANTS.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act_fn", SECANTS)
def test_activations(act_fn: str, dtype: torch.dtype) -> None:
    for shape in SHAPES[:: 1 if act_fn == "gelu" else 2]:
        value = draw(*shape, dtype=dtype, seed=1, leaf=False)
        assert_close(activation(act_fn), {"value": value, "x": draw(*shape, dtype=dtype)})


@pytest.mark.parametrize("act_fn", SECANTS)
def test_coefficients_of_any_size_are_exact_to_their_own_size(act_fn: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([-1e4, -60.0, 1e-3, -9.9e-4, 1e-30, 60.0, 1e4])])
    x = x.to(draw(1)).detach().requires_grad_()
    with use_kernels("triton"):
        found = propagate_activation(x.detach(), x, act_fn).value
    (coefficients,) = torch.autograd.grad(found.sum(), x)
    expected = secant(act_fn, x.detach().double())
    torch.testing.assert_close(coefficients.double(), expected, rtol=2e-5, atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_soft_cap(dtype: torch.dtype) -> None:
    x = (8 * draw(3, 70, dtype=dtype, leaf=False)).requires_grad_()
    assert_close(activation("tanh", 5.0), {"value": draw(3, 70, dtype=dtype, seed=1, leaf=False), "x": x})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("act_fn", ["silu", "gelu_pytorch_tanh"])
def test_gates(act_fn: str, share: float, dtype: torch.dtype) -> None:
    def run(value: Tensor, gate: Tensor, up: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        found = propagate_gate(value, gate, up, act_fn, share, bias, check=True)
        assert found.gap is not None
        return found.value, found.gap

    for shape, has_bias in zip(SHAPES, (True, False, True, False), strict=True):
        inputs = {name: draw(*shape, dtype=dtype, seed=i) for i, name in enumerate(("value", "gate", "up"))}
        inputs["value"] = inputs["value"].detach()
        bias = draw(shape[-1], dtype=dtype, seed=7) if has_bias else None
        assert_close(run, inputs | {"bias": bias})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_norms(kind: Literal["layernorm", "rmsnorm"], plus_one: bool, dtype: torch.dtype) -> None:
    def run(value: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        found = propagate_norm(value, x, Norm(kind, 1e-3, gain, bias, plus_one), check=True)
        assert found.gap is not None
        return found.value, found.gap

    for i, shape in enumerate(((2, 1), (3, 7), (33, 2, 64), (1, 2, 1030))):
        inputs = {
            "value": draw(*shape, dtype=dtype, seed=1, leaf=False),
            "x": draw(*shape, dtype=dtype),
            "gain": draw(shape[-1], dtype=dtype, seed=2) if i % 4 else None,
            "bias": draw(shape[-1], dtype=dtype, seed=3) if i % 2 else None,
        }
        assert_close(run, inputs)


def test_a_gain_that_wants_no_gradient_keeps_no_input() -> None:
    """What a norm keeps for its backward is one number a row."""
    x = draw(5, 64)
    norm = Norm("layernorm", 1e-5, draw(64, leaf=False), draw(64, seed=1, leaf=False))
    with use_kernels("triton"):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            propagate_norm(draw(5, 64, leaf=False), x, norm, check=True)
    assert sorted(kept) == [5, 64]


def test_strides_do_not_matter() -> None:
    whole = draw(6, 10, 8, leaf=False)
    x, up = whole[::2, 1:6, :3].requires_grad_(), whole[1::2, :5, 4:7].requires_grad_()
    value = draw(3, 5, 8, leaf=False).transpose(0, 1)[:5, :3].transpose(0, 1)[..., 1:4]
    turned = draw(3, 5, 3, leaf=False).transpose(0, 1).contiguous().transpose(0, 1)
    with use_kernels("triton"):
        ours = [
            propagate_gate(value, x, up, "silu").value,
            propagate_activation(value, x, "gelu").value,
            propagate_norm(value, x, Norm("layernorm", 1e-5)).value,
        ]
    with use_kernels("reference"):
        right = [
            propagate_gate(value, x, up, "silu").value,
            propagate_activation(value, x, "gelu").value,
            propagate_norm(value, x, Norm("layernorm", 1e-5)).value,
        ]
    for a, b in zip(ours, right, strict=True):
        assert torch.equal(a, value) and a.stride() == b.stride()
        found, expected = ((t * turned).sum() for t in (a, b))
        (ours_x,), (right_x,) = (torch.autograd.grad(t, x, retain_graph=True) for t in (found, expected))
        torch.testing.assert_close(ours_x, right_x)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 3), (3, 0)], ids=str)
def test_nothing_at_all(shape: tuple[int, ...]) -> None:
    x, up = draw(*shape), draw(*shape)
    with use_kernels("triton"):
        runs = (
            propagate_gate(x.detach(), x, up, "silu", check=True),
            propagate_activation(x.detach(), x, "gelu", check=True),
            propagate_norm(x.detach(), x, Norm("layernorm", 1e-5), check=True),
        )
        for found in runs:
            assert found.value.shape == shape and found.gap is not None and not found.gap.any()
            (grad,) = torch.autograd.grad(found.value.sum(), x)
            assert grad.shape == shape


def run_each(value: Tensor, x: Tensor, up: Tensor) -> list[Propagated]:
    gain = draw(x.shape[-1], leaf=False, seed=9)
    return [
        propagate_gate(value, x, up, "silu", check=True),
        propagate_activation(value, x, "gelu_new", check=True),
        propagate_norm(value, x, Norm("layernorm", 1e-5, gain, gain), check=True),
        propagate_norm(value, x, Norm("rmsnorm", 1e-5), check=True),
    ]


@pytest.mark.filterwarnings(INTERPRETED_NAN)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    x, up, value = draw(4, 9), draw(4, 9, seed=2), draw(4, 9, seed=3, leaf=False)
    sign = draw(4, 9, seed=4, leaf=False)
    x.data[1, 3] = bad
    with use_kernels("triton"):
        found = run_each(value, x, up)
    with use_kernels("reference"):
        expected = run_each(value, x, up)
    for ours, right in zip(found, expected, strict=True):
        assert torch.equal(ours.value, value)
        (a,), (b,) = (torch.autograd.grad((t.value * sign).sum(), x) for t in (ours, right))
        torch.testing.assert_close(a, b, equal_nan=True)
        assert a[[0, 2, 3]].isfinite().all()


@pytest.mark.filterwarnings(INTERPRETED_NAN)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("choice", ["triton", "reference"])
def test_gaps_see_what_is_not_finite_on_one_side_only(choice: Any, bad: float) -> None:
    x, norm = draw(4, 9, leaf=False), Norm("rmsnorm", 1e-5)

    def gaps(value: Tensor, x: Tensor) -> list[list[float]]:
        with use_kernels(choice):
            found = propagate_norm(value, x, norm, True), propagate_activation(value, x, "relu", None, True)
        return [gap.tolist() for gap in (found[0].gap, found[1].gap) if gap is not None]

    (size, same), (_, other) = gaps(normalise(x, norm), x)
    assert same < 1e-6 and other > 0.1 and size == pytest.approx(float(normalise(x, norm).abs().max()))
    value = torch.relu(x)
    assert gaps(value, x)[1] == [float(value.max()), 0.0]
    value[2, 5] = bad
    assert [gap[1] for gap in gaps(value, x)] == [math.inf] * 2
    assert gaps(value, x)[1][0] == float(torch.relu(x)[value.isfinite()].max())
    x = x.clone()
    x[2, 5] = bad
    # of both sides it is no difference
    assert gaps(torch.relu(x), x)[1][1] == 0.0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_gaps_of_a_gate_are_those_of_what_it_computes(share: float) -> None:
    gate, up, bias = draw(3, 7, leaf=False), draw(3, 7, seed=1, leaf=False), draw(7, leaf=False)
    value = 2 * share * torch.nn.functional.silu(gate) * up + bias
    with use_kernels("triton"):
        right = propagate_gate(value, gate, up, "silu", share, bias, check=True).gap
        off = propagate_gate(value + 0.25, gate, up, "silu", share, bias, check=True).gap
    assert right is not None and off is not None
    assert right[1] < 1e-6 and float(off[1]) == pytest.approx(0.25, rel=1e-5)
    torch.testing.assert_close(right[0], value.abs().max())


def test_equal_inputs_give_equal_bits() -> None:
    x, up, value = draw(40, 33), draw(40, 33, seed=2), draw(40, 33, seed=3, leaf=False)
    sign = draw(40, 33, seed=5, leaf=False)
    with use_kernels("triton"):
        twice = [
            [(t.gap, torch.autograd.grad((t.value * sign).sum(), x)[0]) for t in run_each(value, x, up)]
            for _ in range(2)
        ]
    for (gap, grad), (gap_again, grad_again) in zip(*twice, strict=True):
        assert gap is not None and gap_again is not None
        assert torch.equal(gap, gap_again) and torch.equal(grad, grad_again)


def test_operators_are_registered_as_torch_wants_them() -> None:
    x, grad, up, gain = (draw(3, 7, seed=i, leaf=False) for i in range(4))
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.activation_backward, (grad, x, "tanh", 3.0)),
        (ops.activation_backward, (grad, x, "gelu", None)),
        (ops.gate_backward, (grad, x, up, "silu", 0.5)),
        (ops.units_gap, (up, x, grad, gain[0], "silu", None, 0.5)),
        (ops.norm_scale, (up, x, gain[0], None, 1e-5, True, False, True)),
        (ops.norm_backward, (grad, torch.ones(3, device=x.device), gain[0], True, True, torch.float16)),
    ]
    for operator, inputs in cases:
        opcheck(operator, inputs, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a:UserWarning")
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
def test_compiled_is_the_same() -> None:
    x, up, gain = draw(3, 7), draw(3, 7, seed=1), draw(7, seed=2)
    # what checks shapes in tests cannot be compiled
    gate, norm = inspect.unwrap(propagate_gate), inspect.unwrap(propagate_norm)
    activation, weights = inspect.unwrap(propagate_activation), Norm("layernorm", 1e-5, gain)

    def run(x: Tensor, up: Tensor) -> Tensor:
        normed = norm(x.sin(), x, weights).value
        gated = gate(normed.cos(), normed, up, "silu").value
        return activation(gated.exp(), gated, "tanh", 2.0).value.sum()

    with use_kernels("triton"):
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(x, up)
        usual = run(x, up)
    torch.testing.assert_close(compiled, usual)
    for a, b in zip(
        torch.autograd.grad(compiled, (x, up, gain)), torch.autograd.grad(usual, (x, up, gain)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_scaled_gradient() -> None:
    x = draw(3, 7)
    found = scale_gradient(x, 0.5)
    assert torch.equal(found, x)
    sign = draw(3, 7, leaf=False)
    assert torch.equal(torch.autograd.grad(found, x, sign)[0], 0.5 * sign)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x = draw(3, 7)
    with use_kernels("triton"):
        found = propagate_activation(x.detach(), x, "gelu").value
    (grad,) = torch.autograd.grad(found.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_errors_name_what_came_and_what_was_expected() -> None:
    x, wrong = torch.zeros(2, 3), torch.zeros(2, 4)
    for run in (
        lambda: inspect.unwrap(propagate_activation)(x, wrong, "gelu"),
        lambda: inspect.unwrap(propagate_gate)(x, x, wrong, "gelu"),
        lambda: inspect.unwrap(propagate_norm)(x, wrong, Norm("rmsnorm", 1e-5)),
    ):
        with pytest.raises(KernelError, match=r"value is \(2, 3\) and an input \(2, 4\)"):
            run()
    for run in (lambda: propagate_activation(x, x, "mish"), lambda: propagate_gate(x, x, x, "mish")):
        with pytest.raises(RuleError, match="mish"):
            run()
    wide = torch.zeros(1, 16385)
    with use_kernels("triton"), pytest.raises(KernelError, match="16385 entries are longer than 16384"):
        propagate_norm(wide, wide, Norm("rmsnorm", 1e-5))
    assert measure_gap(wide, wide).tolist() == [0.0, 0.0]
