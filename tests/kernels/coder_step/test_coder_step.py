"""The sparse step against dense autograd, in values and every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.kernels import coder_step
from interp.kernels.coder_step import SparseLatents, latents, reference


def _weights(d_in: int, d_sae: int, d_out: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return {"W_enc": draw(d_sae, d_in), "b_enc": draw(d_sae), "W_dec": draw(d_sae, d_out)}


def _gradients(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


SHAPES = [
    # rows, d_in, d_sae, d_out, k
    (1, 1, 1, 1, 1),
    (3, 5, 7, 4, 1),
    (17, 8, 64, 8, 3),
    (64, 12, 256, 20, 4),
    (50, 3, 257, 5, 9),
    (8, 6, 32, 6, 32),
]


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize(("rows", "d_in", "d_sae", "d_out", "k"), SHAPES)
@pytest.mark.parametrize("how", ["top", "top_of_all", "positive"])
def test_a_step_equals_dense_autograd(
    rows: int,
    d_in: int,
    d_sae: int,
    d_out: int,
    k: int,
    how: str,
    dense: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latents, "SPARSE_SHARE", -1.0 if dense else 2.0)
    seed = rows + 31 * d_sae
    leaves = _weights(d_in, d_sae, d_out, seed, torch.float64)
    x = torch.randn(rows, d_in, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    leaves["x"] = x.requires_grad_()
    target = torch.randn(rows, d_out, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    W_enc, b_enc, W_dec = leaves["W_enc"], leaves["b_enc"], leaves["W_dec"]

    pre = coder_step.pre_activations(x, W_enc, b_enc)
    assert not pre.requires_grad
    if how == "top":
        kept = reference.top_reference(pre, k)
        values, places = coder_step.select_top(pre, k)
        chosen = SparseLatents.from_top(values, places, d_sae)
    elif how == "top_of_all":
        kept = reference.top_of_all_reference(pre, k * rows)
        flat = coder_step.select_top_of_all(pre, k * rows)
        chosen = SparseLatents.from_flat(pre.reshape(-1)[flat], flat, rows, d_sae)
    else:
        kept = pre > 0
        chosen = SparseLatents.from_mask(pre, kept)
    fired = coder_step.attach_encoder(chosen, x, W_enc, b_enc)
    fired = fired.with_values(fired.values.relu())
    out = coder_step.sparse_decode(fired, W_dec)
    loss = (out - target).square().sum() + fired.values.pow(3).sum()

    expected = reference.encode_reference(x, W_enc, b_enc, kept).relu()
    expected_out = reference.decode_reference(expected, W_dec)
    expected_loss = (expected_out - target).square().sum() + expected.pow(3).sum()
    torch.testing.assert_close(fired.to_dense(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, expected_out, rtol=1e-12, atol=1e-12)
    wanted = _gradients(expected_loss, leaves)
    for name, found in _gradients(loss, leaves).items():
        torch.testing.assert_close(
            found, wanted[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(1, 300),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_largest_are_found(rows: int, d_sae: int, k: int, ties: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, d_sae, generator=generator)
    if ties:
        scores = scores.round()
    k = min(k, d_sae)
    values, places = coder_step.select_top(scores, k)
    assert torch.equal(values, scores.gather(1, places))
    assert torch.equal(values.sort(dim=1, descending=True).values, scores.topk(k, dim=1).values)
    assert all(len(set(row)) == k for row in places.tolist())
    n = min(k * rows, scores.numel())
    flat = coder_step.select_top_of_all(scores, n)
    assert bool((flat.diff() > 0).all()) and len(flat) == n
    found = scores.reshape(-1)[flat].sort(descending=True).values
    assert torch.equal(found, scores.reshape(-1).topk(n).values)


def test_what_is_not_a_number_is_taken_for_the_largest() -> None:
    """As torch.topk does: the loss then is not finite, which training says."""
    scores = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    scores[1, 7] = torch.nan
    assert 512 + 7 in coder_step.select_top_of_all(scores, 8).tolist()
    assert 7 in coder_step.select_top(scores, 3)[1][1].tolist()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_rows_without_entries(n: int) -> None:
    """A row, and a latent, that nothing fires in."""
    W_dec = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dense = torch.zeros(4, 6)
    dense.view(-1)[torch.arange(n) * 2] = 1.5
    fired = SparseLatents.from_dense(dense)
    assert torch.equal(fired.to_dense(), dense)
    out = coder_step.sparse_decode(fired, W_dec)
    torch.testing.assert_close(out, dense @ W_dec)
    (grad,) = torch.autograd.grad(out.sum(), W_dec)
    torch.testing.assert_close(grad, dense.sum(0)[:, None].expand(6, 3))
    assert coder_step.dot_entries(fired, torch.ones(4, 3), W_dec).shape == (n,)


def test_products_of_entries_and_numbers_of_latents() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(9, 40, generator=generator, dtype=torch.float64)
    fired = SparseLatents.from_mask(scores, scores > 0.5)
    of_rows = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    of_latents = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    expected = (of_rows @ of_latents.T)[fired.rows, fired.latents]
    torch.testing.assert_close(coder_step.dot_entries(fired, of_rows, of_latents), expected)

    vector = torch.randn(40, generator=generator, dtype=torch.float64, requires_grad=True)
    taken = coder_step.take_by_latent(vector, fired)
    assert torch.equal(taken, vector[fired.latents])
    weights = torch.randn(len(taken), generator=generator, dtype=torch.float64)
    (found,) = torch.autograd.grad((taken * weights).sum(), vector)
    (wanted,) = torch.autograd.grad((vector[fired.latents] * weights).sum(), vector)
    torch.testing.assert_close(found, wanted)


def test_the_same_numbers_each_time() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 16, generator=generator)
    W = torch.randn(512, 16, generator=generator).requires_grad_()

    def once() -> tuple[Tensor, ...]:
        pre = coder_step.pre_activations(x, W)
        chosen = SparseLatents.from_top(*coder_step.select_top(pre, 8), 512)
        out = coder_step.sparse_decode(coder_step.attach_encoder(chosen, x, W), W)
        return out, *torch.autograd.grad(out.square().sum(), W)

    first = once()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


def test_parts_of_sparse_latents() -> None:
    scores = torch.randn(7, 30, generator=torch.Generator().manual_seed(2))
    fired = SparseLatents.from_mask(scores, scores > 0)
    dense = scores.relu()
    assert torch.equal(
        fired.select(fired.latents < 11).to_dense(), torch.where(torch.arange(30) < 11, dense, 0)
    )
    assert torch.equal(fired.select_rows(2, 5).to_dense(), dense[2:5])
    assert torch.equal(fired.active_counts(), (dense > 0).sum(0))
    by_latent = fired.by_latent
    assert torch.equal(fired.latents[by_latent.order], fired.latents.sort().values)
    assert torch.equal(by_latent.starts.diff(), (dense > 0).sum(0))
    doubled = fired.with_values(fired.values * 2)
    assert torch.equal(doubled.to_dense(), dense * 2) and doubled.by_latent is by_latent


def test_memory_that_was_used_before() -> None:
    draw = torch.Generator().manual_seed(4)
    work = coder_step.Workspace()
    W, b = torch.randn(9, 5, generator=draw), torch.randn(9, generator=draw)
    for rows, bias in ((7, b), (3, b), (7, None), (12, b)):
        x = torch.randn(rows, 5, generator=draw)
        out = work.take(rows, 9, W).fill_(torch.nan)
        found = coder_step.pre_activations(x, W, bias, out)
        assert found.data_ptr() == out.data_ptr()
        torch.testing.assert_close(found, coder_step.pre_activations(x, W, bias))
    big = work.take(12, 9, W)
    assert work.take(12, 9, W).data_ptr() == big.data_ptr()
    assert work.take(2, 9, W).data_ptr() == big.data_ptr()
    assert work.take(2, 9, W.double()).dtype == torch.float64
    assert copy.deepcopy(work)._held is None
