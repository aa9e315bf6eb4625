"""The coder: its gradients, its steps and its codes, each against a second route."""

from __future__ import annotations

import pytest
import torch

from interp.circuits.discrete.coder import DiscreteCoder, loss_and_gradients, start_coder, train_coder

SIZES = [(1, 1, 1), (1, 5, 3), (7, 3, 11), (64, 16, 40)]


def make(d_in: int, d_sae: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> DiscreteCoder:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(d_in, d_sae), (d_sae,), (d_sae, d_in), (d_in,)]
    return DiscreteCoder(
        *(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)
    )


def rows(n: int, d_in: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain_loss(coder: DiscreteCoder, x: torch.Tensor, l1: float) -> torch.Tensor:
    latents = coder.encode(x)
    return ((coder.decode(latents) - x) ** 2).sum(1).mean() + l1 * latents.abs().sum(1).mean()


@pytest.mark.parametrize(("n", "d_in", "d_sae"), SIZES)
@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_gradients_are_those_of_autograd(n, d_in, d_sae, l1):
    coder, x = make(d_in, d_sae), rows(n, d_in)
    loss, gradients = loss_and_gradients(coder, x, l1)
    leaves = DiscreteCoder(*(tensor.clone().requires_grad_() for tensor in coder.tensors))
    expected = plain_loss(leaves, x, l1)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for found, leaf in zip(gradients.tensors, leaves.tensors, strict=True):
        torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_gradients_are_finite_differences(name):
    coder, x = make(4, 6, seed=3), rows(9, 4)
    gradient = getattr(loss_and_gradients(coder, x, 0.2)[1], name)
    weight, step = getattr(coder, name), 1e-6
    for i in range(0, weight.numel(), 5):
        flat = weight.view(-1)
        before = float(flat[i])
        values = []
        for sign in (1, -1):
            flat[i] = before + sign * step
            values.append(float(loss_and_gradients(coder, x, 0.2)[0]))
        flat[i] = before
        assert float(gradient.view(-1)[i]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


def test_latents_that_do_not_fire_get_no_gradient():
    coder = make(3, 4)
    coder.b_enc[2] = -100.0
    _, gradients = loss_and_gradients(coder, rows(8, 3), 0.1)
    assert float(gradients.W_enc[:, 2].abs().max()) == float(gradients.W_dec[2].abs().max()) == 0
    assert float(gradients.b_enc[2]) == 0


def test_training_is_adam_with_decoder_rows_of_length_1():
    mean = rows(1, 6, dtype=torch.float32)[0]
    data = rows(200, 6, seed=5, dtype=torch.float32) + mean
    coder = start_coder(mean, 10, torch.Generator().manual_seed(4))
    other = [tensor.clone().requires_grad_() for tensor in coder.tensors]
    picks = torch.randint(200, (30, 16), generator=torch.Generator().manual_seed(6))
    batches = iter(data[picks])
    train_coder(coder, lambda: next(batches), l1=0.1, steps=30, learning_rate=1e-2, progress=False)
    adam = torch.optim.Adam(other, lr=1e-2)
    for batch in data[picks]:
        adam.zero_grad()
        plain_loss(DiscreteCoder(*other), batch, 0.1).backward()
        adam.step()
        with torch.no_grad():
            other[2] /= other[2].norm(dim=1, keepdim=True)
    for found, expected in zip(coder.tensors, other, strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(10))


def test_training_finds_planted_directions():
    """Twelve directions, one of them in every row: all rows of one direction get one code of their own."""
    draw = torch.Generator().manual_seed(8)
    directions = torch.nn.functional.normalize(torch.randn(12, 24, generator=draw), dim=1)
    which = torch.randint(12, (600,), generator=draw)
    data = directions[which] * (0.8 + 0.4 * torch.rand(600, 1, generator=draw))
    coder = start_coder(data.mean(0), 40, draw)

    def batch() -> torch.Tensor:
        return data[torch.randint(600, (128,), generator=draw)]

    before = float(loss_and_gradients(coder, data, 0.1)[0])
    train_coder(coder, batch, l1=0.1, steps=600, learning_rate=3e-3, progress=False)
    assert float(loss_and_gradients(coder, data, 0.1)[0]) < 0.3 * before
    codes = coder.codes(data)
    of_direction = [set(codes[which == i].tolist()) for i in range(12)]
    assert all(len(found) == 1 for found in of_direction)
    assert len(set.union(*of_direction)) == 12


def test_codes_are_the_first_strongest_latent_or_none():
    W_enc = torch.tensor([[1.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    coder = DiscreteCoder(W_enc, torch.zeros(4), torch.zeros(4, 2), torch.zeros(2))
    x = torch.tensor([[[3.0, 1.0], [-2.0, 0.0]], [[0.0, 5.0], [0.5, 0.0]]])
    assert coder.codes(x).tolist() == [[1, 3], [4, 1]]


def test_codes_written_out():
    coder, x = make(5, 9, seed=2), rows(50, 5)
    coder.b_enc.sub_(2.0)
    expected = []
    for row in x:
        latents = [
            max(0.0, float((row - coder.b_dec) @ coder.W_enc[:, i] + coder.b_enc[i])) for i in range(9)
        ]
        expected.append(latents.index(max(latents)) if max(latents) > 0 else 9)
    found = coder.codes(x).tolist()
    assert found == expected
    assert 9 in found
    assert len(set(found)) > 3
