"""Nested states taken apart into tensors and a hashable form, and put together again around other tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.errors import KernelError

Form = tuple[Any, ...]
"""What a state is apart from the numbers in its tensors, hashable; equal for states that work alike.

A tensor's is ``(Tensor, shape, stride, dtype, device)``, a plain value's ``(None, type, value)``, a slice's
``(slice, start, stop, step)`` and a container's ``(type, names, forms of its parts)``. A tensor that stands in a second
place has ``("same", first place)`` there.
"""

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)


def take_apart(state: Any) -> tuple[Form, dict[str, Tensor]]:
    """A state's form, and its tensors by where they stand: ``.0.resid`` is ``state[0].resid``.

    Takes tensors, plain values, slices, and dataclasses, tuples and lists of such. Raises :class:`KernelError` for
    anything else.
    """
    tensors: dict[str, Tensor] = {}
    return _take(state, "", tensors, {}), tensors


def put_together(form: Form, tensors: Mapping[str, Tensor], path: str = "") -> Any:
    """A state of this form around other tensors. Dataclasses are filled field by field, never initialised."""
    kind = form[0]
    if kind is Tensor:
        return tensors[path]
    if kind == "same":
        return tensors[form[1]]
    if kind is None:
        return form[2]
    if kind is slice:
        return slice(*form[1:])
    names, forms = form[1:]
    parts = [put_together(part, tensors, f"{path}.{name}") for name, part in zip(names, forms, strict=True)]
    if issubclass(kind, tuple | list):
        return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
    made: Any = object.__new__(kind)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made


def form_of_tensor(tensor: Tensor) -> Form:
    """See :data:`Form`."""
    return (Tensor, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _take(state: Any, path: str, tensors: dict[str, Tensor], places: dict[int, str]) -> Form:
    if isinstance(state, Tensor):
        place = places.setdefault(id(state), path)
        if place != path:
            return ("same", place)
        tensors[path] = state
        return form_of_tensor(state)
    if isinstance(state, _PLAIN):
        return (None, type(state), state)
    if isinstance(state, slice):
        return (slice, state.start, state.stop, state.step)
    if is_dataclass(state) and not isinstance(state, type):
        names = _names_of(type(state))
        parts = (_take(getattr(state, name), f"{path}.{name}", tensors, places) for name in names)
        return (type(state), names, tuple(parts))
    if isinstance(state, tuple | list):
        parts = (_take(part, f"{path}.{i}", tensors, places) for i, part in enumerate(state))
        return (type(state), tuple(range(len(state))), tuple(parts))
    raise KernelError(
        f"a state holds a {type(state).__name__}; expected tensors, plain values, and dataclasses, tuples or lists of "
        "such."
    )


@cache
def _names_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
