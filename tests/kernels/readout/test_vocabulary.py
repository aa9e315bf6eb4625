"""Statistics of the whole vocabulary: the kernel against plain PyTorch in fp64, and what never is stored."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors, relative_error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.norm import Norm
from interp.kernels.readout import (
    VocabularySummary,
    summarise_logits,
    summarise_vocabulary,
    vocabulary_kernel_runs,
)
from interp.kernels.readout.vocabulary import dispatch, ops

pytestmark = pytest.mark.triton

DIFFERENTIABLE = ("log_sum_exp", "tokens", "divergence")


def make_inputs(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    n_rows: int = 5,
    k: int = 1,
    d_model: int = 20,
    d_vocab: int = 300,
    c: int = 2,
    n_prompts: int = 3,
    seed: int = 0,
    compared: bool = True,
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
        "reference": 2 * rand(n_prompts, k, d_vocab).detach() if compared else None,
    }


def summarise(
    kept: tuple[str, ...] = DIFFERENTIABLE,
    soft_cap: float | None = None,
    norm: Norm | None = None,
    **more: Any,
) -> Any:
    def operation(gain: Tensor | None = None, **inputs: Any) -> tuple[Tensor, ...]:
        normed = norm if gain is None else Norm("rmsnorm", 1e-5, gain)
        found = summarise_vocabulary(**inputs, norm=normed, soft_cap=soft_cap, **more)
        parts = [getattr(found, name) for name in kept]
        return tuple(part for part in parts if part is not None)

    return operation


def same(found: VocabularySummary, truth: VocabularySummary, tolerance: float = 2e-6) -> None:
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(truth, field.name)
        assert (a is None) == (b is None), field.name
        if a is None:
            continue
        if a.dtype == torch.int64:
            assert torch.equal(a.cpu(), b.cpu()), field.name
            continue
        # of no other token the largest is -inf
        assert torch.equal(a.isinf().cpu(), b.isinf().cpu()), field.name
        assert relative_error(*(part.masked_fill(part.isinf(), 0) for part in (a, b))) < tolerance, field.name


def both(inputs: dict[str, Any], **more: Any) -> tuple[VocabularySummary, VocabularySummary]:
    """As the kernel, and as the reference in fp64."""
    wide = {
        name: value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with use_kernels("triton"):
        found = summarise_vocabulary(**inputs, **more)
    with use_kernels("reference"):
        return found, summarise_vocabulary(**wide, **more)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("compared", [True, False])
def test_values_and_gradients(
    device: torch.device, dtype: torch.dtype, soft_cap: float | None, compared: bool
) -> None:
    inputs = make_inputs(device, dtype, k=2, compared=compared)
    inputs["gain"] = torch.linspace(0.5, 2, 20).to(device, dtype).requires_grad_()
    errors = kernel_errors(summarise(soft_cap=soft_cap), inputs)
    assert set(errors) == {*(f"out{i}" for i in range(2 + compared)), "d resid", "d W_U", "d b_U", "d gain"}
    assert max(errors.values()) < TOLERANCES[dtype], errors


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_what_is_compared_and_counted(device: torch.device, dtype: torch.dtype) -> None:
    """In half precision too: logits stay in fp32, so that the order of tokens is that of fp64."""
    inputs = make_inputs(device, dtype, n_rows=9, k=2, c=4)
    same(*both(inputs, others=True, argmax=True))


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_rows": 1, "k": 1, "d_model": 1, "d_vocab": 1, "c": 1, "n_prompts": 1},
        {"n_rows": 3, "k": 1, "d_model": 33, "d_vocab": 2, "c": 2},
        {"n_rows": 70, "k": 1, "d_model": 40, "d_vocab": 129, "c": 3},
        {"n_rows": 2, "k": 3, "d_model": 64, "d_vocab": 600, "c": 0},
    ],
    ids=str,
)
def test_odd_sizes(device: torch.device, sizes: dict[str, int]) -> None:
    inputs = make_inputs(device, **sizes)
    same(*both(inputs, others=True, argmax=True))
    errors = kernel_errors(summarise(("log_sum_exp", "divergence")), inputs)
    # of one token the slope is 0
    numbers = [error for name, error in errors.items() if sizes["d_vocab"] > 1 or name == "out0"]
    assert max(numbers) < 4e-6, errors


@settings(max_examples=4)
@given(
    n_rows=st.integers(1, 6),
    d_model=st.integers(1, 70),
    d_vocab=st.integers(2, 520),
    c=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_sizes(n_rows: int, d_model: int, d_vocab: int, c: int, seed: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = make_inputs(
        device, n_rows=n_rows, d_model=d_model, d_vocab=d_vocab, c=c, n_prompts=1 + seed % 3, seed=seed
    )
    same(*both(inputs, others=True, argmax=True, soft_cap=9.0 if seed % 2 else None), tolerance=4e-6)


def test_strides(device: torch.device) -> None:
    """An unembedding stored the other way, streams and a reference that are slices, rows that are their own prompts."""
    inputs = make_inputs(device, n_rows=4, k=2, n_prompts=4)
    inputs["W_U"] = inputs["W_U"].detach().contiguous().requires_grad_()
    draw = torch.Generator().manual_seed(1)
    inputs["resid"] = torch.randn(2, 9, 40, generator=draw).to(device).transpose(0, 1)[:4, :, ::2]
    inputs["resid"].requires_grad_()
    inputs["reference"] = torch.randn(4, 600, 2, generator=draw).to(device)[:, ::2].transpose(1, 2)
    inputs["tokens"] = inputs["tokens"].T.contiguous().T
    inputs["prompts"] = None
    same(*both(inputs, others=True, argmax=True))
    errors = kernel_errors(summarise(), inputs)
    assert max(errors.values()) < 2e-6, errors


def test_what_only_orders_tokens_is_detached(device: torch.device) -> None:
    inputs = make_inputs(device, n_rows=2, d_vocab=20, compared=False)
    for choice in ("triton", "reference"):
        with use_kernels(choice):  # type: ignore[arg-type]
            found = summarise_vocabulary(**inputs, others=True)
        assert found.log_sum_exp.requires_grad and found.tokens.requires_grad
        assert not found.largest.requires_grad and not found.largest_other.requires_grad


def test_given_tokens_lie_in_every_chunk(device: torch.device) -> None:
    """The largest logits of all are those of given tokens, wherever in the vocabulary they stand."""
    for place in (0, 127, 256, 599):
        inputs = make_inputs(device, d_vocab=600, n_prompts=1, c=1)
        inputs["tokens"][:] = place
        inputs["b_U"].data[place] += 100
        found, truth = both(inputs, others=True, argmax=True)
        same(found, truth)
        assert (found.argmax == place).all() and not found.n_above.any()
        assert (found.largest_other < 50).all()


def test_the_first_of_equal_tokens(device: torch.device) -> None:
    inputs = make_inputs(device, d_vocab=600)
    inputs["W_U"] = torch.zeros_like(inputs["W_U"])
    inputs["b_U"] = torch.zeros_like(inputs["b_U"])
    inputs["b_U"][[7, 300, 301, 599]] = 1.0
    inputs["tokens"] = torch.tensor([[300, -1], [0, 1], [7, 599]], device=device)
    found, truth = both(inputs, others=True, argmax=True)
    same(found, truth)
    assert (found.argmax == 7).all()
    assert found.n_above[:, 0].tolist() == [{0: 0, 1: 4, 2: 0}[p] for p in inputs["prompts"].tolist()]


def test_divergence_of_what_is_nearly_the_same(device: torch.device) -> None:
    """A difference of two log-sum-exps would keep no digit of a divergence of 1e-7."""
    inputs = make_inputs(device)
    with torch.no_grad():
        logits = inputs["resid"].double() @ inputs["W_U"].double() + inputs["b_U"].double()
    noise = torch.randn(5, 1, 300, generator=torch.Generator().manual_seed(2)).to(device)
    inputs |= {"prompts": None, "tokens": torch.zeros(5, 1, dtype=torch.long, device=device)}
    for size, tolerance in ((0.0, None), (4e-4, 3e-3), (4e-2, 3e-5)):
        inputs["reference"] = (logits + size * noise).float()
        found, truth = both(inputs)
        if tolerance is None:
            assert found.divergence.abs().max() < 1e-11
        else:
            assert relative_error(found.divergence, truth.divergence) < tolerance


def test_divergence_of_what_is_far_apart(device: torch.device) -> None:
    inputs = make_inputs(device)
    for scale, shift, tolerance in (
        (30.0, 0.0, 4e-6),
        (1.0, 500.0, 2e-5),
        (1.0, -500.0, 2e-5),
        (0.0, 0.0, 4e-6),
    ):
        same(*both(inputs | {"reference": scale * inputs["reference"] + shift}), tolerance)


def test_tokens_that_the_reference_rules_out(device: torch.device) -> None:
    """They add nothing to the divergence themselves, but the row's probability of them does."""
    inputs = make_inputs(device)
    with torch.no_grad():
        logits = inputs["resid"] @ inputs["W_U"] + inputs["b_U"]
    inputs |= {"prompts": None, "tokens": torch.zeros(5, 1, dtype=torch.long, device=device)}
    inputs["reference"] = logits.clone()
    inputs["reference"][..., ::5] = -torch.inf
    found, truth = both(inputs)
    assert relative_error(found.divergence, truth.divergence) < 2e-6
    assert (found.divergence > 1e-3).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_in_its_row(device: torch.device) -> None:
    inputs = make_inputs(device)
    with use_kernels("triton"):
        clean = summarise_vocabulary(**inputs, others=True)
    resid = inputs["resid"].detach().clone()
    resid[1, 0, 3] = torch.nan
    with use_kernels("triton"):
        found = summarise_vocabulary(**inputs | {"resid": resid}, others=True)
    kept = [0, 2, 3, 4]
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(clean, field.name)
        if a is not None:
            assert torch.equal(a[kept], b[kept]), field.name
            assert not a.is_floating_point() or a[1].isnan().all(), field.name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("place", [3, 299])
def test_infinite_logits(device: torch.device, place: int) -> None:
    """As PyTorch has it: a token ruled out, all of them, or one that is certain; NaN beside it is NaN."""
    inputs = make_inputs(device, compared=False)
    for values in (
        {place: -torch.inf},
        dict.fromkeys(range(300), -torch.inf),
        dict.fromkeys(range(270), -torch.inf),
        {place: torch.inf},
        {place: torch.inf, 100: torch.nan},
    ):
        b_U = inputs["b_U"].detach().clone()
        for at, value in values.items():
            b_U[at] = value
        found, truth = both(inputs | {"b_U": b_U}, others=True)
        for name in ("log_sum_exp", "largest", "largest_other"):
            a, b = getattr(found, name).double(), getattr(truth, name)
            torch.testing.assert_close(a.cpu(), b.cpu(), equal_nan=True, rtol=1e-6, atol=1e-6)
        if not torch.isnan(b_U).any():
            assert torch.equal(found.n_above, truth.n_above)


def test_empty_rows(device: torch.device) -> None:
    for sizes in ({"n_rows": 0}, {"k": 0}):
        inputs = make_inputs(device, **sizes)
        with use_kernels("triton"):
            found = summarise_vocabulary(**inputs, others=True, argmax=True)
            (found.log_sum_exp.sum() + found.divergence.sum()).backward()
        assert found.largest.shape == found.argmax.shape == found.n_above.shape == inputs["resid"].shape[:2]
        assert not inputs["W_U"].grad.any()


def test_equal_bits(device: torch.device) -> None:
    inputs = make_inputs(device, n_rows=33)
    runs = []
    for _ in range(2):
        with use_kernels("triton"):
            found = summarise_vocabulary(**inputs, others=True)
        leaves = [inputs[name] for name in ("resid", "W_U", "b_U")]
        total = found.log_sum_exp.sum() + found.divergence.sum()
        fields = [getattr(found, field.name) for field in dataclasses.fields(found)]
        values = [value for value in fields if value is not None]
        runs.append([*values, *torch.autograd.grad(total, leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    """Planning chunks of rows otherwise changes no number."""
    inputs = make_inputs(device, n_rows=9)
    with use_kernels("triton"):
        whole = summarise_vocabulary(**inputs, others=True)
        part = summarise_vocabulary(
            **inputs | {"resid": inputs["resid"][4:7], "prompts": inputs["prompts"][4:7]}, others=True
        )
    assert torch.equal(whole.log_sum_exp[4:7], part.log_sum_exp)
    assert torch.equal(whole.divergence[4:7], part.divergence)


class _Widths(TorchDispatchMode):
    """Collects the shapes of all floating-point tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in tree_leaves(out) if isinstance(x, Tensor)}
        return out


def test_no_logits_are_stored(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forward nor backward, which makes slopes a part of the vocabulary at a time."""
    monkeypatch.setattr(ops, "_AT_ONCE", 1)
    inputs = make_inputs(device, n_rows=7, d_vocab=700)
    errors = kernel_errors(summarise(), inputs)
    assert max(errors.values()) < 2e-6, errors
    x, W_U, reference = (inputs[name].detach() for name in ("resid", "W_U", "reference"))
    x, reference = x.flatten(0, 1), reference.flatten(0, 1)
    tokens, prompts, row = inputs["tokens"], inputs["prompts"], torch.ones(7, device=device)
    # what happens inside an operation is hidden from a mode around it
    scan, scan_backward = ops.scan_op._init_fn, ops.scan_backward_op._init_fn
    with _Widths() as seen:
        scan(x, W_U, None, tokens, prompts, torch.zeros(7, 2, device=device), 1, reference, 0.0, True, True)
        scan_backward(x, W_U, None, prompts, 1, reference, row, row, 0.0, row, row, True)
    assert (7, 256) in seen.shapes
    assert not [shape for shape in seen.shapes if 7 in shape and max(shape) > 256], seen.shapes


def test_logits_at_hand_give_the_same(device: torch.device) -> None:
    inputs = make_inputs(device, k=2)
    logits = (inputs["resid"] @ inputs["W_U"] + inputs["b_U"]).detach()
    truth = summarise_logits(
        logits.double(), inputs["tokens"], inputs["prompts"], inputs["reference"].double(), True, True
    )
    with use_kernels("triton"):
        same(summarise_vocabulary(**inputs, others=True, argmax=True), truth)


def test_operator_rules(device: torch.device) -> None:
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    g = make_inputs(device)
    x, reference = g["resid"].detach().flatten(0, 1).requires_grad_(), g["reference"].flatten(0, 1)
    found = torch.zeros(5, 2, device=device)
    full = (x, g["W_U"], g["b_U"], g["tokens"], g["prompts"], found, 1, reference, 3.0, True, True)
    bare = (x, g["W_U"], None, g["tokens"], g["prompts"], found, 1, None, 0.0, False, False)
    for arguments in (full, bare):
        torch.library.opcheck(ops.scan_op, arguments, test_utils=checks)
    row = torch.ones(5, device=device)
    x, W_U, b_U = (part.detach() for part in (x, g["W_U"], g["b_U"]))
    for arguments in (
        (x, W_U, b_U, g["prompts"], 1, reference, row, row, 3.0, row, row, True),
        (x, W_U, None, g["prompts"], 1, None, row, None, 0.0, row, None, False),
    ):
        torch.library.opcheck(ops.scan_backward_op, arguments, test_utils=checks)


@pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning")
def test_compiled(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    # the checks of shapes that tests put around a record cannot be compiled
    fields = [field.name for field in dataclasses.fields(VocabularySummary)]
    monkeypatch.setattr(
        dispatch, "VocabularySummary", dataclasses.make_dataclass("Plain", fields, frozen=True)
    )
    inputs = make_inputs(device, d_vocab=140)
    run = summarise(("log_sum_exp", "largest_other", "divergence"), others=True)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [inputs["resid"], inputs["W_U"], inputs["b_U"]]
    with use_kernels("triton"):
        eager, fast = run(**inputs), compiled(**inputs)
        assert all(torch.equal(a, b) for a, b in zip(eager, fast, strict=True))
        slopes = [torch.autograd.grad((out[0] + out[2]).sum(), leaves) for out in (eager, fast)]
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_errors(device: torch.device) -> None:
    g = make_inputs(device)
    with pytest.raises(KernelError, match=r"reference logits \(2, 1, 300\); expected \(3, 1, 300\)"):
        dispatch.check_reference(g["resid"], g["W_U"], g["tokens"], g["reference"][:2])
    with pytest.raises(KernelError, match="got residual streams"):
        dispatch.check_tokens(g["resid"][0], g["W_U"], g["tokens"], g["prompts"], None)
    with use_kernels("triton"):
        with pytest.raises(KernelError, match="several dtypes"):
            vocabulary_kernel_runs(g["resid"].half(), g["W_U"])
        with pytest.raises(KernelError, match="float64"):
            vocabulary_kernel_runs(g["resid"], g["W_U"], reference=g["reference"].double())
