"""Attribution's sums as kernels, against their reference in fp64."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors
from torch import Tensor
from torch.library import opcheck

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.attribute import attribute_rows, attribute_units, ops, reference
from interp.kernels.attribute import triton as kernels

pytestmark = pytest.mark.triton

DTYPES = tuple(TOLERANCES)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, leaf: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape))
    value = torch.randn(*shape, generator=generator).to(dtype)
    return (value.cuda() if torch.cuda.is_available() else value).requires_grad_(leaf)


def masks(*shape: int, seed: int = 1) -> Tensor:
    return draw(*shape, seed=seed, leaf=False) > -0.4


def assert_close(operation: Any, inputs: dict[str, Any], dtype: torch.dtype) -> None:
    errors = kernel_errors(operation, inputs)
    assert {"out0", "d gradient"} <= errors.keys()
    # sums are in fp32 whatever is read
    assert errors.pop("out0") < TOLERANCES[torch.float32]
    assert max(errors.values()) < TOLERANCES[dtype], errors


GIVEN = [("both", dtype) for dtype in DTYPES] + [(which, torch.float32) for which in ("source", "base")]


def changes(which: str, *shape: int, dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {
        "source": None if which == "base" else draw(*shape, dtype=dtype, seed=2),
        "base": None if which == "source" else draw(*shape, dtype=dtype, seed=3),
    }


@pytest.mark.parametrize(("which", "dtype"), GIVEN, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (2, 5, 64), (2, 3, 4, 7), (1, 2, 1030), (2, 70, 3, 1)])
def test_rows(shape: tuple[int, ...], which: str, dtype: torch.dtype) -> None:
    inputs = changes(which, *shape, dtype=dtype)
    assert_close(attribute_rows, inputs | {"gradient": draw(*shape, dtype=dtype)}, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_points", [1, 3])
def test_rows_along_a_path_and_under_a_mask(n_points: int, dtype: torch.dtype) -> None:
    inputs = changes("both", 2, 5, 3, 9, dtype=dtype)
    inputs |= {"gradient": draw(n_points, 2, 5, 3, 9, dtype=dtype)}
    inputs |= {"weights": draw(n_points, leaf=False), "mask": masks(2, 5, 1)}
    assert_close(attribute_rows, inputs, dtype)
    assert not attribute_rows(**inputs)[~inputs["mask"].expand(2, 5, 3)].any()


@pytest.mark.parametrize(("which", "dtype"), GIVEN, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 45, 7), (3, 5, 2, 33), (1, 70, 130)], ids=str)
@pytest.mark.parametrize("kind", ["all", "sets", "columns"])
def test_units(shape: tuple[int, ...], which: str, kind: str, dtype: torch.dtype) -> None:
    batch, n_pos = shape[:2]
    inputs: dict[str, Any] = changes(which, *shape, dtype=dtype)
    inputs |= {"gradient": draw(*shape, dtype=dtype), "sets": None, "columns": None}
    if kind == "sets":
        inputs["sets"] = masks(3, batch, n_pos)
    if kind == "columns":
        inputs["columns"] = (
            torch.arange(4 * batch, device=inputs["gradient"].device).view(4, -1) % (n_pos + 1) - 1
        )
    assert_close(attribute_units, inputs, dtype)


@pytest.mark.parametrize("kind", ["sets", "columns"])
def test_units_along_a_path(kind: str) -> None:
    inputs: dict[str, Any] = changes("both", 2, 5, 33, dtype=torch.float32)
    inputs |= {"gradient": draw(4, 2, 5, 33), "weights": draw(4, leaf=False)}
    chosen = masks(2, 2, 5)
    inputs[kind] = chosen if kind == "sets" else chosen.int().argmax(-1)
    assert_close(attribute_units, inputs, torch.float32)


def test_units_without_columns_are_zero() -> None:
    x = draw(2, 3, 7, leaf=False)
    with use_kernels("triton"):
        none = attribute_units(x, x + 1, x, sets=torch.zeros(1, 2, 3, dtype=torch.bool, device=x.device))
        outside = attribute_units(x, x + 1, x, columns=torch.full((1, 2), -1, device=x.device))
    assert none.shape == outside.shape == (1, 2, 7)
    assert not none.any() and not outside.any()


@settings(max_examples=12)
@given(data=st.data())
def test_any_strides(data: st.DataObject) -> None:
    """Views of larger tensors, axes in any order, and entries that are repeated."""
    rest = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    d = data.draw(st.integers(1, 9))

    def view(seed: int) -> Tensor:
        order = data.draw(st.permutations(range(len(rest) + 1)))
        sizes = [*rest, d]
        whole = draw(*[2 * sizes[axis] + 1 for axis in order], seed=seed, leaf=False)
        whole = whole.permute([order.index(axis) for axis in range(len(order))])
        found = whole[tuple(slice(1, 1 + 2 * size, 2) for size in sizes)]
        repeated = data.draw(st.integers(0, len(rest)))
        return found.narrow(repeated, 0, 1).expand(sizes) if data.draw(st.booleans()) else found

    inputs: dict[str, Any] = {name: view(i) for i, name in enumerate(("source", "base", "gradient"))}
    errors = kernel_errors(attribute_rows, inputs)
    if len(rest) >= 2:
        errors |= {"units": kernel_errors(attribute_units, inputs)["out0"]}
    assert max(errors.values()) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
def test_nothing_to_add_up(shape: tuple[int, ...]) -> None:
    x = draw(*shape, leaf=False)
    for run in (attribute_rows, attribute_units):
        with use_kernels("triton"):
            found = run(x, x, x)
        with use_kernels("reference"):
            expected = run(x, x, x)
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert not found.any()


def test_what_is_masked_may_be_anything() -> None:
    """NaN and infinities stay in their rows, and outside of a mask they are not even read."""
    mask = torch.tensor([[True, False, True], [False, True, True]])
    for bad in (float("nan"), float("inf")):
        values = [draw(2, 3, 5, seed=i, leaf=False) for i in range(3)]
        mask = mask.to(values[0].device)
        for value in values:
            value[~mask] = bad
        leaves = [value.requires_grad_() for value in values]
        with use_kernels("triton"):
            rows = attribute_rows(*leaves, mask=mask)
            units = attribute_units(*leaves, sets=mask[None])
            (rows.sum() + units.sum()).backward()
        assert rows.isfinite().all() and units.isfinite().all() and not rows[~mask].any()
        for leaf in leaves:
            assert leaf.grad is not None and leaf.grad.isfinite().all() and not leaf.grad[~mask].any()
        values[0].requires_grad_(False)[0, 0, 2] = bad
        with use_kernels("triton"):
            rows, units = attribute_rows(*values, mask=mask), attribute_units(*values, sets=mask[None])
        assert not rows[0, 0].isfinite() and rows.isfinite().sum() == rows.numel() - 1
        assert not units[0, 0, 2].isfinite() and units.isfinite().sum() == units.numel() - 1


def test_equal_inputs_give_equal_bits() -> None:
    x = [draw(3, 150, 40, seed=i, leaf=False) for i in range(3)]
    with use_kernels("triton"):
        for run in (attribute_rows, attribute_units):
            assert torch.equal(run(*x), run(*x))


def test_few_long_strips_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """One set of many columns is added up by several programs; the parts are all there."""
    grids: list[tuple[int, ...]] = []
    inner = kernels._strips

    class Watched:
        def __getitem__(self, grid: Any) -> Any:
            grids.append(grid({"BLOCK_D": 256}))
            return inner[grid]

    monkeypatch.setattr(kernels, "_strips", Watched())
    for n_pos, n_splits in ((31, 1), (64, 2), (100, 4), (129, 5)):
        inputs: dict[str, Any] = changes("both", 1, n_pos, 10, dtype=torch.float32)
        assert_close(attribute_units, inputs | {"gradient": draw(1, n_pos, 10)}, torch.float32)
        assert grids.pop() == (1, n_splits)


def test_axes_that_lie_in_each_other_become_one() -> None:
    x = torch.zeros(4, 5, 6, 7)
    cut = x[:, 1:]
    assert kernels._join_axes((4, 5, 6), [x.stride()[:3]]) == ([1, 1, 120], [[0, 0, 7]])
    assert kernels._join_axes((4, 4, 6), [cut.stride()[:3], None]) == ([1, 4, 24], [[0, 210, 7], [0, 0, 0]])
    turned = x.transpose(0, 2).stride()[:3]
    assert kernels._join_axes((6, 5, 4), [turned]) == ([6, 5, 4], [[7, 42, 210]])


def test_mixed_dtypes() -> None:
    inputs = {
        "source": draw(2, 3, 5),
        "base": draw(2, 3, 5, dtype=torch.bfloat16),
        "gradient": draw(2, 3, 5, dtype=torch.float16),
    }
    assert_close(attribute_rows, inputs, torch.bfloat16)
    with use_kernels("triton"):
        leaves = list(inputs.values())
        grads = torch.autograd.grad(attribute_rows(*leaves).sum(), leaves)
    assert [grad.dtype for grad in grads] == [leaf.dtype for leaf in leaves]


def test_a_batch_is_added_up_as_columns_of_one_prompt() -> None:
    x = [draw(3, 4, 2, 5, seed=i, leaf=False) for i in range(3)]
    with use_kernels("triton"):
        found = attribute_units(*(value.reshape(1, 12, 2, 5) for value in x))
        each = attribute_units(*x)
    torch.testing.assert_close(found[:, 0], each.sum(1))


@pytest.mark.parametrize("name", ["rows", "rows masked", "units", "units of sets", "units of columns"])
def test_operators_are_registered_as_torch_wants_them(name: str) -> None:
    x, points, weights = draw(2, 3, 5), draw(2, 2, 3, 5), draw(2, leaf=False)
    wide = [value.unsqueeze(-2).detach().requires_grad_() for value in (x, draw(2, 3, 5, seed=5), x)]
    columns = torch.tensor([[0, -1]], device=x.device)
    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "rows": (ops.attribute_rows, (x, None, draw(2, 3, 5, seed=4), None, None)),
        "rows masked": (ops.attribute_rows, (None, x, points, weights, masks(2, 3))),
        "units": (ops.attribute_units, (*wide, None, None, None)),
        "units of sets": (ops.attribute_units, (*wide, None, masks(2, 2, 3), None)),
        "units of columns": (ops.attribute_units, (*wide, None, None, columns)),
    }
    operator, inputs = cases[name]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(operator, inputs, test_utils=checks)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a:UserWarning")
def test_compiled_is_the_same() -> None:
    x = [draw(2, 5, 7, seed=i) for i in range(3)]
    # what checks shapes in tests cannot be compiled
    rows, units = inspect.unwrap(attribute_rows), inspect.unwrap(attribute_units)

    def run(*values: Tensor) -> Tensor:
        return rows(*values).sum(0) @ units(*values)[0].sum(0)[:5]

    with use_kernels("triton"):
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        ours, usual = compiled(*x), run(*x)
        assert torch.equal(ours, usual)
        pairs = zip(torch.autograd.grad(ours, x), torch.autograd.grad(usual, x), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b)


def test_errors_name_what_came_and_what_was_expected() -> None:
    x, wrong = torch.zeros(2, 3, 5), torch.zeros(2, 3, 4)
    with pytest.raises(KernelError, match="neither a source nor a base"):
        attribute_rows(None, None, x)
    with pytest.raises(KernelError, match="neither a source nor a base"):
        reference.subtract(None, None)
    with pytest.raises(KernelError, match=r"source is \(2, 3, 5\) and base \(2, 3, 4\)"):
        attribute_rows(x, wrong, x)
    with pytest.raises(KernelError, match=r"gradient is \(2, 3, 4\); expected \(2, 3, 5\)"):
        attribute_units(x, None, wrong)
    with pytest.raises(KernelError, match=r"gradient is \(2, 3, 5\); expected \(4, 2, 3, 5\)"):
        attribute_rows(x, None, x, weights=torch.ones(4))
    with pytest.raises(KernelError, match=r"mask is \(3, 2\); expected \(2, 3\)"):
        inspect.unwrap(attribute_rows)(x, None, x, mask=torch.ones(3, 2).bool())
    with pytest.raises(KernelError, match=r"\[batch, pos, d\]"):
        inspect.unwrap(attribute_units)(x[0], None, x[0])
    with pytest.raises(KernelError, match="give one of them"):
        inspect.unwrap(attribute_units)(
            x, None, x, sets=torch.ones(1, 2, 3).bool(), columns=torch.zeros(1, 2, dtype=torch.long)
        )
    with pytest.raises(KernelError, match=r"sets of shape \(1, 3, 3\); expected \[where, 2, 3\]"):
        inspect.unwrap(attribute_units)(x, None, x, sets=torch.ones(1, 3, 3).bool())
    with pytest.raises(KernelError, match=r"columns of shape \(1, 3\); expected \[where, 2\]"):
        inspect.unwrap(attribute_units)(x, None, x, columns=torch.zeros(1, 3, dtype=torch.long))
    with use_kernels("triton"), pytest.raises(KernelError, match="at most 3 axes"):
        attribute_rows(*[torch.zeros(1, 1, 1, 1, 1)] * 3)
    huge = torch.zeros(1, 1, 1).expand(2**15, 2**15, 1)
    with use_kernels("triton"), pytest.raises(KernelError, match="1073741824 sums are more than"):
        attribute_rows(huge, None, huge)
