"""Changes of writers times gradients at readers, as a kernel and in plain PyTorch."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors, relative_error
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.edge_scores import score_pairs, sum_by_place, sum_pairs

pytestmark = pytest.mark.triton

HALVES = (torch.float16, torch.bfloat16)


def draw(
    device: torch.device,
    sizes: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    strided: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """``changed``, ``gradient`` and ``base`` for sizes (writers, readers, prompts, columns, d_model)."""
    writers, readers, *rest = sizes
    generator = torch.Generator().manual_seed(seed)
    found = []
    for n in (writers, readers, writers):
        if strided:
            # every axis is cut out of a longer one, in another order
            wide = torch.randn(*(size + 1 for size in (*rest[::-1], n)), generator=generator)
            value = wide.to(device, dtype).permute(3, 2, 1, 0)[1:, 1:, 1:, 1:]
        else:
            value = torch.randn(n, *rest, generator=generator).to(device, dtype)
        found.append(value)
    return found[0], found[1], found[2]


def draw_reach(device: torch.device, n_writers: int, n_readers: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, n_writers + 1, (n_readers,), generator=generator).to(device)


def by_loops(changed: Tensor, gradient: Tensor, places: Tensor | None, n_places: int) -> Tensor:
    """[prompt, reader, writer, place], one number at a time."""
    x, g = changed.double().cpu(), gradient.double().cpu()
    out = torch.zeros(x.shape[1], len(g), len(x), n_places, dtype=torch.float64)
    for writer in range(len(x)):
        for reader in range(len(g)):
            for prompt in range(x.shape[1]):
                for pos in range(x.shape[2]):
                    place = 0 if places is None else int(places[prompt, pos])
                    if 0 <= place < n_places:
                        value = (x[writer, prompt, pos] * g[reader, prompt, pos]).sum()
                        out[prompt, reader, writer, place] += value
    return out


def test_the_reference_is_the_definition() -> None:
    changed, gradient, base = draw(torch.device("cpu"), (3, 4, 2, 5, 7))
    places = torch.tensor([[0, 1, 1, 2, -1], [2, 2, -1, 0, 5]])
    change = changed.double() - base.double()
    every = by_loops(change, gradient, None, 1)
    torch.testing.assert_close(score_pairs(changed, gradient, base=base).double(), every, atol=1e-5, rtol=0)
    found = sum_pairs(changed, gradient, base=base).double()
    torch.testing.assert_close(found, every.sum(0)[..., 0], atol=1e-5, rtol=0)
    found = score_pairs(changed, gradient, base=base, places=places, n_places=3).double()
    torch.testing.assert_close(found, by_loops(change, gradient, places, 3), atol=1e-5, rtol=0)
    reach = torch.tensor([0, 3, 1, 2])
    is_edge = torch.arange(3) < reach[:, None]
    found = score_pairs(changed, gradient, base=base, reach=reach).double()[..., 0]
    torch.testing.assert_close(found, every[..., 0] * is_edge, atol=1e-5, rtol=0)
    assert not found[:, ~is_edge].any()
    each = torch.rand(2, 4, 5)
    summed = sum_by_place(each, places, 3)
    torch.testing.assert_close(summed[1, :, 2], each[1, :, :2].sum(-1))


SIZES = [
    (1, 1, 1, 1, 1),
    (3, 2, 1, 4, 5),
    (17, 5, 3, 2, 37),
    (66, 3, 2, 1, 33),
    (2, 67, 1, 2, 65),
    (5, 130, 1, 1, 16),
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    for strided, with_base in ((False, False), (True, True)):
        changed, gradient, base = (x.requires_grad_() for x in draw(device, sizes, dtype, strided=strided))
        given = {"changed": changed, "gradient": gradient, "base": base if with_base else None}
        for operation in (score_pairs, sum_pairs):
            errors = kernel_errors(operation, given)
            assert max(errors.values()) < TOLERANCES[dtype], (operation.__name__, errors)
            # values keep what gradients, rounded to the dtype, lose
            assert errors["out0"] < (TOLERANCES[torch.float32] if not with_base else TOLERANCES[dtype]), (
                errors
            )


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("n_places", [1, 3])
def test_places_and_reach(dtype: torch.dtype, n_places: int, device: torch.device) -> None:
    sizes = (35, 4, 3, 6, 20)
    changed, gradient, base = (x.requires_grad_() for x in draw(device, sizes, dtype, strided=True))
    places = torch.randint(-1, n_places, sizes[2:4], generator=torch.Generator().manual_seed(4)).to(device)
    given = {
        "changed": changed,
        "gradient": gradient,
        "base": base,
        "reach": torch.tensor([0, 35, 1, 33], device=device),
        "places": places,
        "n_places": n_places,
    }
    errors = kernel_errors(score_pairs, given)
    assert max(errors.values()) < TOLERANCES[dtype], errors
    del given["places"], given["n_places"]
    for operation in (score_pairs, sum_pairs):
        errors = kernel_errors(operation, given)
        assert max(errors.values()) < TOLERANCES[dtype], errors


@pytest.mark.parametrize("reach", [torch.tensor([3]).expand(4), torch.tensor([1, 9, 2, 9, 0, 9, 4, 9])[::2]])
def test_a_reach_that_lies_apart(reach: Tensor, device: torch.device) -> None:
    changed, gradient = torch.randn(5, 2, 3, 8, device=device), torch.randn(4, 2, 3, 8, device=device)
    with use_kernels("triton"):
        found = sum_pairs(changed, gradient, reach=reach.to(device))
    expected = torch.einsum("rbpd,wbpd->rw", gradient.double(), changed.double())
    expected = torch.where(torch.arange(5, device=device) < reach.to(device)[:, None], expected, 0.0)
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_scores_beyond_the_reach_are_zero_and_gradients_do_not_see_them(device: torch.device) -> None:
    changed, gradient, _ = (x.requires_grad_() for x in draw(device, (70, 3, 1, 2, 8)))
    reach = torch.tensor([0, 66, 3], device=device, dtype=torch.int32)
    with use_kernels("triton"):
        found = sum_pairs(changed, gradient, reach=reach)
        at_changed, at_gradient = torch.autograd.grad(found.sum(), [changed, gradient])
    is_edge = torch.arange(70, device=device) < reach[:, None]
    assert (found[is_edge] != 0).all() and not found[~is_edge].any()
    assert not at_changed[66:].any() and at_changed[65].any()
    assert not at_gradient[0].any() and at_gradient[1].any()
    torch.testing.assert_close(at_gradient[2], changed[:3].sum(0))


def test_readers_of_one_tile_may_see_nothing_of_a_later_one(device: torch.device) -> None:
    """Tiles of writers that no reader sees are left out, whole tiles of readers among them."""
    changed, gradient, _ = draw(device, (130, 70, 1, 1, 8))
    reach = torch.cat([torch.full((64,), 3), torch.full((6,), 129)]).to(device)
    errors = kernel_errors(score_pairs, {"changed": changed, "gradient": gradient, "reach": reach})
    assert errors["out0"] < TOLERANCES[torch.float32]


@pytest.mark.parametrize("sizes", [(3, 2, 2, 5, 7), (3, 1, 1, 4, 70), (1, 1, 1, 7, 1)], ids=str)
@pytest.mark.parametrize("fewest", [1, 3])
def test_long_sums_are_split_among_programs(
    sizes: tuple[int, ...], fewest: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.kernels.edge_scores import triton as kernel

    monkeypatch.setattr(kernel, "FEWEST_STEPS", fewest)
    monkeypatch.setattr(kernel, "PROGRAMS", 5)
    changed, gradient, base = (x.requires_grad_() for x in draw(device, sizes))
    given = {"changed": changed, "gradient": gradient, "base": base}
    places = torch.arange(sizes[3], device=device).expand(sizes[2], -1) % 3
    for operation, options in ((sum_pairs, {}), (score_pairs, {"places": places, "n_places": 3})):
        errors = kernel_errors(operation, given | options, gradients=False)
        assert errors["out0"] < TOLERANCES[torch.float32], (options, errors)
        with use_kernels("triton"):
            assert torch.equal(operation(**given, **options), operation(**given, **options))


@pytest.mark.parametrize("empty", range(5))
def test_empty_operands_give_zeros(empty: int, device: torch.device) -> None:
    sizes = [3, 2, 2, 4, 5]
    sizes[empty] = 0
    changed, gradient, _ = (x.requires_grad_() for x in draw(device, tuple(sizes)))  # type: ignore[arg-type]
    places = torch.zeros(sizes[2:4], dtype=torch.long, device=device)
    with use_kernels("triton"):
        found = [
            sum_pairs(changed, gradient),
            score_pairs(changed, gradient),
            score_pairs(changed, gradient, places=places, n_places=2),
        ]
        at_changed = torch.autograd.grad(found[1].sum(), changed)[0]
    assert [tuple(x.shape) for x in found] == [
        (sizes[1], sizes[0]),
        (sizes[2], sizes[1], sizes[0], 1),
        (sizes[2], sizes[1], sizes[0], 2),
    ]
    assert not any(x.any() for x in found) and at_changed.shape == changed.shape


def test_a_place_that_no_column_has_scores_nothing(device: torch.device) -> None:
    changed, gradient, _ = draw(device, (3, 2, 2, 4, 5))
    # 5 is none of four places, and not the next prompt's second
    places = torch.tensor([[3, 5, 3, 0], [-1, -1, -1, -1]], device=device)
    with use_kernels("triton"):
        found = score_pairs(changed, gradient, places=places, n_places=4)
    assert found[0, :, :, [0, 3]].all() and not found[0, :, :, [1, 2]].any() and not found[1].any()
    torch.testing.assert_close(
        found.double().cpu(), by_loops(changed, gradient, places, 4), atol=1e-5, rtol=0
    )


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
def test_nan_and_infinity_stay_where_they_belong(device: torch.device) -> None:
    changed, gradient, _ = draw(device, (20, 18, 2, 3, 5))
    places = torch.tensor([[0, 1, 2], [1, -1, 0]], device=device)
    changed[4, 0, 1, 2] = float("nan")
    gradient[7, 1, 0, 0] = float("inf")
    changed[:, 1, 1] = float("nan")
    with use_kernels("triton"):
        found = score_pairs(changed, gradient, places=places, n_places=3)
        beyond = score_pairs(changed, gradient, reach=torch.full((18,), 4, device=device))
    odd = torch.zeros_like(found, dtype=torch.bool)
    odd[0, :, 4, 1] = odd[1, 7, :, 1] = True
    assert torch.equal(~found.isfinite(), odd)
    assert not beyond[0, :, 4].any() and beyond[0, :, :4].isfinite().all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_differences_of_large_numbers_do_not_overflow(dtype: torch.dtype, device: torch.device) -> None:
    big = torch.full((1, 1, 1, 16), 40000.0, dtype=dtype, device=device)
    with use_kernels("triton"):
        found = sum_pairs(big, torch.full_like(big, 0.5), base=-big)
    torch.testing.assert_close(found, big.float()[:, 0, 0, :1] * 16, rtol=1e-3, atol=0)


def test_operands_may_share_memory(device: torch.device) -> None:
    """One table cut and broadcast: strides of zero, and the writers of every other prompt."""
    table = torch.randn(6, 4, 3, 8, generator=torch.Generator().manual_seed(0)).to(device)
    changed, gradient = table[::2, ::2], table[1:2, 1:2].expand(5, 2, 3, 8)
    errors = kernel_errors(score_pairs, {"changed": changed, "gradient": gradient, "base": table[:3, ::2]})
    assert errors["out0"] < TOLERANCES[torch.float32]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_operands(data: st.DataObject, device: torch.device) -> None:
    sizes = tuple(data.draw(st.integers(1, most)) for most in (40, 20, 3, 4, 40))
    dtype = data.draw(st.sampled_from(list(TOLERANCES)))
    changed, gradient, base = draw(
        device, sizes, dtype, data.draw(st.integers(0, 9)), data.draw(st.booleans())
    )
    given: dict[str, Any] = {"changed": changed, "gradient": gradient}
    if data.draw(st.booleans()):
        given["base"] = base
    if data.draw(st.booleans()):
        given["reach"] = draw_reach(device, sizes[0], sizes[1])
    if data.draw(st.booleans()):
        n_places = data.draw(st.integers(1, 4))
        places = torch.randint(-1, n_places, sizes[2:4], generator=torch.Generator().manual_seed(0))
        given |= {"places": places.to(device), "n_places": n_places}
    with use_kernels("triton"):
        found = score_pairs(**given)
        assert torch.equal(found, score_pairs(**given))
    with use_kernels("reference"):
        wide = {
            k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in given.items()
        }
        truth = score_pairs(**wide)
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert relative_error(found, truth) < TOLERANCES[dtype]


@pytest.mark.parametrize("with_all", [False, True])
def test_the_operator_keeps_the_rules_of_pytorch(with_all: bool, device: torch.device) -> None:
    from interp.kernels.edge_scores.ops import edge_scores

    changed, gradient, base = (x.requires_grad_() for x in draw(device, (3, 2, 2, 2, 5), strided=with_all))
    extra = (None, None, None)
    if with_all:
        segment = torch.tensor([[0, 1], [-1, 2]], device=device)
        extra = (base, torch.tensor([3, 1], device=device), segment)  # type: ignore[assignment]
    n_segments = 4 if with_all else 2
    with use_kernels("triton"):
        torch.library.opcheck(
            edge_scores,
            (changed, gradient, *extra, n_segments),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a:UserWarning")
def test_compiled_code_gives_the_same(device: torch.device) -> None:
    changed, gradient, base = (x.requires_grad_() for x in draw(device, (4, 3, 2, 3, 6)))
    places = torch.tensor([[0, 1, 1], [1, -1, 0]], device=device)
    # what checks shapes in tests cannot be compiled
    by_prompt, summed = inspect.unwrap(score_pairs), inspect.unwrap(sum_pairs)

    def total(changed: Tensor, gradient: Tensor, base: Tensor, places: Tensor) -> Tensor:
        by_place = by_prompt(changed, gradient, base=base, places=places, n_places=2)
        return by_place.pow(2).sum() + summed(changed, gradient).sin().sum()

    given = (changed, gradient, base, places)
    with use_kernels("triton"):
        eager = total(*given)
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")(*given)
        torch.testing.assert_close(compiled, eager)
        ours, theirs = (torch.autograd.grad(x, given[:3]) for x in (compiled, eager))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_double_precision_is_the_references() -> None:
    changed, gradient, _ = (x.double() for x in draw(torch.device("cpu"), (3, 2, 2, 3, 4)))
    assert score_pairs(changed, gradient).dtype == torch.float64
    with use_kernels("triton"), pytest.raises(KernelError, match="float64 is not covered"):
        score_pairs(changed, gradient)


def test_operands_that_do_not_fit_are_refused(device: torch.device) -> None:
    changed, gradient, base = draw(device, (3, 2, 2, 4, 5))
    places = torch.zeros(2, 4, dtype=torch.long, device=device)
    with pytest.raises(KernelError, match=r"got changed \(3, 2, 4, 5\) and gradient \(2, 2, 3, 5\)"):
        score_pairs(changed, gradient[:, :, :3])
    with pytest.raises(KernelError, match=r"base has shape \(2, 2, 4, 5\)"):
        sum_pairs(changed, gradient, base=base[:2])
    with pytest.raises(KernelError, match="one integer for each of 2 readers"):
        sum_pairs(changed, gradient, reach=torch.ones(3, dtype=torch.long, device=device))
    with pytest.raises(KernelError, match="one dtype"):
        sum_pairs(changed, gradient.half())
    with pytest.raises(KernelError, match="needs `places`"):
        score_pairs(changed, gradient, n_places=2)
    with pytest.raises(KernelError, match="n_places=0"):
        score_pairs(changed, gradient, places=places, n_places=0)
    with pytest.raises(KernelError, match=r"places are given for \(2, 3\)"):
        score_pairs(changed, gradient, places=places[:, :3])


def test_longer_sums_are_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    import interp.kernels.edge_scores.triton as room

    compiled, splits = [], []

    def launch(*given: Any, **constants: Any) -> None:
        compiled.append(constants)
        splits.append(len(given[6]))

    monkeypatch.setattr(room, "_multiply_pairs", defaultdict(lambda: launch))
    for n_prompts in (64, 96, 200):
        changed, gradient = torch.empty(13, n_prompts, 4, 96), torch.empty(24, n_prompts, 4, 96)
        room.multiply_pairs(changed, gradient, None, None, None, 1)
    assert compiled[0] == compiled[1] == compiled[2] and len(set(splits)) == 3
