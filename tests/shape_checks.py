"""Checks the array shapes in signatures and record fields of a package while the tests run.

jaxtyping's own import hook checks arguments *before* a call, so a test that hands over a wrong
shape on purpose would never see the package's own error. Here a call is checked once it has
returned: whatever a function accepted and gave back must fit what its signature says. Calls that
raise are left alone, annotations without arrays are left to the type checker, and generators and
``*args`` are not checked.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.abc
import importlib.machinery
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch
from beartype.door import is_bearable
from jaxtyping import AbstractArray, jaxtyped


class ShapeError(AssertionError):
    """A value does not have the shape or dtype that its annotation says."""


def check_shapes_of(package: str) -> None:
    """From now on wrap every function and class of ``package`` as its modules are imported."""
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] == package)
    if set(loaded) - {package}:
        raise RuntimeError(f"shapes cannot be checked in modules imported before: {', '.join(loaded)}")
    sys.meta_path.insert(0, _Finder(package))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name.partition(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for owner, name, member in _members(module):
            setattr(owner, name, _checked(member, vars(module)))


def _members(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """Functions, methods and properties that this module itself defines."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield module, name, value
        elif inspect.isclass(value):
            for key, member in list(vars(value).items()):
                if isinstance(member, FunctionType | staticmethod | classmethod | property):
                    yield value, key, member


def _checked(member: Any, scope: dict[str, Any]) -> Any:
    if isinstance(member, staticmethod | classmethod):
        return type(member)(_checked(member.__func__, scope))
    if isinstance(member, property):
        return property(_checked(member.fget, scope), member.fset, member.fdel, member.__doc__)
    return _check_fields(member, scope) if member.__name__ == "__init__" else _check_call(member, scope)


def _check_call(function: Callable[..., Any], scope: dict[str, Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    many = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    hints = _array_hints(function.__annotations__, scope)
    hints = {name: hint for name, hint in hints.items() if name not in many}
    if not hints or inspect.isgeneratorfunction(function):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        result = function(*args, **kwargs)
        if torch.compiler.is_compiling():
            # what checks cannot be compiled
            return result
        values = dict(signature.bind(*args, **kwargs).arguments)
        _compare(f"{function.__module__}.{function.__qualname__}", values | {"return": result}, hints)
        return result

    return call


def _check_fields(init: Callable[..., Any], scope: dict[str, Any]) -> Callable[..., Any]:
    """Check a dataclass by its fields as they stand after ``__init__``, which may normalise them."""
    checked = _check_call(init, scope)
    # once, and not at import: fields may name what comes later; equal hints made anew compile anew
    fields = functools.cache(lambda: _array_hints(init.__annotations__, scope))

    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        if not dataclasses.is_dataclass(self):
            checked(self, *args, **kwargs)
            return
        init(self, *args, **kwargs)
        if torch.compiler.is_compiling():
            return
        _compare(type(self).__qualname__, {name: getattr(self, name) for name in fields()}, fields())

    return construct


def _array_hints(annotations: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    """The annotations that mention an array; names imported for type checkers only have no array."""
    found = {}
    for name, hint in annotations.items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, scope)
            except NameError:
                continue
        if _mentions_array(hint):
            found[name] = hint
    return found


def _mentions_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_mentions_array(part) for part in typing.get_args(hint))


def _compare(where: str, values: dict[str, Any], hints: dict[str, Any]) -> None:
    with jaxtyped("context"):
        for name, hint in hints.items():
            if name in values and not is_bearable(values[name], hint):
                shape = tuple(getattr(values[name], "shape", ())) or type(values[name]).__name__
                dtype = getattr(values[name], "dtype", "")
                raise ShapeError(f"{where}: {name} is {shape} {dtype}, which does not fit {hint}")
