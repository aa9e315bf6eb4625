"""Chosen entries are torch.topk's, also with ties, infinities and what is not a number; equal ones from the lowest
place on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import coder_step, use_kernels
from interp.kernels.coder_step import SparseLatents
from interp.kernels.coder_step.top import plan
from interp.kernels.coder_step.top_of_all.plan import plan_groups as plan_batch_groups

pytestmark = pytest.mark.triton

NUMBERS = [
    *((dtype, kind) for dtype in (torch.float32, torch.bfloat16) for kind in ("usual", "ties", "odd")),
    (torch.float16, "odd"),
]
"""Dtypes, which 16 bits share but for their infinity, and kinds of numbers."""
TOP = [(1, 1, 1), (3, 1, 1), (2, 7, 7), (3, 33, 4), (2, 300, 1), (2, 4099, 5), (1, 9000, 300), (1, 5000, 0)]


def _draw(rows: int, columns: int, dtype: torch.dtype, device: torch.device, kind: str) -> Tensor:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    if kind == "ties":
        scores = scores.round()
    if kind == "odd":
        # a row of one number, and whatever is not a usual number
        scores[0] = -torch.inf
        scores[-1, :: max(1, columns // 3)] = torch.inf
        scores[-1, -1] = -torch.nan
        scores[rows // 2, columns // 2] = -0.0
    return scores.to(device, dtype)


def _first_of_equals(scores: Tensor, k: int) -> Tensor:
    """Rising places of the k largest of a list, ties from the lowest place on."""
    wide = scores.double().nan_to_num(nan=1e300, posinf=1e200, neginf=-1e200) + 0.0
    return wide.sort(descending=True, stable=True).indices[:k].sort().values


@pytest.mark.parametrize(("rows", "columns", "k"), TOP)
@pytest.mark.parametrize(("dtype", "kind"), NUMBERS)
def test_the_largest_of_each_row(
    rows: int, columns: int, k: int, dtype: torch.dtype, kind: str, device: torch.device
) -> None:
    scores = _draw(rows, columns, dtype, device, kind)
    with use_kernels("triton"):
        values, places = coder_step.select_top(scores, k)
    wanted = torch.stack([_first_of_equals(row, k) for row in scores.cpu()])
    assert torch.equal(places.cpu(), wanted)
    torch.testing.assert_close(values, scores.gather(1, places), rtol=0, atol=0, equal_nan=True)
    ours, theirs = (found.double().nan_to_num(nan=1e300) for found in (values, scores.topk(k, dim=1).values))
    assert torch.equal(ours.sort().values, theirs.sort().values)


@pytest.mark.parametrize("fill", [0.0, 1.0, -torch.inf, torch.inf, torch.nan, -3.0])
def test_rows_of_one_number(fill: float, device: torch.device) -> None:
    scores = torch.full((1, 4500), fill, dtype=torch.bfloat16, device=device)
    if not fill:
        # which equals the other zero
        scores[:, ::2] = -0.0
    with use_kernels("triton"):
        values, places = coder_step.select_top(scores, 70)
        all_places = coder_step.select_top_of_all(scores, 70)
    assert torch.equal(places[0].cpu(), torch.arange(70)) and torch.equal(all_places.cpu(), torch.arange(70))
    assert torch.equal(values[0].isnan(), torch.full((70,), fill != fill, device=device))


@settings(max_examples=8)
@given(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
def test_any_size(rows: int, columns: int, k: int, seed: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).round().to(device)
    k = min(k, columns)
    with use_kernels("triton"), pytest.MonkeyPatch.context() as patch:
        # short rows are searched directly: here by groups
        patch.setattr(plan, "DIRECT", 0)
        _, places = coder_step.select_top(scores, k)
    assert torch.equal(places.cpu(), torch.stack([_first_of_equals(row, k) for row in scores.cpu()]))


@pytest.mark.parametrize("columns", [50, 4500])
@pytest.mark.parametrize("n_allowed", [6, 20])
def test_only_allowed_latents(columns: int, n_allowed: int, device: torch.device) -> None:
    """As for a loss of dead latents; exactly k may be allowed, and at the very end of the row."""
    draw = torch.Generator().manual_seed(3)
    scores = torch.randn(2, columns, generator=draw).to(device)
    allowed = torch.zeros(columns, dtype=torch.bool)
    allowed[torch.randperm(columns, generator=draw)[: n_allowed - 1]] = True
    allowed[-1] = True
    if int(allowed.sum()) < n_allowed:
        allowed[:1] = True
    allowed = allowed.to(device)
    scores[0, allowed] = -torch.inf
    with use_kernels("triton"):
        values, places = coder_step.select_top(scores, 6, allowed)
    assert bool(allowed[places].all())
    wanted = scores[1].masked_fill(~allowed, -torch.inf).topk(6).values
    assert torch.equal(values[1].sort(descending=True).values, wanted)
    with use_kernels("reference"):
        _, theirs = coder_step.select_top(scores, 6, allowed)
    assert torch.equal(places[1].sort().values, theirs[1].sort().values)


ALL = [(1, 1, 1), (3, 5, 15), (3, 5, 4), (2, 300, 0), (5, 1001, 40), (3, 4000, 30), (2, 4100, 400)]


@pytest.mark.parametrize("kind", ["usual", "ties", "odd"])
@pytest.mark.parametrize(("rows", "columns", "n"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_largest_of_all(
    rows: int, columns: int, n: int, dtype: torch.dtype, kind: str, device: torch.device
) -> None:
    scores = _draw(rows, columns, dtype, device, kind)
    with use_kernels("triton"):
        places = coder_step.select_top_of_all(scores, n)
    assert torch.equal(places.cpu(), _first_of_equals(scores.reshape(-1).cpu(), n))


def test_groups_that_fill_no_tile_of_a_large_matrix(device: torch.device) -> None:
    """A line that is not there begins so far behind 2**31 / 63 entries that the distance does not fit 32 bits."""
    from interp.kernels.coder_step.top_of_all.triton import _choose
    from interp.kernels.coder_step.triton import INFINITE

    scores = torch.zeros(34_200_064, dtype=torch.float16, device=device)
    scores[[70, 200]] = 1
    form = {"BITS": 16, "INFINITE": INFINITE[scores.dtype], "ARE_KEYS": False}
    groups = torch.tensor([0, 1, 3], device=device)
    assert _choose(scores.view(torch.int16), 3, form, groups, 64).tolist() == [0, 70, 200]


@pytest.mark.parametrize("kind", ["usual", "odd", "none", "all"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 33), (2, 4097), (1, 40000), (0, 5)])
def test_entries_above_a_limit(rows: int, columns: int, kind: str, device: torch.device) -> None:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
    limits = torch.rand(columns, generator=torch.Generator().manual_seed(2)).to(device)
    if kind == "odd":
        scores[:, ::2] = torch.nan
        scores[:, 1::3] = torch.inf
        limits[::5] = -torch.inf
    limits = limits.fill_(-100.0) if kind == "all" else limits + 100 if kind == "none" else limits
    with use_kernels("triton"):
        found = coder_step.select_above(scores, limits)
    wanted = SparseLatents.from_mask(scores, scores > limits)
    assert torch.equal(found.values, wanted.values) and torch.equal(found.latents, wanted.latents)
    assert torch.equal(found.starts, wanted.starts) and found.d_sae == columns
    with use_kernels("triton"):
        one = coder_step.select_above(scores, 0.5)
    assert torch.equal(one.latents, SparseLatents.from_mask(scores, scores > 0.5).latents)


def test_strides(device: torch.device) -> None:
    draw = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).to(device)
    for scores in (draw.T[::2, 3:], draw.T, draw.T.contiguous()[:, 1::3], draw.view(-1)[:40].expand(2, -1)):
        with use_kernels("triton"):
            _, places = coder_step.select_top(scores, 3)
            flat = coder_step.select_top_of_all(scores, 20)
            above = coder_step.select_above(scores, 0.7)
        assert torch.equal(places.cpu(), torch.stack([_first_of_equals(row, 3) for row in scores.cpu()]))
        assert torch.equal(flat.cpu(), _first_of_equals(scores.reshape(-1).cpu(), 20))
        assert torch.equal(above.to_dense(), torch.where(scores > 0.7, scores, 0))


def test_what_no_row_has() -> None:
    scores = torch.zeros(2, 5)
    with pytest.raises(KernelError, match="k must be 0 to 5"):
        coder_step.select_top(scores, 6)
    with pytest.raises(KernelError, match="n must be 0 to 10"):
        coder_step.select_top_of_all(scores, 11)
    assert plan.plan_groups(2**22, 2**15) is None
    with use_kernels("triton"), pytest.raises(KernelError, match="it holds no"):
        coder_step.select_top(torch.zeros(1, 2**17), 2**15)


def test_plans_hold_what_they_promise() -> None:
    for d_sae in (16, 4097, 16384, 24576, 32768, 131072, 2**20):
        for k in (1, 32, 64, 512, 1152):
            group = plan.plan_groups(d_sae, k)
            if group is not None and group > 1:
                assert -(-d_sae // group) >= k
                assert max(d_sae // group, k * group) <= plan.LARGEST_TILE
    assert plan_batch_groups(2**31, 2**30) is None and plan_batch_groups(2**31 - 1, 2**30) == 1
    assert plan_batch_groups(2**31, 2**19) == 64 and plan_batch_groups(2**36, 2**26) is None
    usual = [(d_sae, k) for d_sae in (16384, 32768, 131072) for k in (1, 64, 512, 1024)]
    assert None not in [plan.plan_groups(d_sae, k) for d_sae, k in usual]
    # a tile of more keys than a program holds: torch.topk
    assert plan.plan_groups(131072, 1152) is None and plan.plan_groups(16384, 1152) == 1
