"""Which of kernel and reference runs, and what is said about it."""

from __future__ import annotations

import logging

import pytest
import torch

from interp.errors import KernelError
from interp.kernels import backend, kernel_runs, use_kernels


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_said", set())


def test_on_a_cpu_the_reference_runs_and_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="interp.kernels.backend"):
        assert not kernel_runs("op", [torch.zeros(2), None])
        assert not kernel_runs("op", [torch.zeros(2)])
    assert [record.message for record in caplog.records] == [
        "op runs as plain PyTorch: its tensors are on a CPU"
    ]


@pytest.mark.triton
def test_forced_kernels_run_or_say_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with use_kernels("triton"):
        assert kernel_runs("op", [torch.zeros(2, device=where)])
        with pytest.raises(KernelError, match=r"op: no kernel runs, dtype torch.float64 is not covered"):
            kernel_runs("op", [torch.zeros(2, dtype=torch.float64, device=where)])
        with pytest.raises(KernelError, match="d_head is 300"):
            kernel_runs("op", [torch.zeros(2, device=where)], refusal="d_head is 300")
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(KernelError, match="TRITON_INTERPRET=1"):
            kernel_runs("op", [torch.zeros(2)])
        with use_kernels("reference"):
            assert not kernel_runs("op", [torch.zeros(2)])
    with pytest.raises(KernelError, match="got 'fast'"), use_kernels("fast"):  # type: ignore[arg-type]
        pass


def test_without_triton_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    assert not kernel_runs("op", [torch.zeros(2)])
    with use_kernels("triton"), pytest.raises(KernelError, match="pip install"):
        kernel_runs("op", [torch.zeros(2)])


@pytest.mark.cuda
def test_a_gpu_user_is_warned_once_of_what_has_no_kernel() -> None:
    wide = torch.zeros(2, dtype=torch.float64, device="cuda")
    with pytest.warns(backend.KernelFallbackWarning, match="float64"):
        assert not kernel_runs("op", [wide])
    assert not kernel_runs("op", [wide])
    assert kernel_runs("op", [wide.float()])
    with pytest.warns(backend.KernelFallbackWarning, match="several devices"):
        assert not kernel_runs("op", [wide.float(), torch.zeros(2)])
