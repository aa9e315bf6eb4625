"""The path of exact edges on a GPU, on a CPU: the same numbers, and nothing that a GPU would be waited for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_zoo import HOOKED, NAMES, specimen
from random_tasks import random_task
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from interp.circuits.exact import patch_edges
from interp.circuits.graph import build_graph
from interp.kernels import use_kernels
from interp.patching.wavefront import edge_writes, edges
from interp.patching.wavefront.edge_flights import EdgeFlights

READ_BACK = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__index__", "__float__", "equal"}
SHAPED_BY_DATA = {"nonzero", "unique", "_unique2", "unique_dim", "masked_select", "_local_scalar_dense"}
SENT_AND_WAITED_FOR = {"tensor", "as_tensor"}


class _Functions(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READ_BACK | SENT_AND_WAITED_FOR:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in SHAPED_BY_DATA or (name.startswith("index") and _has_mask(args)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    given = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in given)


def waits_in(run: Any) -> list[str]:
    """Operations of a call for which the host would wait, were its tensors on a GPU."""
    found: list[str] = []
    with _Functions(found), _Operators(found):
        run()
    return found


def test_waits_are_seen() -> None:
    x = torch.tensor([1.0, 0.0, 2.0])
    for run in (
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: x.unique(),
        lambda: x.tolist(),
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: int(x.sum()),
        lambda: x.cpu(),
        lambda: torch.tensor([1]),
        lambda: x.__setitem__(x > 0, 1.0),
    ):
        assert waits_in(run), run
    assert not waits_in(lambda: x[torch.arange(2)] + x.index_select(0, torch.arange(2)))


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (edges, edge_writes):
        monkeypatch.setattr(module, "keeps_table", lambda device: True)


CASES = [
    ([6, 4, 5], "left", [1, 2, 0], {}, {}),
    ([7, 7], "right", [3, 2], {"positions": "pos"}, {"metric": "kl"}),
    ([6, 6], "right", [1, 3], {"neurons": {0: [1, 3], 1: [2]}}, {"direction": "denoise"}),
    ([5, 5], "left", [2, 1], {"neurons": {0: [1, 3]}, "positions": ["S"]}, {"ablation": "mean"}),
]


def run_case(name: str, case: int, n_edges: int = 80) -> Tensor:
    """Scores of some edges, less those of the base run."""
    lengths, side, first, parts, options = CASES[case]
    model = specimen(name).model
    if not model.traits.d_mlp:
        parts = {key: value for key, value in parts.items() if key != "neurons"}
    graph = build_graph(model, random_task(lengths, side, first, seed=3), **parts)
    chosen = np.unique(np.linspace(0, graph.n_edges - 1, n_edges).astype(int))
    options = {"direction": "noise", "memory_budget": 1 << 28, "progress": False} | options
    return patch_edges(model, random_task(lengths, side, first, seed=3), graph, chosen, **options).scores


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOOKED])
def test_a_table_of_changes_gives_the_same_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in range(len(CASES)):
        expected = run_case(name, case)
        with monkeypatch.context() as patch:
            as_on_a_gpu(patch)
            found = run_case(name, case)
        spread = float(expected.max() - expected.min())
        torch.testing.assert_close(found, expected, atol=2e-6 * spread, rtol=0, msg=f"{name} {case}")
        assert spread > 0


@pytest.mark.interpreter
@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_rows_begin_without_waiting(name: str, case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the table, once in a block of prompts."""
    as_on_a_gpu(monkeypatch)
    begin, waits, n_calls = EdgeFlights.first_stream, list[str](), 0

    def counted(self: EdgeFlights, *args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        assert self.writes._table.numel()
        made = []
        with use_kernels("triton"):
            waits.extend(waits_in(lambda: made.append(begin(self, *args))))
        return made[0]

    monkeypatch.setattr(EdgeFlights, "first_stream", counted)
    expected = run_case(name, case, 12)
    assert n_calls > 2
    assert not waits
    monkeypatch.undo()
    spread = float(expected.max() - expected.min())
    torch.testing.assert_close(run_case(name, case, 12), expected, atol=1e-5 * max(spread, 1e-3), rtol=0)


@pytest.mark.parametrize("tabled", [False, True])
def test_prompts_that_begin_together_keep_apart(tabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, random_task([6, 6, 6], "right", [2, 2, 2], seed=3)
    graph = build_graph(model)
    chosen = np.unique(np.linspace(0, graph.n_edges - 1, 20).astype(int))
    options: dict[str, Any] = {"direction": "noise", "memory_budget": 1 << 28, "progress": False}
    expected = patch_edges(model, task, graph, chosen, backend="hooked", **options).scores
    if tabled:
        as_on_a_gpu(monkeypatch)
    found = patch_edges(model, task, graph, chosen, **options).scores
    spread = float(expected.max() - expected.min())
    torch.testing.assert_close(found, expected, atol=1e-4 * spread, rtol=0)
