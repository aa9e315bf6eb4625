"""Work that comes again with the same shapes, recorded once as a CUDA graph and replayed.

A chain of small kernels takes as long as the host needs to launch it. Recorded, it is one launch: inputs are copied
into buffers that stay where they are, and what was recorded runs on those. The first time shapes are seen they run
as they are, which is also when Triton tunes itself and libraries take their workspaces; the next time they are
recorded. Shortcomings: what was recorded keeps its memory until it leaves, and all recordings share a pool which
the device gets back only with the last of them.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import KernelFallbackWarning
from interp.kernels.recording import CudaRecorder, Recorder
from interp.kernels.states import Form, form_of_tensor, put_together, take_apart

S = TypeVar("S")

MOST_GRAPHS = 256
"""Recordings kept at once; CUDA keeps some hundreds of KiB of its own for each."""
_allowed: list[bool] = [True]


@dataclass(eq=False)
class _Graph:
    """One recording and the buffers that it reads and writes."""

    replay: Callable[[], None]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    form: Form
    n_bytes: int

    def buffers(self) -> Iterator[Tensor]:
        yield from self.inputs.values()
        yield from self.outputs.values()


class GraphCache:
    """Runs functions of tensors, replaying them where their shapes come again. A context manager.

    ``most_graphs`` and ``most_bytes`` (of buffers and of what recordings hold) bound what is kept: the recording
    longest unused leaves first. Without a ``recorder`` every function just runs. Where recording fails, all further
    functions just run and a :class:`~interp.kernels.KernelFallbackWarning` says why, once.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        most_bytes: int,
        most_graphs: int = MOST_GRAPHS,
        warm_ups: int = 1,
    ) -> None:
        if most_graphs < 1 or warm_ups < 0:
            raise KernelError(
                f"a cache of graphs keeps at least one and warms up no fewer than 0 times; got {most_graphs=}, "
                f"{warm_ups=}."
            )
        self._recorder = recorder
        self._most_bytes = most_bytes
        self._most_graphs = most_graphs
        self._warm_ups = warm_ups
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._buffers: WeakValueDictionary[Hashable, Tensor] = WeakValueDictionary()

    def __enter__(self) -> GraphCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def is_on(self) -> bool:
        """Whether functions are recorded at all."""
        return self._recorder is not None

    @property
    def n_bytes(self) -> int:
        """Bytes of buffers and of what recordings hold."""
        buffers = {id(buffer): buffer for graph in self._graphs.values() for buffer in graph.buffers()}
        own = sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())
        return own + sum(graph.n_bytes for graph in self._graphs.values())

    def run(self, key: Hashable, function: Callable[[S], S], state: S) -> S:
        """``function(state)``, for a function that is the same whenever ``key`` and the state's form are.

        A state is a nest of dataclasses, lists and tuples around tensors and plain values. The function may change
        the containers it is given and returns a state of any form, but must not write into the tensors; what else it
        uses must stay where it is for as long as this cache lives. What is returned stands in the cache's buffers
        when it was replayed, and is overwritten by the next run that is given another state of this form.
        """
        if self._recorder is None:
            return function(state)
        try:
            form, given = take_apart(state)
        except KernelError as error:
            self._give_up(error)
            return function(state)
        place = (key, form)
        graph = self._graphs.get(place)
        is_new = graph is None
        if graph is None:
            if place in self._refused or not self._is_warm(place):
                return function(state)
            graph = self._record(place, function, form, given)
            if graph is None:
                # of what was given, some may stand in buffers that were filled for the recording
                return function(put_together(form, given))
        else:
            self._graphs.move_to_end(place)
            _copy_into(graph.inputs, given)
        graph.replay()
        result: S = put_together(graph.form, graph.outputs)
        if is_new:
            self._keep_bounds(place)
        return result

    def close(self) -> None:
        """Forget all recordings and give their memory back."""
        self._drop(list(self._graphs))
        self._seen.clear()
        self._refused.clear()

    def _is_warm(self, place: Hashable) -> bool:
        seen = self._seen.pop(place, 0)
        if seen >= self._warm_ups:
            return True
        self._seen[place] = seen + 1
        while len(self._seen) > 4 * self._most_graphs:
            self._seen.popitem(last=False)
        return False

    def _record(
        self, place: Hashable, function: Callable[[S], S], form: Form, given: dict[str, Tensor]
    ) -> _Graph | None:
        """A recording of the function on buffers that hold its inputs; ``None`` where it cannot be made.

        ``given`` holds the same numbers at the end, in buffers where those were filled already.
        """
        assert self._recorder is not None
        found: list[tuple[Form, dict[str, Tensor]]] = []
        try:
            inputs = {path: self._buffer(path, value) for path, value in given.items()}
            _copy_into(inputs, given)
            given.update(inputs)

            def run() -> None:
                versions = _versions(inputs)
                result = function(put_together(form, inputs))
                if versions != _versions(inputs):
                    raise KernelError("what is recorded must not write into the tensors it is given.")
                found[:] = [self._write_out(result, inputs)]

            replay, n_bytes = self._recorder.record(run)
        except torch.OutOfMemoryError:
            # it has run with these shapes: there is no room for both ways
            self._drop(list(self._graphs))
            self._refused.add(place)
            return None
        except (RuntimeError, KernelError) as error:
            self._give_up(error)
            return None
        made_form, outputs = found[0]
        self._graphs[place] = _Graph(replay, inputs, outputs, made_form, n_bytes)
        return self._graphs[place]

    def _write_out(self, result: Any, inputs: dict[str, Tensor]) -> tuple[Form, dict[str, Tensor]]:
        """Put what a function made into buffers; what it only handed on stands in one already."""
        form, values = take_apart(result)
        taken = {buffer.untyped_storage().data_ptr() for buffer in inputs.values()}
        handed_on = {path for path, value in values.items() if value is inputs.get(path)}
        # a view of a buffer is copied before another path's result is written there
        made = {
            path: value.clone() if value.untyped_storage().data_ptr() in taken else value
            for path, value in values.items()
            if path not in handed_on
        }
        outputs = {
            path: value if path in handed_on else self._buffer(path, value) for path, value in values.items()
        }
        for path, value in made.items():
            outputs[path].copy_(value)
        return form, outputs

    def _buffer(self, path: str, like: Tensor) -> Tensor:
        """The buffer for tensors of this form at this path, one for all functions."""
        place = (path, form_of_tensor(like))
        found = self._buffers.get(place)
        if found is None:
            found = torch.empty_like(like)
            self._buffers[place] = found
        return found

    def _keep_bounds(self, newest: Hashable) -> None:
        """Let recordings leave, the longest unused first, until the rest fits."""
        while len(self._graphs) > self._most_graphs:
            self._drop([next(iter(self._graphs))])
        while self._graphs and self.n_bytes > self._most_bytes:
            oldest = next(iter(self._graphs))
            self._drop([oldest])
            if oldest == newest:
                # it does not fit alone: recorded again and again it would cost more than it saves
                self._refused.add(newest)

    def _drop(self, places: list[Hashable]) -> None:
        if places and self._recorder is not None:
            self._recorder.settle()
        for place in places:
            del self._graphs[place]

    def _give_up(self, error: Exception) -> None:
        self._drop(list(self._graphs))
        self._recorder = None
        warnings.warn(
            f"layers are launched one kernel after another, slower than as a CUDA graph: {error}",
            KernelFallbackWarning,
            stacklevel=3,
        )


def _copy_into(buffers: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Fill buffers with values, some of which may stand in one of them already."""
    moves = [(buffer, values[path]) for path, buffer in buffers.items() if not _is_same(buffer, values[path])]
    written = {buffer.untyped_storage().data_ptr() for buffer, _ in moves}
    staged = [
        (buffer, value.clone() if value.untyped_storage().data_ptr() in written else value)
        for buffer, value in moves
    ]
    for buffer, value in staged:
        buffer.copy_(value)


def _versions(buffers: dict[str, Tensor]) -> list[int]:
    """How often each was written, where that is counted: not in inference mode."""
    return [buffer._version for buffer in buffers.values() if not buffer.is_inference()]


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


@contextmanager
def use_graphs(allowed: bool) -> Iterator[None]:
    """Inside, shapes that come again are recorded as CUDA graphs on a GPU, or (``False``) never are."""
    _allowed.append(allowed)
    try:
        yield
    finally:
        _allowed.pop()


@contextmanager
def open_graphs(device: torch.device, most_bytes: int) -> Iterator[GraphCache]:
    """A cache of graphs on a CUDA device, closed at the end; elsewhere one that just runs functions."""
    recorder = CudaRecorder(device) if device.type == "cuda" and most_bytes > 0 and _allowed[-1] else None
    with GraphCache(recorder, most_bytes) as cache:
        yield cache
