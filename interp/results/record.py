"""What every record shares: named axes that are checked, and saving without pickle.

A record is a frozen dataclass of tensors, strings, numbers, tuples, dicts and other such
dataclasses. Its file is described in :mod:`interp.results.storage`: every tensor is stored under
the path of the field that holds it, and the rest is JSON with a pointer where a tensor stood.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from interp.errors import DataFileError, InterpError, RecordError
from interp.results.provenance import Provenance
from interp.results.storage import load_record, save_record

_TENSOR = "tensor at"

NOT_SAVED: Mapping[str, Any] = types.MappingProxyType({"saved": False})
"""``metadata`` of a field that belongs to this process and is left out of the file."""

T = TypeVar("T")


class Record:
    """Base of saved results. Subclasses are dataclasses with ``frozen=True, eq=False``."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Axes of each tensor field, in order; an axis of one name has one size in the whole record."""

    def save(self, path: str | Path) -> Path:
        """Write to one safetensors file; :meth:`load` reads it back."""
        tensors: dict[str, Tensor] = {}
        packed = _pack_fields(self, "", tensors)
        return save_record(path, type(self).__name__, tensors, {"fields": packed})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises :class:`DataFileError` when the file is missing, truncated, of another kind, or does
        not hold the fields of this record.
        """
        tensors, meta = load_record(path, cls.__name__)
        try:
            return _unpack_fields(cls, meta["fields"], tensors)
        except (AttributeError, KeyError, TypeError, ValueError, InterpError) as error:
            raise DataFileError(
                f"{str(path)!r} does not hold the fields of {cls.__name__} "
                f"({type(error).__name__}: {error}); it was damaged, or saved by another version."
            ) from error

    def _check_axes(self, **sizes: int) -> None:
        """Check every tensor named in ``AXES`` against ``sizes`` and against each other."""
        known = dict(sizes)
        for name, axes in self.AXES.items():
            value = getattr(self, name)
            if value is None:
                continue
            shape = tuple(value.shape)
            expected = tuple(known.get(axis, size) for axis, size in zip(axes, shape, strict=False))
            if len(shape) != len(axes) or shape != expected:
                wanted = ", ".join(f"{axis}={known[axis]}" if axis in known else axis for axis in axes)
                raise RecordError(
                    f"{type(self).__name__}.{name} must be [{wanted}]; got shape {list(shape)}."
                )
            known.update(zip(axes, shape, strict=True))


def _pack_fields(record: Any, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    saved = (f.name for f in fields(record) if f.metadata.get("saved", True))
    return {name: _pack(getattr(record, name), f"{path}{name}", tensors) for name in saved}


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if is_dataclass(value):
        return _pack_fields(value, f"{path}.", tensors)
    if isinstance(value, Mapping):
        return {str(key): _pack(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise RecordError(f"cannot save {path}: a record does not hold values of type {type(value).__name__}.")


def _unpack_fields(cls: type[T], packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> T:
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(packed) - {f.name for f in fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise KeyError(f"unknown fields {unknown}")
    return cls(**{name: _unpack(value, hints[name], tensors) for name, value in packed.items()})


def _unpack(value: Any, hint: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Read a packed value; ``hint`` tells what JSON forgot: tuples, keys, dataclasses."""
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {_TENSOR}:
        return tensors[value[_TENSOR]]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return _unpack(value, inner[0], tensors) if len(inner) == 1 else value
    if origin is tuple:
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(_unpack(item, arg, tensors) for item, arg in zip(value, inner, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = args
        return {key(k): _unpack(v, item, tensors) for k, v in value.items()}
    if hint is Provenance:
        return Provenance.from_dict(value)
    if is_dataclass(hint) and isinstance(hint, type):
        return _unpack_fields(hint, value, tensors)
    return value
