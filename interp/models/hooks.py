"""Installing hooks for as long as a block lasts, and following each forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.model import Model
from interp.models.positions import Columns, Prompt

Edit = Callable[[Tensor], Tensor | None]
"""Gets the activation at a hook point; returns its replacement, or ``None`` to leave it."""


class ForwardTracker:
    """Knows which columns the forward now running computes.

    A forward without a KV cache is a whole prompt; one with a cache continues the last prompt
    seen; while :meth:`Model.generate` runs, the prompt is the one it was given.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._prompt: Prompt | None = None
        self._columns: Columns | None = None
        self.tokens: Tensor | None = None

    @property
    def columns(self) -> Columns:
        if self._columns is None:
            raise ModelError("a hook fired outside a forward pass of the model it was installed on.")
        return self._columns

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook for the model's module."""
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("input"))
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        batch, n = tokens.shape[:2]
        mask = kwargs.get("attention_mask")
        start = _cached_columns(kwargs)
        generating = self._model.generating_from
        if generating is not None:
            self._prompt = _repeated(generating, batch)
        elif start == 0 or self._prompt is None:
            flat = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
            self._prompt = Prompt.from_mask(batch, start + n, flat)
        self.tokens = tokens
        self._columns = Columns(self._prompt, start, n)


def _repeated(prompt: Prompt, batch: int) -> Prompt:
    """Beam search and ``num_return_sequences`` repeat every prompt row."""
    times, rest = divmod(batch, len(prompt.lengths))
    if times == 1 or rest:
        return prompt
    offsets, lengths = (x.repeat_interleave(times) for x in (prompt.offsets, prompt.lengths))
    return Prompt(prompt.n_columns, offsets, lengths, repeats=times)


def _cached_columns(kwargs: dict[str, Any]) -> int:
    past = kwargs.get("past_key_values")
    if past is not None:
        return int(past.get_seq_length())
    past = kwargs.get("past_kv_cache")
    return 0 if past is None else int(past[0].past_keys.shape[1])


@contextmanager
def tracked_forwards(model: Model) -> Iterator[ForwardTracker]:
    """Follow the model's forwards for as long as the block lasts."""
    tracker = ForwardTracker(model)
    handle = model.module.register_forward_pre_hook(tracker.before_forward, with_kwargs=True)
    try:
        yield tracker
    finally:
        handle.remove()


@dataclass(frozen=True)
class HookEdit:
    """One edit at one hook point, and its place in the order there."""

    hook: str
    edit: Edit
    stage: int = 0
    """Edits of a lower stage come first; within a stage, in the order they were installed."""


@contextmanager
def installed_edits(model: Model, edits: Sequence[HookEdit]) -> Iterator[None]:
    """Put edits on hook points, and take exactly these away again, whatever happens.

    Blocks may be nested: the order at a hook point is by stage, then by entry, outer blocks first.
    Raises :class:`ModelError` for a hook point the model does not have.
    """
    for item in edits:
        if item.hook not in model.hook_points:
            raise ModelError(f"model {model.name!r} has no hook point {item.hook!r}.")
    added = {item.hook for item in edits}
    mine = [(item.hook, item.stage, _as_hook(item.edit)) for item in edits]
    try:
        model.active_edits = model.active_edits + mine
        _reinstall(model, added)
        yield
    finally:
        # by identity: blocks held by generators need not end in the order they began
        hooks = {id(hook) for _, _, hook in mine}
        model.active_edits = [entry for entry in model.active_edits if id(entry[2]) not in hooks]
        _reinstall(model, added)


def _reinstall(model: Model, names: set[str]) -> None:
    for name in names:
        for handle in model.edit_handles.pop(name, []):
            handle.remove()
        here = [(stage, hook) for where, stage, hook in model.active_edits if where == name]
        point = model.hook_points.get(name)
        if point is None:
            # of a coder that was detached before these edits ended
            continue
        handles = [point.register_forward_hook(hook) for _, hook in sorted(here, key=lambda item: item[0])]
        if handles:
            model.edit_handles[name] = handles


def _as_hook(edit: Edit) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return edit(output)

    return hook
