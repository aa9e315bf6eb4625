"""Logits of a few tokens a row: the kernel against plain PyTorch in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.norm import Norm
from interp.kernels.readout import read_tokens, tokens_kernel_runs
from interp.kernels.readout.tokens import dispatch

pytestmark = pytest.mark.triton

KINDS = ("none", "layernorm", "rmsnorm", "gemma")


def make_norm(kind: str, gain: Tensor | None, bias: Tensor | None) -> Norm | None:
    if kind == "none":
        return None
    name = "layernorm" if kind == "layernorm" else "rmsnorm"
    return Norm(name, 1e-5, gain, bias if kind == "layernorm" else None, kind == "gemma")  # type: ignore[arg-type]


def make_inputs(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    n_rows: int = 5,
    k: int = 1,
    d_model: int = 20,
    d_vocab: int = 37,
    c: int = 2,
    n_prompts: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype).requires_grad_()

    tokens = torch.randint(0, d_vocab, (n_prompts, c), generator=draw)
    if c > 1 and n_prompts > 1:
        tokens[1, 1] = -1
    return {
        "resid": rand(n_rows, k, d_model),
        "W_U": rand(d_vocab, d_model).detach().T.requires_grad_(),
        "tokens": tokens.to(device),
        "prompts": torch.randint(0, n_prompts, (n_rows,), generator=draw).to(device),
        "b_U": rand(d_vocab),
        "gain": rand(d_model),
        "bias": rand(d_model),
    }


def read(kind: str = "layernorm", soft_cap: float | None = None, wide: bool = False) -> Any:
    def operation(
        resid: Tensor, W_U: Tensor, tokens: Tensor, prompts: Tensor | None, b_U: Tensor | None,
        gain: Tensor | None = None, bias: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        norm = make_norm(kind, gain, bias)
        return read_tokens(resid, W_U, tokens, prompts, b_U, norm, soft_cap, wide)

    return operation


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("soft_cap", [None, 4.0])
def test_values_and_gradients(
    device: torch.device, dtype: torch.dtype, kind: str, soft_cap: float | None
) -> None:
    errors = kernel_errors(read(kind, soft_cap), make_inputs(device, dtype, k=2))
    assert max(errors.values()) < TOLERANCES[dtype], errors
    gains = {"none": 0, "layernorm": 2}.get(kind, 1)
    assert len(errors) == 1 + 3 + gains


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_rows": 1, "k": 1, "d_model": 1, "d_vocab": 1, "c": 1, "n_prompts": 1},
        {"n_rows": 3, "k": 1, "d_model": 33, "d_vocab": 2, "c": 5},
        {"n_rows": 4, "k": 3, "d_model": 130, "d_vocab": 300, "c": 1, "n_prompts": 1},
    ],
    ids=str,
)
def test_odd_sizes(device: torch.device, sizes: dict[str, int]) -> None:
    # a norm of one number is its sign, whose gradient is nothing but rounding
    kind = "gemma" if sizes["d_model"] > 1 else "none"
    errors = kernel_errors(read(kind, 3.0), make_inputs(device, **sizes))
    assert max(errors.values()) < TOLERANCES[torch.float32], errors


@settings(max_examples=8)
@given(n_rows=st.integers(1, 9), k=st.integers(1, 3), d_model=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_sizes(n_rows: int, k: int, d_model: int, seed: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = make_inputs(device, n_rows=n_rows, k=k, d_model=d_model, n_prompts=1 + seed % 4, seed=seed)
    # a norm over one or two numbers is a sign: its gradient is 0 but for rounding
    errors = kernel_errors(read("rmsnorm" if d_model > 4 else "none"), inputs)
    assert max(errors.values()) < TOLERANCES[torch.float32], errors


@pytest.mark.parametrize("with_prompts", [True, False])
def test_strides(device: torch.device, with_prompts: bool) -> None:
    """An unembedding stored either way, streams that are a slice, tokens that are a transposed view."""
    given = make_inputs(device, n_rows=6, k=2, n_prompts=6)
    given["W_U"] = given["W_U"].detach().contiguous().requires_grad_()
    wide = torch.randn(2, 9, 40, generator=torch.Generator().manual_seed(1)).to(device)
    given["resid"] = wide.transpose(0, 1)[::2, :, ::2][:4].requires_grad_()
    given["tokens"] = given["tokens"].T.contiguous().T[: 6 if with_prompts else 4]
    given["prompts"] = given["prompts"][:4] if with_prompts else None
    errors = kernel_errors(read("layernorm", 5.0), given)
    assert max(errors.values()) < TOLERANCES[torch.float32], errors


@pytest.mark.parametrize("kind", KINDS)
def test_streams_that_are_a_view(device: torch.device, kind: str) -> None:
    """The last position of each row, and streams stored the other way: neither is copied when its rows are listed."""
    draw = torch.Generator().manual_seed(2)
    last = torch.randn(5, 4, 20, generator=draw).to(device)[:, -1:]
    other_way = torch.randn(20, 1, 5, generator=draw).to(device).permute(2, 1, 0)
    for resid in (last, other_way):
        errors = kernel_errors(read(kind), make_inputs(device) | {"resid": resid.requires_grad_()})
        assert max(errors.values()) < TOLERANCES[torch.float32], errors


def test_gradients_of_one_input_alone(device: torch.device) -> None:
    given = make_inputs(device)
    for name in ("resid", "W_U", "b_U", "gain", "bias"):
        alone = {
            key: value.detach().requires_grad_(key == name)
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for key, value in given.items()
        }
        errors = kernel_errors(read(), alone)
        assert set(errors) == {"out0", f"d {name}"}
        assert max(errors.values()) < TOLERANCES[torch.float32], errors


def test_a_norm_without_gain_and_a_model_without_bias(device: torch.device) -> None:
    for kind in ("layernorm", "rmsnorm"):
        given = make_inputs(device) | {"gain": None, "bias": None, "b_U": None}
        errors = kernel_errors(read(kind), given)
        assert max(errors.values()) < TOLERANCES[torch.float32], errors


def test_empty(device: torch.device) -> None:
    for sizes in ({"n_rows": 0}, {"c": 0}, {"k": 0}):
        given = make_inputs(device, **sizes)
        with use_kernels("triton"):
            found = read()(**given)
            found.sum().backward()
        assert found.shape == (given["resid"].shape[0], given["resid"].shape[1], given["tokens"].shape[1])
        assert not given["W_U"].grad.any() and not given["gain"].grad.any()


def test_wide_logits_keep_fp32(device: torch.device) -> None:
    given = make_inputs(device, torch.bfloat16)
    errors = kernel_errors(read("none", wide=True), given, gradients=False)
    assert errors["out0"] < 2e-6
    with use_kernels("triton"):
        assert read("none", wide=True)(**given).dtype == torch.float32
        assert read("none")(**given).dtype == torch.bfloat16


def test_one_token_of_many_rows(device: torch.device) -> None:
    """All gradients of its direction and bias are added up, in a fixed order."""
    given = make_inputs(device, n_rows=20, n_prompts=2)
    given["tokens"][:] = 3
    errors = kernel_errors(read(), given)
    assert max(errors.values()) < TOLERANCES[torch.float32], errors
    runs = []
    for _ in range(2):
        with use_kernels("triton"):
            found = read()(**given)
        leaves = [given[name] for name in ("resid", "W_U", "b_U", "gain", "bias")]
        runs.append([found, *torch.autograd.grad(found.sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_in_its_row(device: torch.device) -> None:
    given = make_inputs(device, n_rows=4)
    for bad in (float("nan"), float("inf")):
        resid = given["resid"].detach().clone()
        resid[1, 0, 3] = bad
        with use_kernels("triton"):
            found = read()(**given | {"resid": resid})
            clean = read()(**given)
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2, 3]], clean[[0, 2, 3]])


def test_a_missing_token_stands_for_token_0(device: torch.device) -> None:
    given = make_inputs(device)
    with use_kernels("triton"):
        found = read()(**given)
        first = read()(**given | {"tokens": given["tokens"].clamp(min=0)})
    assert torch.equal(found, first)


def test_operator_rules(device: torch.device) -> None:
    from interp.kernels.readout.tokens.ops import read_tokens_backward_op, read_tokens_op

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    g = make_inputs(device)
    arguments = (
        g["resid"], g["W_U"], g["tokens"], g["prompts"], g["b_U"], 1, 1e-5, g["gain"], g["bias"], 0.0, False,
    )  # fmt: skip
    torch.library.opcheck(read_tokens_op, arguments, test_utils=checks)
    bare = (*arguments[:4], None, 0, 0.0, None, None, 2.0, True)
    torch.library.opcheck(read_tokens_op, bare, test_utils=checks)
    grad = torch.ones(5, 1, 2, device=device)
    for forward in (arguments, bare):
        parts = tuple(part.detach() if isinstance(part, Tensor) else part for part in forward[:-1])
        for to_weights in (True, False):
            torch.library.opcheck(read_tokens_backward_op, (grad, *parts, to_weights), test_utils=checks)


@pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning")
def test_compiled(device: torch.device) -> None:
    given = make_inputs(device)
    norm = make_norm("layernorm", given.pop("gain"), given.pop("bias"))
    compiled = torch.compile(read_tokens, fullgraph=True, backend="aot_eager")
    leaves = [given["resid"], given["W_U"], norm.gain]
    with use_kernels("triton"):
        eager, fast = (run(**given, norm=norm) for run in (read_tokens, compiled))
        assert torch.equal(eager, fast)
        for a, b in zip(
            torch.autograd.grad(eager.sum(), leaves), torch.autograd.grad(fast.sum(), leaves), strict=True
        ):
            assert torch.equal(a, b)


def test_errors(device: torch.device) -> None:
    g = make_inputs(device)
    with pytest.raises(KernelError, match=r"expected \[row, k, d_model\]"):
        dispatch.check_tokens(g["resid"], g["W_U"].T, g["tokens"], g["prompts"], None)
    with pytest.raises(KernelError, match="got residual streams"):
        dispatch.check_tokens(g["resid"], g["W_U"], g["tokens"], None, None)
    with pytest.raises(KernelError, match="got residual streams"):
        dispatch.check_tokens(g["resid"], g["W_U"], g["tokens"], g["prompts"][:2], None)
    with use_kernels("triton"):
        with pytest.raises(KernelError, match="several dtypes"):
            tokens_kernel_runs(g["resid"].half(), g["W_U"])
        with pytest.raises(KernelError, match="float64"):
            tokens_kernel_runs(g["resid"].double(), g["W_U"].double())
        with pytest.raises(KernelError, match="larger than 16384"):
            tokens_kernel_runs(torch.zeros(1, 1, 16385), torch.zeros(16385, 1))
    with use_kernels("reference"):
        assert not tokens_kernel_runs(g["resid"], g["W_U"])
