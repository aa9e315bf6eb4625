"""Rows in flight with updates added, and what torch and callers are told about injection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import TOLERANCES, kernel_errors, relative_error
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.inject import DirectionPatch, PositionPatch, add_updates, start_rows
from interp.kernels.norm import Norm

pytestmark = pytest.mark.triton

NORMS = ("none", "layernorm", "rmsnorm", "plus one")


def leaf(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(*shape, generator=draw).to(device, dtype).requires_grad_()


def add(norm: str, resid: Tensor, gain: Tensor, bias: Tensor, **updates: Tensor) -> tuple[Tensor, ...]:
    norms = {
        "none": None,
        "layernorm": Norm("layernorm", 1e-5, gain, bias),
        "rmsnorm": Norm("rmsnorm", 1e-6, gain),
        "plus one": Norm("rmsnorm", 1e-6, gain, plus_one=True),
    }
    made = add_updates(resid, list(updates.values()), norms[norm])
    return tuple(part for part in made if part is not None)


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 4, 36), (7, 65), (1, 1, 1), (0, 3, 8), (70, 16)], ids=str)
def test_updates_and_norm(
    shape: tuple[int, ...], norm: str, dtype: torch.dtype, device: torch.device
) -> None:
    if shape[-1] == 1 and norm == "layernorm":
        # of one entry the norm is the bias; its gradient is rounding
        norm = "none"
    d_model = shape[-1]
    for n in (1, 2):
        inputs = {"resid": leaf(*shape, device=device, dtype=dtype)}
        inputs |= {name: leaf(d_model, device=device, dtype=dtype) for name in ("gain", "bias")}
        inputs |= {f"update{i}": leaf(*shape, device=device, dtype=dtype, seed=i + 1) for i in range(n)}
        errors = kernel_errors(lambda **given: add(norm, **given), inputs)
        assert {"d resid", *(f"d update{i}" for i in range(n))} <= set(errors)
        assert max(errors.values()) <= TOLERANCES[dtype], errors


def test_updates_in_any_layout(device: torch.device) -> None:
    resid, update = (leaf(9, 6, 4, device=device, seed=i).transpose(0, 1) for i in (1, 2))
    inputs = {"resid": resid[:, ::2], "update": update[:, ::2]}
    inputs |= {name: leaf(8, device=device)[::2] for name in ("gain", "bias")}
    inputs = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    assert not inputs["resid"].is_contiguous()
    errors = kernel_errors(lambda **given: add("layernorm", **given), inputs)
    assert max(errors.values()) <= TOLERANCES[torch.float32], errors


def test_only_one_result_has_a_gradient(device: torch.device) -> None:
    """What nobody reads, the norm or the stream, leaves the other's gradient alone."""
    for taken in (0, 1):
        found: list[tuple[Tensor, ...]] = []
        for choice in ("triton", "reference"):
            inputs = [leaf(5, 12, device=device, seed=i) for i in range(2)]
            gain = leaf(12, device=device)
            with use_kernels(choice):  # type: ignore[arg-type]
                made = add_updates(inputs[0], inputs[1:], Norm("rmsnorm", 1e-6, gain))[taken]
            assert made is not None
            found.append(torch.autograd.grad(made.sin().sum(), [*inputs, gain], materialize_grads=True))
        for a, b in zip(*found, strict=True):
            assert relative_error(a, b) <= TOLERANCES[torch.float32]


def operations(device: torch.device) -> dict[str, tuple[Any, ...]]:
    """Arguments of every operation."""
    base, new, old = (leaf(2, 5, 12, device=device, seed=i) for i in range(3))
    tables = [leaf(2, 5, 3, 6, device=device, seed=i) for i in range(2)]
    directions = leaf(3, 6, 12, device=device)
    prompts, part = torch.tensor([0, 1, 1, 0], device=device), torch.tensor([2, 0, 2, 1], device=device)
    columns = torch.tensor([[0, 1, 2]] * 4, device=device)
    where = torch.tensor([[True, False, True]] * 4, device=device)
    gain, bias, stream = (
        leaf(12, device=device),
        leaf(12, device=device, seed=1),
        leaf(4, 3, 12, device=device),
    )
    keys, order = torch.tensor([4, 0, 4, 2], device=device).sort(stable=True)
    plain = {name: stream.detach().sin() * i for i, name in enumerate("abc", 1)}
    return {
        "inject_start": (
            (base, prompts, None, 1, 4, where, new, old, None, None, gain, bias, "layernorm", 1e-5),
            (base, prompts, columns, 0, 0, where, *tables, part, directions, gain, None, "rmsnorm", 1e-5),
            (base, prompts, columns, 0, 0, None, new, None, None, None, None, None, "none", 0.0),
        ),
        "inject_updates": ((stream, stream.detach(), None, gain, bias, "layernorm", 1e-5),),
        "inject_norm_backward": (
            (plain["a"], plain["b"], plain["c"], gain.detach(), "layernorm", 1e-5, True),
            (plain["a"], plain["b"], None, None, "rmsnorm", 1e-5, False),
        ),
        "inject_sum_by_key": ((plain["a"][:, 0], keys, order, 5, where[:, 1], True),),
        "inject_coefficients_backward": ((plain["a"], where, part, directions.detach()),),
        "inject_directions_backward": ((plain["a"], plain["b"][..., :6].contiguous(), part, 3),),
    }


def test_torch_knows_the_operations(device: torch.device) -> None:
    import interp.kernels.inject.ops  # noqa: F401

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with use_kernels("triton"):
        for name, calls in operations(device).items():
            for arguments in calls:
                operation = getattr(torch.ops.interp, name).default
                torch.library.opcheck(operation, arguments, test_utils=checks)


# on finding Triton once a process
@pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning")
def test_compiled_code_is_the_same(device: torch.device) -> None:
    base, new = leaf(2, 5, 12, device=device), leaf(2, 5, 3, 6, device=device)
    directions, gain = leaf(3, 6, 12, device=device), leaf(12, device=device)
    prompts, part = torch.tensor([0, 1, 1], device=device), torch.tensor([2, 0, 2], device=device)

    patch, norm = DirectionPatch(new, directions, part), Norm("rmsnorm", 1e-6, gain)

    def run(base: Tensor, patch: DirectionPatch, norm: Norm) -> Tensor:
        resid, normed = start_rows(base, prompts, slice(1, 4), patch, norm)
        assert normed is not None
        after, again = add_updates(resid, [normed], norm)
        assert again is not None
        return after.sin().sum() + again.cos().sum()

    leaves = (base, new, directions, gain)
    with use_kernels("triton"):
        eager = run(base, patch, norm)
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(base, patch, norm)
        found, truth = (torch.autograd.grad(value, leaves) for value in (compiled, eager))
    assert torch.equal(compiled, eager)
    for a, b in zip(found, truth, strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    base, prompts = leaf(2, 5, 12, device=device), torch.tensor([0, 1, 1], device=device)
    new, part = leaf(2, 5, 3, 6, device=device), torch.tensor([2, 0, 2], device=device)
    directions = leaf(3, 6, 12, device=device)
    with pytest.raises(KernelError, match=r"slice start:stop within the 5 .* got slice\(1, 6"):
        start_rows(base, prompts, slice(1, 6))
    with pytest.raises(KernelError, match="slice start:stop"):
        start_rows(base, prompts, slice(None, 3))
    with pytest.raises(KernelError, match="columns of 2 rows for 3 rows"):
        start_rows(base, prompts, torch.zeros(2, 4, dtype=torch.long, device=device))
    with pytest.raises(KernelError, match=r"table 'new' has \(2, 4\) prompts and .* run has \(2, 5\)"):
        start_rows(base, prompts, slice(0, 3), PositionPatch(base[:, 1:]))
    with pytest.raises(KernelError, match=r"patched places of shape \(3, 2\) for 3 rows of 3"):
        where = torch.ones(3, 2, dtype=torch.bool, device=device)
        start_rows(base, prompts, slice(0, 3), PositionPatch(base, None, where))
    for odd in (directions[:2], directions[..., :11]):
        with pytest.raises(KernelError, match=r"directions are \[1 or part, rank, d_model\]"):
            start_rows(base, prompts, slice(0, 3), DirectionPatch(new, odd, part))
    with pytest.raises(KernelError, match=r"'new' holds \(4,\) for each prompt and column; expected \(12,\)"):
        start_rows(base, prompts, slice(0, 3), PositionPatch(base[..., :4]))
    patch = DirectionPatch(new, directions, part)
    # no record is made of these where shapes are checked
    object.__setattr__(patch, "old", new[..., :5])
    with pytest.raises(KernelError, match=r"'old' holds \(3, 5\) .* expected \(3, 6\)"):
        start_rows(base, prompts, slice(0, 3), patch)
    with pytest.raises(KernelError, match=r"update of shape \(2, 4, 12\) for streams of \(2, 5, 12\)"):
        add_updates(base, [base, base[:, 1:]])
    with pytest.raises(KernelError, match="norm over 11 entries does not fit streams of 12"):
        add_updates(base, [base], Norm("rmsnorm", 1e-6, torch.ones(11, device=device)))
    with pytest.raises(KernelError, match="one update or two in one pass; got 3"):
        add_updates(base, [base] * 3)


def test_what_kernels_do_not_cover_runs_as_the_reference(device: torch.device) -> None:
    wide, half = leaf(1, 2, 16400, device=device), leaf(1, 2, 16400, device=device, dtype=torch.float16)
    with use_kernels("triton"):
        with pytest.raises(KernelError, match="d_model is 16400, above 16384"):
            add_updates(wide, [wide])
        with pytest.raises(KernelError, match="several dtypes"):
            add_updates(wide, [half])
        with pytest.raises(KernelError, match="float64"):
            add_updates(wide.double(), [wide.double()])
    with use_kernels("reference"):
        assert torch.equal(add_updates(wide, [wide])[0], wide + wide)
