"""Activations that are there already: tensors, batches, and iterators of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.sources.layout import ActivationSource, JointSource, SourceLayout
from interp.coders.sources.prompts import ONE_SHOT
from interp.errors import CoderError

Rows = Tensor | CoderBatch
Activations = ActivationSource | Rows | Iterable[Rows] | Callable[[], Iterable[Rows]] | str | Path
"""What a coder can be trained on: a source, a tensor [row, d] or [row, site, d], a :class:`CoderBatch`, chunks of
either in a list, an iterator or a function that gives an iterator anew, or the folder of a cache."""

CHUNK_ROWS = 8192


def tensor_activations(
    x: Rows | Iterable[Rows] | Callable[[], Iterable[Rows]],
    target: Float[Tensor, "row *site_out d_out"] | None = None,
    grad: Float[Tensor, "row *site_in d_in"] | None = None,
    *,
    token: Int[Tensor, " row"] | None = None,
    position: Int[Tensor, " row"] | None = None,
    prompt: Int[Tensor, " row"] | None = None,
    sites: Sequence[str] = (),
    target_sites: Sequence[str] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> ActivationSource:
    """A source of activations that you have.

    ``x`` is a tensor [row, d_in], or [row, site, d_in] of several sites; a :class:`CoderBatch`; or chunks of
    either: a list, an iterator, or a function that gives an iterator at every call. An iterator gives its rows
    once, so it serves one epoch and cannot be resumed. ``target``, ``grad`` and the rest belong to a tensor
    ``x``; chunks carry theirs in a :class:`CoderBatch`. ``sites`` say where ``x`` was read, which a coder
    trained on it remembers; ``target_sites`` are the same unless there is a ``target``.

    Raises :class:`CoderError` for anything else, for no rows, and for chunks that differ in shape.
    """
    extra = {"target": target, "grad": grad, "token": token, "position": position, "prompt": prompt}
    given = {name: tensor for name, tensor in extra.items() if tensor is not None}
    names = tuple(sites), tuple(sites if target_sites is None and target is None else target_sites or ())
    if isinstance(x, Tensor):
        return TensorSource(_as_batch(x, given), *names, chunk_rows)
    if given:
        raise CoderError(f"{', '.join(given)} belong to a tensor x; give chunks as interp.coders.CoderBatch.")
    if isinstance(x, CoderBatch):
        return TensorSource(x, *names, chunk_rows)
    if (not callable(x) and not isinstance(x, Iterable)) or isinstance(x, str | Mapping):
        raise CoderError(
            f"activations are a tensor [row, d], a CoderBatch, or chunks of them; got {type(x).__name__}."
        )
    return ChunkedSource(x, *names)


def as_source(activations: Activations | JointSource) -> ActivationSource | JointSource:
    """Whatever :data:`Activations` may be, as a source.

    Raises :class:`CoderError` for anything else.
    """
    if isinstance(activations, ActivationSource | JointSource):
        return activations
    if isinstance(activations, str | Path):
        from interp.coders.sources.cached import open_activations

        return open_activations(activations)
    if hasattr(activations, "column_names"):
        raise CoderError(
            "a data set holds prompts, not activations; give interp.stream_activations(model, dataset, site)."
        )
    return tensor_activations(activations)


def _as_batch(x: Tensor, given: Mapping[str, Tensor] | None = None) -> CoderBatch:
    others = {name: tensor.detach() for name, tensor in (given or {}).items()}
    _check_rows("x", x)
    _check_rows("target", others.get("target", x))
    plain = x.detach()
    return CoderBatch(**{"x": plain, "target": plain, **others})


def _check_rows(name: str, tensor: Tensor) -> None:
    if tensor.ndim not in (2, 3) or not tensor.is_floating_point():
        raise CoderError(
            f"{name} must be floating-point [row, d] or [row, site, d]; got {tensor.dtype} of shape "
            f"{list(tensor.shape)}. Flatten batch and position to rows first."
        )


def _read_layout(batch: CoderBatch, sites: tuple[str, ...], target_sites: tuple[str, ...]) -> SourceLayout:
    counts = [tensor.shape[1] if tensor.ndim == 3 else 0 for tensor in (batch.x, batch.target)]
    return SourceLayout(
        d_in=batch.x.shape[-1],
        d_out=batch.target.shape[-1],
        n_inputs=counts[0],
        n_outputs=counts[1],
        sites=sites,
        target_sites=target_sites,
        has_grad=batch.grad is not None,
    )


class TensorSource:
    """The rows of one batch, ``chunk_rows`` at a time; made by :func:`tensor_activations`."""

    def __init__(
        self, batch: CoderBatch, sites: tuple[str, ...], target_sites: tuple[str, ...], chunk_rows: int
    ) -> None:
        if not len(batch):
            raise CoderError("there are no activations: x has no rows.")
        if chunk_rows < 1:
            raise CoderError(f"chunk_rows must be at least 1; got {chunk_rows}.")
        self.batch, self.chunk_rows = batch, chunk_rows
        self.layout = _read_layout(batch, sites, target_sites)
        self._row = 0

    @property
    def n_rows(self) -> int:
        """Rows of one epoch."""
        return len(self.batch)

    def next_chunk(self) -> CoderBatch | None:
        """The next rows, as views."""
        if self._row >= len(self.batch):
            return None
        start, self._row = self._row, min(self._row + self.chunk_rows, len(self.batch))
        return self.batch.select(slice(start, self._row))

    def state(self) -> dict[str, Any]:
        """Rows given so far, and how many there are."""
        return {"row": self._row, "rows": len(self.batch), "digest": _digest(self.batch.x[:1])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind a row. Raises :class:`CoderError` where the tensor is another."""
        here = self.state()
        if any(state[name] != here[name] for name in ("rows", "digest")):
            raise CoderError(
                f"the state belongs to other activations: {state['rows']} rows there, {here['rows']} here, or other "
                "values. Give the same tensor."
            )
        self._row = int(state["row"])

    def restart(self) -> None:
        """Stand before the first row."""
        self._row = 0


class ChunkedSource:
    """Chunks of an iterable, in its order; made by :func:`tensor_activations`."""

    def __init__(
        self,
        chunks: Iterable[Rows] | Callable[[], Iterable[Rows]],
        sites: tuple[str, ...] = (),
        target_sites: tuple[str, ...] = (),
    ) -> None:
        self._chunks = chunks
        self._is_one_shot = hasattr(chunks, "__next__")
        self._items = self._open()
        self._given = 0
        self._digest: str | None = None
        # the layout is known from the first chunk only
        self._waiting = self._take()
        if self._waiting is None:
            raise CoderError("there are no activations: the iterable gave no chunk.")
        self.layout = _read_layout(self._waiting, sites, target_sites)

    def _open(self) -> Iterator[Rows]:
        return iter(self._chunks() if callable(self._chunks) else self._chunks)

    def _take(self) -> CoderBatch | None:
        for item in self._items:
            if not isinstance(item, Tensor | CoderBatch):
                raise CoderError(f"a chunk is a tensor [row, d] or a CoderBatch; got {type(item).__name__}.")
            batch = item if isinstance(item, CoderBatch) else _as_batch(item)
            if len(batch):
                return batch
        return None

    def next_chunk(self) -> CoderBatch | None:
        """The next chunk that has rows."""
        batch, self._waiting = (self._take() if self._waiting is None else self._waiting), None
        if batch is None:
            return None
        self._check(batch)
        self._given += 1
        self._digest = _digest(batch.x[:1])
        return batch

    def _check(self, batch: CoderBatch) -> None:
        found = _read_layout(batch, self.layout.sites, self.layout.target_sites)
        if found != self.layout:
            raise CoderError(
                f"chunks must be alike: the first was {self.layout.describe()}, chunk {self._given} is "
                f"{found.describe()}."
            )

    def state(self) -> dict[str, Any]:
        """Chunks given so far, and the digest of the last one's first row."""
        return {"chunk": self._given, "digest": self._digest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take chunks until as many are gone. Raises :class:`CoderError` for other chunks or an iterator."""
        self.restart()
        while self._given < state["chunk"]:
            if self.next_chunk() is None:
                raise CoderError(
                    f"there are only {self._given} chunks; the state was taken behind {state['chunk']}."
                )
        if self._digest != state["digest"]:
            raise CoderError(
                "the state belongs to other activations; give the same chunks in the same order."
            )

    def restart(self) -> None:
        """Stand before the first chunk. Raises :class:`CoderError` for an iterator that was begun."""
        if not self._given:
            return
        if self._is_one_shot:
            raise CoderError(ONE_SHOT)
        self._items, self._waiting, self._given, self._digest = self._open(), None, 0, None


def _digest(rows: Tensor) -> str:
    data = rows.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()
