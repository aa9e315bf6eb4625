"""How much to put into one forward: a memory budget, and halving when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from interp.errors import PatchError
from interp.models.model import Model
from interp.types import COMPONENT_AXES, LATENTS

T = TypeVar("T")
R = TypeVar("R")


class _Unasked(int):
    """A budget that nobody chose."""


DEFAULT_BUDGET: int = _Unasked(1 << 30)
"""Bytes of working memory for the rows of one forward; on a GPU a share of what is free, see :func:`settle_budget`."""
SHARE_OF_FREE = 0.8
"""Of a GPU's free memory, what activations may take: the rest is for what allocators waste."""
WORKSPACES = 1 << 28
"""Bytes of a GPU for what libraries and kernels take for themselves: cuBLAS keeps 32 MiB a stream."""
MAX_ROWS = 2048
"""More rows than this gain nothing on any machine tried."""


def bytes_per_row(model: Model, n_pos: int, n_kept: int) -> int:
    """Estimated peak working memory of one row of ``n_pos`` tokens, ``n_kept`` of them unembedded."""
    t = model.traits
    wide = 8 * t.d_model + 4 * t.n_heads * t.d_head + 3 * t.d_mlp
    attention = 3 * t.n_heads * n_pos
    return (n_pos * (wide + attention) + 3 * n_kept * t.d_vocab) * max(4, model.dtype.itemsize)


def bytes_under_autograd(model: Model, n_pos: int, n_kept: int) -> int:
    """Estimated memory of one row that keeps every layer's activations for a backward pass."""
    t = model.traits
    wide = 12 * t.d_model + 6 * t.n_heads * t.d_head + 5 * t.d_mlp
    a_layer = n_pos * (wide + 5 * t.n_heads * n_pos)
    return (t.n_layers * a_layer + 4 * n_kept * t.d_vocab) * max(4, model.dtype.itemsize)


def bytes_of_changes(model: Model, nodes: Iterable[tuple[str, int]], n_pos: int) -> int:
    """Memory of one prompt's changes at these nodes (component, layer)."""
    t = model.traits
    sizes = {
        "d_model": t.d_model,
        "d_mlp": t.d_mlp,
        "d_head": t.d_head,
        "head": t.n_heads,
        "kv_head": t.n_kv_heads,
    }
    sizes |= {"batch": 1} | dict.fromkeys(("pos", "dest_pos", "src_pos"), n_pos)
    total = 0
    for component, layer in nodes:
        if component.endswith(LATENTS):
            total += n_pos * model.attached[component.removesuffix(LATENTS), layer]
            continue
        # a head's result is kept as its z
        axes = COMPONENT_AXES["z" if component == "result" else component]
        total += math.prod(sizes[axis] for axis in axes)
    return total * max(4, model.dtype.itemsize)


def bytes_of_softmax_fix(model: Model, n_pos: int) -> int:
    """Memory of one prompt's attention of one layer as AtP* recomputes it, in fp64."""
    t = model.traits
    return 8 * (8 * t.n_heads * n_pos * n_pos + 2 * (t.n_heads + t.n_kv_heads) * n_pos * t.d_head)


def empty_device_cache() -> None:
    """Give unused memory back to the device, after it ran out."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_budget(budget: int) -> None:
    """Raise :class:`PatchError` for a budget that is not positive."""
    if budget <= 0:
        raise PatchError(f"memory_budget must be a positive number of bytes; got {budget}.")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that new tensors on a device can take, workspaces left out; ``None`` where nobody counts them."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, int(free + unused - WORKSPACES))


def settle_budget(budget: int, device: torch.device) -> tuple[int, tuple[str, ...]]:
    """The budget to keep to on a device, and what has to be said about it.

    On a GPU the default is a share of what is free, and no budget is larger: the planner runs into no limit that it
    could foresee. Raises :class:`PatchError` for a budget that is not positive.
    """
    check_budget(budget)
    free = free_bytes(device)
    if free is None:
        return int(budget), ()
    most = max(1, int(SHARE_OF_FREE * free))
    if isinstance(budget, _Unasked):
        return most, ()
    if budget <= most:
        return int(budget), ()
    note = f"memory_budget={budget} is more than the {most} bytes that may be taken of the {free} free on {device}"
    return most, (note,)


def rows_within(model: Model, budget: int, n_pos: int, n_kept: int) -> int:
    """Rows of one forward that fit in ``budget`` bytes; at least one.

    Raises :class:`PatchError` for a budget that is not positive.
    """
    budget, _ = settle_budget(budget, model.device)
    return min(MAX_ROWS, max(1, budget // bytes_per_row(model, n_pos, n_kept)))


class halve_on_out_of_memory(Generic[T]):  # noqa: N801  reads as a verb where it is used
    """Chunks of ``items``, made smaller for good when an attempt runs out of memory.

    Each chunk is tried through :meth:`attempt`; after a failure the same items come again, half as
    many at a time. A single item that does not fit raises the original error.
    """

    def __init__(self, items: Sequence[T], size: int) -> None:
        self._items = items
        self.size = size
        self._next = 0
        self._current = 0

    def __iter__(self) -> Iterator[Sequence[T]]:
        while self._next < len(self._items):
            self._current = self._next
            self._next = min(self._current + self.size, len(self._items))
            yield self._items[self._current : self._next]

    def attempt(self, run: Callable[[], R]) -> R | None:
        """The result of ``run``, or ``None`` when memory ran out and smaller chunks follow."""
        try:
            return run()
        except (torch.OutOfMemoryError, MemoryError):
            taken = self._next - self._current
            if taken <= 1:
                raise
            self.size = max(1, taken // 2)
            self._next = self._current
        empty_device_cache()
        return None
