"""Rows that attend to a shared prefix and to themselves: kernel beside reference, values and every gradient."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors, relative_error
from prefix_rows import draw_heads, draw_rows
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.prefix_attention import Rows, attend_prefix, plan_queries

pytestmark = pytest.mark.triton

WAVES = [([0, 2, 0, 2], 5), ([], 7), ([1], 0), ([2, 1], 9)]
"""Prompts in turn, nobody, nothing before, and another first column."""


def padding(side: str, n_pos: int, device: torch.device) -> Tensor:
    real = torch.ones(3, n_pos, dtype=torch.bool, device=device)
    if side == "left":
        real[0, :6], real[2, :1] = False, False
    else:
        real[0, -3:], real[2, -1:] = False, False
    return real


def check(rows: list[Rows], given: dict[str, Any], dtype: torch.dtype, **options: Any) -> None:
    def attend(**tensors: Tensor) -> Tensor:
        return attend_prefix(**tensors, rows=rows, **{"scale": 0.6, **options})

    errors = kernel_errors(attend, given)
    assert max(errors.values()) <= TOLERANCES[dtype], errors
    assert len(errors) == 1 + sum(tensor.requires_grad for tensor in given.values())


@pytest.mark.parametrize(
    "dtype, heads, d_head, n_columns, soft_cap, window, side",
    [
        (torch.float32, (2, 2), 10, None, None, None, None),
        (torch.float32, (3, 1), 16, 2, 2.0, 4, "left"),
        (torch.bfloat16, (2, 1), 7, None, None, 3, "right"),
        (torch.float16, (2, 2), 20, None, 3.0, None, "left"),
    ],
    ids=["plain", "grouped-capped-window-left", "bf16-window-right", "fp16-capped-left"],
)
def test_values_and_gradients(
    dtype: torch.dtype,
    heads: tuple[int, int],
    d_head: int,
    n_columns: int | None,
    soft_cap: float | None,
    window: int | None,
    side: str | None,
    device: torch.device,
) -> None:
    rows = draw_rows(WAVES, 12, n_columns, device)
    given = draw_heads(rows, 3, *heads, d_head, dtype)
    real = None if side is None else padding(side, 12, device)
    check(rows, given, dtype, soft_cap=soft_cap, window=window, real=real)


@pytest.mark.parametrize("window", [None, 90])
def test_a_prefix_of_many_tiles(window: int | None, device: torch.device) -> None:
    """Tiles that all queries see, that some see, and that a window hides; a block of one prompt, and one of two."""
    prompts = [0, 1, 0] if window else [0, 0]
    rows = draw_rows([(prompts, 200), ([0], 130)], 203, None if window else 2, device)
    given = draw_heads(rows, 2, 1, 1, 8)
    check(rows, given, torch.float32, window=window)


def test_more_rows_than_a_block_holds(device: torch.device) -> None:
    """Prompts which begin within a block of queries, in all orders, and one that nobody changes."""
    rows = draw_rows([([3, 0, 1] * 9, 4)], 8, None, device)
    check(rows, draw_heads(rows, 4, 1, 1, 4), torch.float32)


def test_size_one_everywhere(device: torch.device) -> None:
    rows = draw_rows([([0], 1)], 2, None, device)
    check(rows, draw_heads(rows, 1, 1, 1, 1), torch.float32, real=torch.ones(1, 2).bool().to(device))


def test_strides(device: torch.device) -> None:
    rows = draw_rows([([0, 1], 4)], 7, None, device)
    given = draw_heads(rows, 2)
    turned = {
        name: x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        for name, x in given.items()
    }
    turned["v"] = given["v"].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert not any(x.is_contiguous() for x in turned.values())
    assert turned["v"].stride(-1) != 1
    check(rows, turned, torch.float32)
    real = padding("left", 7, device)[:2].T.contiguous().T
    assert real.stride(-1) != 1
    check(rows, given, torch.float32, real=real)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_rows(data: st.DataObject) -> None:
    """Whatever prompts, first columns, padding and window."""
    stop = data.draw(st.integers(1, 20))
    wave = st.tuples(st.lists(st.integers(0, 2), max_size=4), st.integers(0, stop - 1))
    waves = data.draw(st.lists(wave, min_size=1, max_size=3))
    rows = draw_rows(waves, stop, data.draw(st.sampled_from([None, 1, 3])), seed=stop)
    given = {name: x.detach() for name, x in draw_heads(rows, 3, 2, 1, 4).items()}
    real = torch.rand(3, stop, generator=torch.Generator().manual_seed(stop)) < 0.7
    window = data.draw(st.sampled_from([None, 1, 4]))
    options: dict[str, Any] = dict(rows=rows, scale=1.0, window=window, real=real)
    with use_kernels("triton"):
        found = attend_prefix(**given, **options)
    with use_kernels("reference"):
        truth = attend_prefix(**{name: x.double() for name, x in given.items()}, **options)
    assert relative_error(found, truth) < TOLERANCES[torch.float32]


def test_without_rows(device: torch.device) -> None:
    for rows in ([], draw_rows([([], 3)], 5, None, device), draw_rows([([0, 1], 3)], 5, 0, device)):
        given = draw_heads(rows, 2)
        with use_kernels("triton"):
            z = attend_prefix(**given, rows=rows, scale=1.0)
            assert z.shape == (0, 2, 8)
            z.sum().backward()
        assert all(x.grad is None or not x.grad.any() for x in given.values())


def test_only_the_gradients_that_are_wanted(device: torch.device) -> None:
    """A frozen base run costs no gradient, and what is asked for is the same without the rest."""
    rows = draw_rows([([0, 1, 1], 3)], 6, None, device)
    given = draw_heads(rows, 2)
    with use_kernels("triton"):
        every = torch.autograd.grad(attend_prefix(**given, rows=rows, scale=1.0).sum(), list(given.values()))
        for wanted in (("q",), ("k",), ("prefix_v",)):
            some = {name: x.detach().requires_grad_(name in wanted) for name, x in given.items()}
            attend_prefix(**some, rows=rows, scale=1.0).sum().backward()
            for (name, x), whole in zip(some.items(), every, strict=True):
                assert torch.equal(x.grad, whole) if name in wanted else x.grad is None


def test_a_prompts_queries_in_parts(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few columns fill a GPU only where several programs share a prompt's queries."""
    from interp.kernels.prefix_attention.gradients import triton

    assert [triton.count_parts(*x) for x in ((1, 512), (1, 4096), (1, 10**6), (300, 10**6))] == [1, 4, 16, 1]
    monkeypatch.setattr(triton, "count_parts", lambda n_programs, n_queries: 4)
    rows = draw_rows([([0, 1, 0] * 10, 3)], 8, None, device)
    check(rows, draw_heads(rows, 2, 1, 1, 4), torch.float32)


def test_equal_bits_and_one_plan_for_many_layers(device: torch.device) -> None:
    rows = draw_rows(WAVES, 12, None, device)
    given, real = draw_heads(rows, 3, 2, 1), padding("left", 12, device)
    with use_kernels("triton"):
        plan = plan_queries(rows, real, 4)
        made = []
        for each in (None, None, plan):
            z = attend_prefix(**given, rows=rows, scale=1.0, window=4, real=real, plan=each)
            made.append([z, *torch.autograd.grad(z.square().sum(), list(given.values()))])
    for first, *others in zip(*made, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("place", ["q", "k", "v", "prefix_k", "prefix_v"])
def test_what_is_not_finite_stays_with_who_sees_it(place: str, device: torch.device) -> None:
    """Rows share blocks, keys and prompts; a diverged one must not take others with it."""
    rows = draw_rows([([0, 1, 0], 4)], 7, None, device)
    given = {name: x.detach() for name, x in draw_heads(rows, 2, 2, 1).items()}
    sees = torch.zeros(9, dtype=torch.bool)
    broken = {name: x.clone() for name, x in given.items()}
    if place.startswith("prefix"):
        broken[place][0, 0, 2, 3] = float("inf") if place == "prefix_v" else float("nan")
        sees[:3] = sees[6:] = True
    else:
        # the second column of the second row
        broken[place][4, 0, 3] = float("nan")
        sees[4 if place == "q" else slice(4, 6)] = True
    leaves = {name: x.requires_grad_() for name, x in broken.items()}
    with use_kernels("triton"):
        clean = attend_prefix(**given, rows=rows, scale=1.0)
        z = attend_prefix(**leaves, rows=rows, scale=1.0)
        dq = torch.autograd.grad(z.sum(), leaves["q"])[0]
    heads = 1 if place == "q" else 2
    assert torch.equal(z[~sees], clean[~sees])
    assert not z[sees][:, :heads].isfinite().any()
    assert dq[~sees].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_gradient_that_is_not_finite_stays_with_its_row(device: torch.device) -> None:
    rows = draw_rows([([0, 1, 0], 4)], 7, None, device)
    given = draw_heads(rows, 2, 1, 1)
    signal = torch.ones(9, 1, 8, device=device)
    signal[4] = float("nan")
    with use_kernels("triton"):
        z = attend_prefix(**given, rows=rows, scale=1.0)
        dq, dk, dv, dpk, dpv = torch.autograd.grad(z, list(given.values()), signal)
    theirs = torch.tensor([0, 1, 2, 6, 7, 8], device=device)
    assert all(x[theirs].isfinite().all() for x in (dq, dk, dv))
    assert all(x[0].isfinite().all() and not x[1, :, :4].isfinite().any() for x in (dpk, dpv))
    assert not dv[3:5].isfinite().any()
    assert not dk[3:5].isfinite().any()
    assert dv[5].isfinite().all(), "the third column is seen by nobody who is broken"


def test_operations_keep_their_contracts(device: torch.device) -> None:
    from interp.kernels.prefix_attention import ops

    rows = draw_rows([([0, 1], 3), ([1], 2)], 5, None, device)
    given, real = draw_heads(rows, 2, 2, 1, 4), torch.ones(2, 5, dtype=torch.bool, device=device)
    prompts, columns = [part.prompts for part in rows], [torch.empty(0).long().to(device)] * 2
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with use_kernels("triton"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(ops.plan, (prompts, columns, [3, 2], [5, 5], real, 2), test_utils=checks)
        tables = ops.plan(prompts, columns, [3, 2], [5, 5], real, 2)
        inputs = (*given.values(), real, *tables, 0.5, 2.0, 3)
        torch.library.opcheck(ops.attend, inputs, test_utils=checks)
        z, log_sum = (x.detach() for x in ops.attend(*inputs))
        inputs = (torch.ones_like(z), *(x.detach() for x in given.values()), real, *tables, z, log_sum)
        torch.library.opcheck(ops.attend_backward, (*inputs, 0.5, 2.0, 3, True, False), test_utils=checks)


def test_compiled(device: torch.device) -> None:
    rows = draw_rows([([0, 1], 3), ([1], 2)], 5, None, device)
    given = draw_heads(rows, 2, 2, 1, 4)

    def run(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
        return attend_prefix(q, k, v, prefix_k, prefix_v, rows, 0.5, 2.0, 3).square()

    with use_kernels("triton"), warnings.catch_warnings():
        # the compiler says of every cached function that it looks through it
        warnings.simplefilter("ignore")
        eager = run(**given)
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(**given)
        ours, theirs = (torch.autograd.grad(z.sum(), list(given.values())) for z in (compiled, eager))
    assert torch.equal(eager, compiled)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(q=torch.zeros(6, 8)), r"takes q \[query, head, d_head\]"),
        (dict(q=torch.zeros(6, 3, 8)), "multiple of the key heads"),
        (dict(prefix_v=torch.zeros(2, 2, 4, 8)), "heads that fit each other"),
        (dict(q=torch.zeros(6, 2, 8, dtype=torch.float16)), "of one dtype; got torch.float16"),
        (dict(q=torch.zeros(5, 2, 8)), "6 queries and 6 keys of their own; got 5 and 6"),
        (dict(prefix_k=torch.zeros(2, 2, 2, 8), prefix_v=torch.zeros(2, 2, 2, 8)), "begin at column 3 need"),
        (dict(soft_cap=0.0), "soft cap is above 0"),
        (dict(window=0), "at least 1 column"),
        (dict(real=torch.ones(2, 4, dtype=torch.bool)), "5 columns are no padding"),
        (dict(real=torch.ones(3, 5, dtype=torch.bool)), "for 2 prompts"),
        (dict(rows=[Rows(torch.zeros(3, dtype=torch.long), -1, 1)]), "begin at column 0 or later"),
    ],
)
def test_what_does_not_fit_is_said(changed: dict[str, Any], message: str) -> None:
    rows = draw_rows([([0, 1, 1], 3)], 5)
    given = {name: x.detach() for name, x in draw_heads(rows, 2).items()}
    with pytest.raises(KernelError, match=message):
        attend_prefix(**{"rows": rows, "scale": 1.0, **given, **changed})


def test_columns_and_plans_of_other_rows_are_refused() -> None:
    rows = draw_rows([([0, 1, 1], 3)], 5)
    given = {name: x.detach() for name, x in draw_heads(rows, 2).items()}
    few = Rows(rows[0].prompts, 3, 5)
    # no record is made of these where shapes are checked
    object.__setattr__(few, "columns", torch.full((2, 2), 4))
    with pytest.raises(KernelError, match="as many as the prompts"):
        attend_prefix(**given, rows=[few], scale=1.0)
    with (
        use_kernels("triton"),
        pytest.raises(KernelError, match=r"plan is of 4 queries and 4 keys, .* have 6 and 6"),
    ):
        attend_prefix(**given, rows=rows, scale=1.0, plan=plan_queries(draw_rows([([0, 1], 3)], 5)))


def test_heads_that_no_kernel_covers() -> None:
    rows = draw_rows([([0], 1)], 2)
    for sizes, message in (((1, 1, 257), "d_head is 257"), ((17, 1, 2), "17 query heads share a key head")):
        given = draw_heads(rows, 1, *sizes)
        with use_kernels("triton"), pytest.raises(KernelError, match=message):
            attend_prefix(**given, rows=rows, scale=1.0)
        assert attend_prefix(**given, rows=rows, scale=1.0).isfinite().all()
    with use_kernels("triton"), pytest.raises(KernelError, match="no rows to plan for"):
        plan_queries([])


def test_every_shape_has_blocks_that_hold_its_heads() -> None:
    from interp.kernels.prefix_attention.dispatch import MOST_HEADS_OF_ONE_KEY
    from interp.kernels.prefix_attention.gradients.triton import make_configs as make_backward
    from interp.kernels.prefix_attention.triton import make_configs

    for block_d in (16, 32, 64, 128, 256):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            kinds = [make_configs(block_d, dtype, many) for many in (True, False)]
            for configs in (*kinds, make_backward(block_d, dtype)):
                assert 1 <= len(configs) <= 6
                assert all(config.kwargs["BLOCK_M"] >= MOST_HEADS_OF_ONE_KEY for config in configs)
