"""What the kernels' operations tell autograd and torch.compile about themselves."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from interp.kernels import coder_step, use_kernels
from interp.kernels.coder_step import ByLatent, SparseLatents

pytestmark = pytest.mark.triton

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def _entries(device: torch.device) -> SparseLatents:
    latents = torch.tensor([[0, 3], [2, 1], [3, 4]], device=device)
    values = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).to(device)
    return SparseLatents.from_top(values, latents, 6)


def test_each_operation(device: torch.device) -> None:
    from interp.kernels.coder_step.above.ops import above
    from interp.kernels.coder_step.jump.ops import jump, jump_backward
    from interp.kernels.coder_step.sums.ops import add_by_latent, dot, encode, sum_by_latent, sum_by_row
    from interp.kernels.coder_step.top.ops import top
    from interp.kernels.coder_step.top_of_all.ops import top_of_all

    entries = _entries(device)
    grouped, latents, starts = entries.by_latent, entries.latents, entries.starts
    draw = torch.Generator().manual_seed(1)
    scores, x = torch.randn(3, 6, generator=draw).to(device), torch.randn(3, 4, generator=draw).to(device)
    W = torch.randn(6, 4, generator=draw).to(device).requires_grad_()
    b = torch.rand(6, generator=draw).to(device).requires_grad_()
    values = entries.values.clone().requires_grad_()
    groups = (grouped.order, grouped.rows, grouped.starts)
    held = values.detach()
    calls = [
        (top, (scores, 2, None)),
        (top, (scores, 2, torch.arange(6, device=device) > 1)),
        (top_of_all, (scores, 5)),
        (dot, (latents, starts, x, W.detach())),
        (sum_by_latent, (held, latents, *groups, x)),
        (add_by_latent, (held, grouped.order, grouped.starts)),
        (sum_by_row, (values, latents, starts, W, *groups)),
        (sum_by_row, (values, latents, starts, W, None, None, None)),
        (encode, (held, x, W, b, latents, starts, *groups)),
        (encode, (held, x, W, None, latents, starts, None, None, None)),
        (jump, (values, latents, b, 0.3, False, grouped.order, grouped.starts)),
        (jump, (held, latents, b, 0.3, True, None, None)),
        (jump_backward, (held, held, b.detach(), grouped.order, grouped.starts, 0.3, False)),
    ]
    for op, args in calls:
        torch.library.opcheck(op, args, test_utils=CHECKS)
    # how many entries there are depends on the numbers
    torch.library.opcheck(above, (scores, torch.zeros(6, device=device)), test_utils=CHECKS)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a:UserWarning")
def test_a_compiled_step_is_the_eager_one(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    # what checks records and their methods in tests cannot be compiled
    for record in (SparseLatents, ByLatent):
        for name, member in list(vars(record).items()):
            if isinstance(member, property):
                monkeypatch.setattr(record, name, property(inspect.unwrap(member.fget)))  # type: ignore[arg-type]
            elif inspect.isfunction(member):
                monkeypatch.setattr(record, name, inspect.unwrap(member))
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, generator=draw).to(device)
    W_enc = torch.randn(10, 4, generator=draw).to(device).requires_grad_()
    b_enc = torch.randn(10, generator=draw).to(device).requires_grad_()
    W_dec = torch.randn(10, 4, generator=draw).to(device).requires_grad_()
    weights = [W_enc, b_enc, W_dec]

    def step(x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> Tensor:
        pre = coder_step.pre_activations(x, W_enc, b_enc)
        chosen = SparseLatents.from_top(*coder_step.select_top(pre, 3), 10)
        fired = coder_step.attach_encoder(chosen, x, W_enc, b_enc)
        fired = fired.with_values(coder_step.jump_relu(fired, b_enc.exp(), 0.5).relu())
        flat = coder_step.select_top_of_all(pre, 4)
        out = coder_step.sparse_decode(fired, W_dec)
        return (out - x).square().sum() + pre.reshape(-1)[flat].sum()

    with use_kernels("triton"):
        eager = step(x, *weights)
        wanted = torch.autograd.grad(eager, weights)
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(x, *weights)
        found = torch.autograd.grad(compiled, weights)
    assert torch.equal(compiled, eager)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
