"""Which of kernel and reference runs, and what is said about it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

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


def test_with_an_old_triton_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    monkeypatch.setattr(backend, "_TRITON", (3, 3))
    with use_kernels("triton"), pytest.raises(KernelError, match=r"Triton 3\.3 is older than 3\.4"):
        kernel_runs("op", [torch.zeros(2)])
    monkeypatch.setattr(backend, "_TRITON", (3, 10))
    with use_kernels("triton"):
        assert kernel_runs("op", [torch.zeros(2)])


def test_kernels_are_not_launched_on_another_device_than_their_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with FakeTensorMode():
        here, there = (torch.empty(2, device=f"cuda:{index}") for index in (0, 1))
    assert kernel_runs("op", [here])
    with pytest.warns(backend.KernelFallbackWarning, match=r"cuda:1.*torch\.cuda\.set_device\(1\)"):
        assert not kernel_runs("op", [there])
    with use_kernels("triton"), pytest.raises(KernelError, match="cuda:1"):
        kernel_runs("op", [there])


@pytest.mark.parametrize(
    ("capability", "hip", "reason"),
    [((7, 5), None, r"compute capability 7\.5.*8\.0"), ((9, 0), "6.4", "NVIDIA"), ((8, 0), None, "")],
)
def test_cards_that_kernels_were_not_compiled_for_take_the_reference(
    capability: tuple[int, int], hip: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    with FakeTensorMode():
        given = torch.empty(2, device="cuda:0")
    if not reason:
        assert kernel_runs("op", [given])
        return
    with pytest.warns(backend.KernelFallbackWarning, match=reason):
        assert not kernel_runs("op", [given])


@pytest.mark.cuda
def test_a_gpu_user_is_warned_once_of_what_has_no_kernel() -> None:
    wide = torch.zeros(2, dtype=torch.float64, device="cuda")
    with pytest.warns(backend.KernelFallbackWarning, match="float64"):
        assert not kernel_runs("op", [wide])
    assert not kernel_runs("op", [wide])
    assert kernel_runs("op", [wide.float()])
    with pytest.warns(backend.KernelFallbackWarning, match="several devices"):
        assert not kernel_runs("op", [wide.float(), torch.zeros(2)])
