"""Sums over entries and their gradients against dense autograd in fp64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from kernel_checks import TOLERANCES, relative_error
from torch import Tensor

from interp.kernels import coder_step, use_kernels
from interp.kernels.coder_step import SparseLatents

pytestmark = pytest.mark.triton

NAMES = ("x", "W_enc", "b_enc", "W_dec")


def draw_entries(counts: Sequence[int], d_sae: int, hot: bool, device: torch.device) -> SparseLatents:
    """Some latents of every row, in no order; a hot one is in every row that has any."""
    draw = torch.Generator().manual_seed(len(counts))
    rows = []
    for count in counts:
        found = torch.randperm(d_sae, generator=draw)[:count]
        if hot and count and not bool((found == 1).any()):
            found[0] = 1
        rows.append(found)
    latents = torch.cat([*rows, torch.empty(0, dtype=torch.long)])
    starts = torch.tensor([0, *counts]).cumsum(0)
    return SparseLatents(
        torch.zeros(len(latents), device=device), latents.to(device), starts.to(device), d_sae
    )


CASES = [
    # entries of each row, d_sae, d, and whether one latent is in all
    ([1], 1, 1, False),
    ([0, 0], 5, 3, False),
    ([], 5, 3, False),
    ([0, 9, 1, 0, 4], 11, 20, False),
    ([1] * 19 + [3], 4, 9, True),
    ([40, 0], 41, 300, False),
]
RAGGED = CASES[3]


def _weights(n_rows: int, d_sae: int, d: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    shapes = {"x": (n_rows, d), "W_enc": (d_sae, d), "b_enc": (d_sae,), "W_dec": (d_sae, d + 2)}
    return {name: torch.randn(shape, generator=draw).to(device, dtype) for name, shape in shapes.items()}


def _signs(n_rows: int, d_sae: int, d: int, entries: SparseLatents) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(8)
    of_out = torch.randn(n_rows, d + 2, generator=draw)
    return of_out.to(entries.device), torch.randn(n_rows, d_sae, generator=draw).to(entries.device)


def _run_dense(
    entries: SparseLatents, given: dict[str, Tensor], signs: tuple[Tensor, Tensor]
) -> list[Tensor]:
    wide = {name: value.double().requires_grad_() for name, value in given.items()}
    kept = entries.with_values(torch.ones_like(entries.values)).to_dense()
    latents = (wide["x"] @ wide["W_enc"].T + wide["b_enc"]) * kept.double()
    out = latents @ wide["W_dec"]
    loss = (out * signs[0].double()).sum() + (latents * signs[1].double()).sum()
    return [out, *torch.autograd.grad(loss, [wide[name] for name in NAMES])]


def _run_kernels(
    entries: SparseLatents, given: dict[str, Tensor], signs: tuple[Tensor, Tensor]
) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    pre = (given["x"].double() @ given["W_enc"].double().T + given["b_enc"].double()).to(given["x"].dtype)
    chosen = entries.with_values(pre[entries.rows, entries.latents])
    with use_kernels("triton"):
        fired = coder_step.attach_encoder(chosen, leaves["x"], leaves["W_enc"], leaves["b_enc"])
        out = coder_step.sparse_decode(fired, leaves["W_dec"])
        sign = signs[1][entries.rows, entries.latents].to(out.dtype)
        loss = (out * signs[0].to(out.dtype)).float().sum() + (fired.values * sign).float().sum()
        return [out, *torch.autograd.grad(loss, [leaves[name] for name in NAMES])]


@pytest.mark.parametrize(
    ("dtype", "counts", "d_sae", "d", "hot"),
    [
        *((dtype, *case) for dtype in (torch.float32, torch.bfloat16) for case in CASES),
        (torch.float16, *RAGGED),
    ],
)
def test_a_step_equals_dense_autograd(
    dtype: torch.dtype,
    counts: list[int],
    d_sae: int,
    d: int,
    hot: bool,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from interp.kernels.coder_step.sums import triton as sums

    # so that a latent of few rows has several pieces
    monkeypatch.setattr(sums, "PIECE", 8)
    entries = draw_entries(counts, d_sae, hot, device)
    given = _weights(len(counts), d_sae, d, dtype, device)
    signs = _signs(len(counts), d_sae, d, entries)
    signs = (signs[0].to(dtype).float(), signs[1].to(dtype).float())
    found, truth = _run_kernels(entries, given, signs), _run_dense(entries, given, signs)
    for name, a, b in zip(("out", *NAMES), found, truth, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, b) < TOLERANCES[dtype], name
        assert bool((a[b == 0] == 0).all()), f"{name}: what nothing reaches is exactly zero"
    again = _run_kernels(entries, given, signs) if dtype != torch.float32 else found
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "bits differ from run to run"


@pytest.mark.parametrize("n", [63, 64, 65, 129, 400])
def test_latents_of_any_length(n: int, device: torch.device) -> None:
    """A latent that fires in all rows, about where a piece of the sorted list begins or ends."""
    latents = torch.stack([torch.full((n,), 2), torch.arange(n) % 2], dim=1)
    latents[:, 1] = torch.where(torch.arange(n) % 3 == 0, 3, latents[:, 1])
    draw = torch.Generator().manual_seed(0)
    entries = SparseLatents.from_top(
        torch.randn(n, 2, generator=draw).to(device), latents.to(device), d_sae=5
    )
    vectors = torch.randn(n, 3, generator=draw).to(device)
    with use_kernels("triton"):
        found = coder_step.sum_by_latent(entries, entries.values, vectors)
        added = coder_step.add_by_latent(entries, entries.values)
    dense = entries.to_dense().double()
    assert relative_error(found, dense.T @ vectors.double()) < TOLERANCES[torch.float32]
    assert relative_error(added, dense.sum(0)) < TOLERANCES[torch.float32]
    assert not bool(found[4].any())


def test_products_of_entries(device: torch.device) -> None:
    # so many that several programs share a row's
    entries = draw_entries([150, 0, 200, 1], 210, False, device)
    draw = torch.Generator().manual_seed(1)
    of_rows = torch.randn(37, 4, generator=draw).to(device).T
    of_latents = torch.randn(210, 74, generator=draw).to(device)[:, ::2]
    with use_kernels("triton"):
        found = coder_step.dot_entries(entries, of_rows, of_latents)
    truth = (of_rows.double() @ of_latents.double().T)[entries.rows, entries.latents]
    assert relative_error(found, truth) < TOLERANCES[torch.float32]


def test_numbers_of_latents(device: torch.device) -> None:
    entries = draw_entries([3, 0, 20, 1], 30, True, device)
    vector = torch.randn(30, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    weights = torch.randn(24, generator=torch.Generator().manual_seed(2)).to(device)
    with use_kernels("triton"):
        taken = coder_step.take_by_latent(vector, entries)
        (found,) = torch.autograd.grad((taken * weights).sum(), vector)
    assert torch.equal(taken, vector[entries.latents])
    truth = entries.with_values(weights).to_dense().sum(0)
    assert relative_error(found, truth) < TOLERANCES[torch.float32]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, in the interpreter
def test_what_is_not_a_number_stays_where_it_belongs(device: torch.device) -> None:
    latents = torch.tensor([7, 2, 0, 2, 5, 3, 0], device=device)
    entries = SparseLatents(torch.ones(7), latents, torch.tensor([0, 2, 5, 7], device=device), 8)
    values = torch.ones(7, device=device)
    values[0], values[5] = torch.nan, torch.inf
    W = torch.ones(8, 4, device=device)
    dense = entries.with_values(values).to_dense()
    with use_kernels("triton"):
        out = coder_step.sparse_decode(entries.with_values(values), W)
        of_latents = coder_step.sum_by_latent(entries, values, torch.ones(3, 4, device=device))
    assert out.isnan().any(1).tolist() == [True, False, False]
    assert out.isinf().all(1).tolist() == [False, False, True]
    torch.testing.assert_close(out[1], torch.full((4,), 3.0, device=device))
    bad = ~dense.isfinite().all(0)
    assert torch.equal(~of_latents.isfinite().all(1), bad) and int(bad.sum()) == 2
    # a value of zero reads no vector
    W[entries.latents[2]] = torch.nan
    values[2] = 0
    with use_kernels("triton"):
        out = coder_step.sparse_decode(entries.with_values(values), W)
    assert bool(out[1].isfinite().all())


def test_gradients_that_nobody_wants(device: torch.device) -> None:
    """Encoder or decoder alone; nothing is sorted for a forward without gradients."""
    entries = draw_entries([2, 3], 8, False, device)
    given = _weights(2, 8, 4, torch.float32, device)
    for names in ((), ("x",), ("W_enc",), ("b_enc",), ("W_dec",)):
        leaves = {name: value.clone().requires_grad_(name in names) for name, value in given.items()}
        fresh = SparseLatents(entries.values + 1, entries.latents, entries.starts, 8)
        with use_kernels("triton"):
            fired = coder_step.attach_encoder(fresh, leaves["x"], leaves["W_enc"], leaves["b_enc"])
            out = coder_step.sparse_decode(fired, leaves["W_dec"])
            assert out.requires_grad == bool(names)
            assert ("by_latent" in fresh._found) == bool(set(names) - {"x"})
            if names:
                (grad,) = torch.autograd.grad(out.sum(), leaves[names[0]])
                assert grad.shape == leaves[names[0]].shape and bool(grad.any())


def test_rows_in_parts(device: torch.device) -> None:
    """Nested dictionaries: each part of a row is a row of its own."""
    dense = torch.randn(4, 20, generator=torch.Generator().manual_seed(0)).relu().to(device)
    W = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).to(device)
    ends = (3, 4, 20)
    with use_kernels("triton"):
        entries = coder_step.select_above(dense, 0.0)
        parts = coder_step.sparse_decode(entries.split(ends), W).unflatten(0, (4, 3))
        kept = entries.keep(entries.latents < 4)
        counts = kept.active_counts()
    wanted = [dense[:, a:b] @ W[a:b] for a, b in ((0, 3), (3, 4), (4, 20))]
    torch.testing.assert_close(parts, torch.stack(wanted, dim=1))
    assert len(kept.values) == len(entries.values)
    assert torch.equal(counts[:4], (dense[:, :4] > 0).sum(0)) and not bool(counts[4:].any())


def test_dense_products_where_many_fire(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.kernels.coder_step import latents

    entries = draw_entries([4, 3], 8, False, device).with_values(torch.ones(7, device=device))
    with use_kernels("triton"):
        assert entries.sparse_pays
        monkeypatch.setattr(latents, "SMALL", 1)
        assert not entries.sparse_pays
        W = torch.ones(8, 2, device=device)
        torch.testing.assert_close(coder_step.sparse_decode(entries, W), entries.to_dense() @ W)
