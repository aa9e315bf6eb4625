"""What a budget comes to on a device whose memory is short, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.errors import PatchError
from interp.patching import budget as budgets
from interp.patching.budget import DEFAULT_BUDGET, SHARE_OF_FREE, WORKSPACES, free_bytes, settle_budget

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 1 << 30


@pytest.fixture
def gpu_memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Numbers that a GPU gives of its memory."""
    numbers = {"free": 10 * GIB, "reserved": 5 * GIB, "allocated": 3 * GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (numbers["free"], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: numbers["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: numbers["allocated"])
    return numbers


def test_on_a_cpu_a_budget_is_what_it_says() -> None:
    assert settle_budget(DEFAULT_BUDGET, CPU) == (GIB, ())
    assert settle_budget(1 << 60, CPU) == (1 << 60, ())
    assert free_bytes(CPU) is None and type(settle_budget(DEFAULT_BUDGET, CPU)[0]) is int


def test_on_a_gpu_the_default_is_a_share_of_what_is_free(gpu_memory: dict[str, int]) -> None:
    # what the allocator holds unused is free too
    free = 12 * GIB - WORKSPACES
    assert free_bytes(GPU) == free
    assert settle_budget(DEFAULT_BUDGET, GPU) == (int(SHARE_OF_FREE * free), ())
    gpu_memory["free"], gpu_memory["reserved"] = WORKSPACES // 2, 3 * GIB
    assert free_bytes(GPU) == 0 and settle_budget(DEFAULT_BUDGET, GPU) == (1, ())


def test_on_a_gpu_no_budget_is_more_than_is_free(gpu_memory: dict[str, int]) -> None:
    most = int(SHARE_OF_FREE * (12 * GIB - WORKSPACES))
    assert settle_budget(GIB, GPU) == (GIB, ()) and settle_budget(most, GPU) == (most, ())
    settled, notes = settle_budget(20 * GIB, GPU)
    assert settled == most
    (note,) = notes
    assert f"memory_budget={20 * GIB} is more than the {most} bytes" in note and "cuda:0" in note
    # a GiB that somebody asked for is no default
    gpu_memory["free"] = gpu_memory["reserved"] = gpu_memory["allocated"] = GIB
    assert settle_budget(GIB, GPU)[1] and not settle_budget(DEFAULT_BUDGET, GPU)[1]


@pytest.mark.parametrize("budget", [0, -5])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_budget_is_positive(budget: int, device: torch.device) -> None:
    with pytest.raises(PatchError, match=f"positive number of bytes; got {budget}"):
        settle_budget(budget, device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backend": "hooked"},
        {"method": "attribution"},
        {"method": "ig"},
    ],
    ids=str,
)
def test_a_budget_that_was_capped_is_said(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, random_task([7, 7], "right", [2, 2], seed=1)
    usual = interp.patch(model, task, "z", progress=False, **options)
    assert not any("memory_budget" in note for note in usual.provenance.notes)
    monkeypatch.setattr(budgets, "free_bytes", lambda device: 1 << 22)
    found = interp.patch(model, task, "z", progress=False, memory_budget=1 << 23, **options)
    notes = [note for note in found.provenance.notes if "memory_budget" in note]
    assert len(notes) == 1 and f"memory_budget={1 << 23} is more than" in notes[0]
    torch.testing.assert_close(found["z"].raw, usual["z"].raw, atol=1e-5, rtol=0)


def test_circuits_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, random_task([7, 7], "right", [2, 2], seed=1)
    monkeypatch.setattr(budgets, "free_bytes", lambda device: 1 << 22)
    for method in ("eap", "exact"):
        found = interp.score_edges(model, task, method=method, memory_budget=1 << 23, progress=False)
        assert sum("memory_budget=8388608 is more" in note for note in found.provenance.notes) == 1
    runs = interp.circuits.prepare_circuits(model, task, memory_budget=1 << 23, progress=False)
    assert "memory_budget=8388608 is more" in runs.provenance("any").notes[-1]
