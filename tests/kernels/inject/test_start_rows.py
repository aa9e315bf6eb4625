"""Rows that begin: the kernels beside their reference in fp64, values and every gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import TOLERANCES, kernel_errors
from torch import Tensor

from interp.kernels import use_kernels
from interp.kernels.inject import DirectionPatch, Patch, PositionPatch, start_rows
from interp.kernels.norm import Norm

pytestmark = pytest.mark.triton

PATCHES = ("none", "replace", "difference", "directions", "directions alone", "few directions", "shared")
NORMS = ("none", "layernorm", "bare layernorm", "rmsnorm", "plus one")
DTYPES = tuple(TOLERANCES)


def make_inputs(
    draw: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    patch: str,
    n_prompts: int = 3,
    n_pos: int = 7,
    d_model: int = 36,
    n_rows: int = 5,
    n_columns: int | None = None,
    n_parts: int = 3,
    rank: int = 10,
) -> dict[str, Any]:
    """Tables and rows; ``n_columns=None`` takes the columns from a slice."""
    rank = min(rank, 2) if patch == "few directions" else rank

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device, dtype).requires_grad_()

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=draw).to(device)

    n = n_pos - 2 if n_columns is None else n_columns
    found: dict[str, Any] = {
        "base": leaf(n_prompts, n_pos, d_model),
        "prompts": integers(n_prompts, n_rows),
        "columns": slice(1, n_pos - 1) if n_columns is None else integers(n_pos, n_rows, n),
        "where": (torch.rand(n_rows, n, generator=draw) < 0.6).to(device),
        "gain": leaf(d_model),
        "bias": leaf(d_model),
    }
    if patch in ("replace", "difference"):
        found["new"] = leaf(n_prompts, n_pos, d_model)
    elif patch != "none":
        found["new"] = leaf(n_prompts, n_pos, n_parts, rank)
        found["directions"] = leaf(1 if patch == "shared" else n_parts, rank, d_model)
        found["part"] = integers(n_parts, n_rows)
    if patch in ("difference", "directions", "few directions"):
        found["old"] = leaf(*found["new"].shape)
    return found


def start(norm: str, **inputs: Any) -> tuple[Tensor, ...]:
    """:func:`start_rows` of what :func:`make_inputs` gives."""
    patch: Patch | None = None
    if "directions" in inputs:
        own = (inputs["new"], inputs["directions"], inputs["part"])
        patch = DirectionPatch(*own, inputs.get("old"), inputs["where"])
    elif "new" in inputs:
        patch = PositionPatch(inputs["new"], inputs.get("old"), inputs["where"])
    made = start_rows(inputs["base"], inputs["prompts"], inputs["columns"], patch, norm_of(norm, inputs))
    return tuple(part for part in made if part is not None)


def norm_of(norm: str, inputs: dict[str, Any]) -> Norm | None:
    """A norm by the names of ``NORMS``."""
    if norm == "none":
        return None
    if norm == "bare layernorm":
        return Norm("layernorm", 1e-5)
    if norm == "layernorm":
        return Norm("layernorm", 1e-5, inputs["gain"], inputs["bias"])
    return Norm("rmsnorm", 1e-6, inputs["gain"], plus_one=norm == "plus one")


def assert_right(errors: dict[str, float], dtype: torch.dtype) -> None:
    """Errors of :func:`kernel_errors` within the tolerance of a dtype."""
    assert max(errors.values()) <= TOLERANCES[dtype], errors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", PATCHES)
def test_every_patch_and_norm(patch: str, dtype: torch.dtype, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    every = dtype == torch.float32 and patch in ("none", "replace", "directions")
    norms = NORMS if every else NORMS[PATCHES.index(patch) % len(NORMS) :][:1]
    for i, norm in enumerate(norms):
        inputs = make_inputs(draw, device, dtype, patch, n_columns=4 if i % 2 else None)
        errors = kernel_errors(lambda norm=norm, **given: start(norm, **given), inputs)
        gradients = {"base", "new", "old", "directions"} & set(inputs)
        assert {f"d {name}" for name in gradients} <= set(errors)
        assert ("d gain" in errors) == (norm in ("layernorm", "rmsnorm", "plus one"))
        assert_right(errors, dtype)


SIZES = st.fixed_dictionaries(
    {
        "n_prompts": st.integers(1, 3),
        "n_pos": st.integers(3, 6),
        "d_model": st.integers(1, 70),
        "n_rows": st.integers(1, 9),
        "n_columns": st.none() | st.integers(1, 5),
        "n_parts": st.integers(1, 4),
        "rank": st.integers(1, 19),
    }
)


@settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
@given(SIZES, st.sampled_from(PATCHES), st.sampled_from(NORMS), st.integers(0, 99))
def test_any_shape(sizes: dict[str, Any], patch: str, norm: str, seed: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draw = torch.Generator().manual_seed(seed)
    if sizes["d_model"] == 1 and norm.endswith("layernorm"):
        # of one entry the norm is 0 and its gradient rounding
        norm = "rmsnorm"
    inputs = make_inputs(draw, device, torch.float32, patch, **sizes)
    assert_right(kernel_errors(lambda **given: start(norm, **given), inputs), torch.float32)


@pytest.mark.parametrize("patch", PATCHES)
def test_no_rows_and_no_columns(patch: str, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    for sizes in ({"n_rows": 0}, {"n_columns": 0}):
        inputs = make_inputs(draw, device, torch.float32, patch, **sizes)
        assert_right(kernel_errors(lambda **given: start("layernorm", **given), inputs), torch.float32)


def test_a_subspace_of_no_directions_changes_nothing(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    for patch in ("directions", "shared"):
        inputs = make_inputs(draw, device, torch.float32, patch, rank=0)
        assert_right(kernel_errors(lambda **given: start("layernorm", **given), inputs), torch.float32)


@pytest.mark.parametrize("patch", ["difference", "directions", "few directions", "shared"])
def test_many_rows_of_one_place(patch: str, device: torch.device) -> None:
    """Sums over more tokens than a program takes at once, and parts cut over several programs."""
    draw = torch.Generator().manual_seed(0)
    inputs = make_inputs(draw, device, torch.float32, patch, 1, 4, 20, n_rows=75, n_parts=2)
    assert_right(kernel_errors(lambda **given: start("layernorm", **given), inputs), torch.float32)


def test_tables_in_any_layout(device: torch.device) -> None:
    """Transposed weights, means spread over prompts, every second row: read where they lie."""
    draw = torch.Generator().manual_seed(0)
    inputs = make_inputs(draw, device, torch.float32, "directions")
    with torch.no_grad():
        directions = inputs["directions"].transpose(1, 2).contiguous().transpose(1, 2)
        base = torch.randn(3, 14, 36, generator=draw).to(device)[:, ::2]
        old = torch.randn(3, 10, 7, 3, generator=draw).to(device).permute(0, 2, 3, 1)
        new = torch.randn(3, 10, generator=draw).to(device).expand(3, 7, 3, 10)
    inputs |= {
        "directions": directions.requires_grad_(),
        "base": base.requires_grad_(),
        "old": old,
        "new": new,
    }
    assert_right(kernel_errors(lambda **given: start("rmsnorm", **given), inputs), torch.float32)
    inputs = make_inputs(draw, device, torch.float32, "difference")
    inputs |= {"old": torch.randn(3, 36, 7, generator=draw).to(device).transpose(1, 2)}
    assert_right(kernel_errors(lambda **given: start("layernorm", **given), inputs), torch.float32)


@pytest.mark.parametrize("rank", [2, 6])
def test_directions_further_apart_than_32_bits_count(rank: int, device: torch.device, tmp_path: Path) -> None:
    """As of a large decoder that stands transposed; of its 4 GiB a few numbers are read."""
    n, apart = 2**31 + 64, 2**30 + 8
    if device.type == "cuda":
        stored = torch.zeros(n, dtype=torch.float16, device=device)
    else:
        stored = torch.from_numpy(np.memmap(tmp_path / "decoder", np.float16, "w+", shape=(n,)))
    draw = torch.Generator().manual_seed(0)
    inputs = make_inputs(draw, device, torch.float16, "directions", d_model=3, rank=rank)
    directions = stored.as_strided((3, rank, 3), (rank, 1, apart)).copy_(inputs["directions"].detach())
    inputs["directions"] = directions.requires_grad_()
    assert_right(kernel_errors(lambda **given: start("none", **given), inputs), torch.float16)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_no_number_stays_where_it_belongs(patch: str, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(1)
    inputs = make_inputs(draw, device, torch.float32, patch, n_rows=6, n_columns=5)
    if "part" in inputs:
        # those whose directions are no numbers stand in one tile with others
        inputs["part"] = torch.tensor([0, 1, 2, 1, 0, 2], device=device)
    with torch.no_grad():
        inputs["base"][0, 2] = float("nan")
        inputs["base"][1, 3, 5] = float("inf")
        if "new" in inputs:
            inputs["new"][1, 4] = float("inf")
            inputs["new"][2, 0] = float("nan")
        if "directions" in inputs and len(inputs["directions"]) > 1:
            inputs["directions"][1, 0] = float("nan")
        with use_kernels("triton"):
            found = start("layernorm", **inputs)
        with use_kernels("reference"):
            truth = start("layernorm", **inputs)
    for a, b in zip(found, truth, strict=True):
        assert a.isfinite().any() and not a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_stream_far_from_zero_keeps_its_deviations(device: torch.device) -> None:
    """The variance is not the difference of two large numbers, also where it is joined tile by tile."""
    draw = torch.Generator().manual_seed(0)
    for patch in ("none", "directions"):
        inputs = make_inputs(draw, device, torch.float32, patch, d_model=200)
        with torch.no_grad():
            inputs["base"] += 1000.0
        errors = kernel_errors(lambda **given: start("layernorm", **given), inputs, gradients=False)
        # a number of size 1000 is rounded by 3e-5 in fp32
        assert max(errors.values()) < 2e-4, errors


def test_equal_inputs_give_equal_bits(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = make_inputs(draw, device, torch.float32, "directions", n_rows=9)
    leaves = [inputs[name] for name in ("base", "new", "old", "directions", "gain", "bias")]

    def run() -> list[Tensor]:
        with use_kernels("triton"):
            made = start("layernorm", **inputs)
            return [*made, *torch.autograd.grad([part.sin().sum() for part in made], leaves)]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_replaced_places_are_the_source_to_the_bit(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = make_inputs(draw, device, torch.bfloat16, "replace")
    with use_kernels("triton"):
        (resid,) = start("none", **inputs)
    rows, where = inputs["prompts"], inputs["where"]
    assert torch.equal(resid[where], inputs["new"][rows, 1:6][where])
    assert torch.equal(resid[~where], inputs["base"][rows, 1:6][~where])


def test_wide_rows(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(0)
    for patch in ("difference", "directions"):
        sizes = {"d_model": 700, "n_rows": 2, "n_columns": 1, "n_pos": 3, "n_prompts": 1}
        inputs = make_inputs(draw, device, torch.float32, patch, **sizes)
        assert_right(kernel_errors(lambda **given: start("layernorm", **given), inputs), torch.float32)
