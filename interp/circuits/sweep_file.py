"""Options of a search as text or plain values, and sweeps of searches from one TOML or YAML file.

A file names models, tasks and methods; all other keys are options of
:class:`~interp.circuits.plan.SearchPlan`, and stand for every search::

    models = ["mix-4l"]
    methods = ["eap-ig", "relevance", "exact", "acdc"]
    edges = ["1%", "2%", "5%"]
    tau = 0.01
    n = 32

    [[tasks]]
    name = "ioi"
    options = { template = "ABBA" }

    [[tasks]]
    file = "pairs.csv"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from interp.circuits.plan import SweepPlan, TaskPlan
from interp.errors import CircuitError, DataFileError, InterpError, unknown_name

ENDINGS = (".toml", ".yaml", ".yml")


def read_sweep(path: str | Path) -> SweepPlan:
    """Read a sweep; files of pairs are found relative to the folder that it lies in.

    Raises :class:`DataFileError` for a file that is missing, of another kind or cannot be read, and
    :class:`CircuitError` for keys that are unknown (suggesting the nearest), values of another type, and
    whatever a plan refuses.
    """
    path = Path(path)
    given = _load(path)
    try:
        return _read_sweep(given, path.parent)
    except InterpError as error:
        raise type(error)(f"{str(path)!r}: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in ENDINGS:
        raise DataFileError(f"a sweep is a file that ends in {', '.join(ENDINGS)}; got {str(path)!r}.")
    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.load(text, _StrictLoader)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise DataFileError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise CircuitError(
            f"{str(path)!r} holds {_name_type(found)}; expected keys such as tasks and methods."
        )
    return found


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [str(key) for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read_sweep(given: Mapping[str, Any], folder: Path) -> SweepPlan:
    keys = _keys(given, "key of a sweep", (*_LISTS, "n", *READERS, "model", "task"), _LISTS)
    named = {name: keys.pop(name) for name in _LISTS if name in keys}
    n = read_count(keys.pop("n"), "n") if "n" in keys else None
    methods = named.get("methods")
    if methods is None:
        raise CircuitError("a sweep names its methods, such as methods = ['eap-ig', 'exact'].")
    tasks = _listed(named.get("tasks", "ioi"), "tasks")
    return SweepPlan(
        models=tuple(read_text(item, "models") for item in _listed(named.get("models", "mix-4l"), "models")),
        tasks=tuple(_read_task(item, folder, n) for item in tasks),
        methods=tuple(read_text(item, "methods") for item in _listed(methods, "methods")),
        options=read_options(keys),
    )


_LISTS = {"models": "model", "tasks": "task", "methods": "method"}
"""Keys that list what the searches differ in, and what they may be called too."""


def _keys(
    given: Mapping[str, Any], kind: str, known: tuple[str, ...], singular: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """With underscores and in the plural. Raises :class:`CircuitError` for an unknown key or one given twice."""
    plural = {one: several for several, one in (singular or {}).items()}
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise CircuitError(unknown_name(kind, str(key), known))
        name = plural.get(name, name)
        if name in found:
            raise CircuitError(f"{name} is given twice.")
        found[name] = value
    return found


def _read_task(given: Any, folder: Path, n: int | None) -> TaskPlan:
    if isinstance(given, str):
        return TaskPlan(name=given, n=n)
    if not isinstance(given, dict):
        raise CircuitError(f"a task is a name, or keys such as name and options; got {_name_type(given)}.")
    keys = _keys(given, "key of a task", ("name", "file", "n", "options", "label"))
    options = keys.get("options", {})
    if not isinstance(options, dict):
        raise CircuitError(f"options of a task are keys and values; got {_name_type(options)}.")
    found = TaskPlan(
        name=read_text(keys["name"], "name") if "name" in keys else None,
        file=folder / read_text(keys["file"], "file") if "file" in keys else None,
        n=read_count(keys["n"], "n") if "n" in keys else n,
        options={str(key).replace("-", "_"): value for key, value in options.items()},
    )
    return replace(found, label=read_text(keys["label"], "label")) if "label" in keys else found


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a search, as text of the shell or as values of a file, as :class:`SearchPlan` takes them.

    Raises :class:`CircuitError` for an unknown option and for a value of another type.

    >>> read_options({"edges": "1%,50", "tau": 0.01, "positions": "S1,END"})
    {'edges': (0.01, 50), 'tau': (0.01,), 'positions': ('S1', 'END')}
    """
    found = {}
    for name, value in given.items():
        if name not in READERS:
            raise CircuitError(unknown_name("option", name, READERS))
        found[name] = READERS[name](value, name)
    return found


def read_edges(value: Any, name: str = "edges") -> tuple[float | int, ...]:
    """Numbers of edges and shares of all edges: ``"1%,2%"``, ``"50"``, ``"0.02"``, or numbers themselves.

    >>> read_edges("0.7%,50,0.02,1.0")
    (0.007, 50, 0.02, 1.0)
    """
    return tuple(_read_amount(item, name) for item in _listed(value, name))


def _read_amount(item: Any, name: str) -> float | int:
    if isinstance(item, int | float) and not isinstance(item, bool):
        return item
    text = item.strip() if isinstance(item, str) else ""
    try:
        # in decimals, for 0.7 / 100 in binary is not the float nearest to 0.007
        amount = Decimal(text.removesuffix("%").strip())
    except InvalidOperation:
        raise CircuitError(f"{name} are written like 1%,2% or 50 or 0.02; got {item!r}.") from None
    if text.endswith("%"):
        return float(amount / 100)
    return int(text) if text.isdecimal() else float(amount)


def read_text(value: Any, name: str) -> str:
    """Text. Raises :class:`CircuitError` for anything else, as its siblings do for what they read."""
    if not isinstance(value, str) or not value.strip():
        raise CircuitError(f"{name} is text; got {_name_type(value)}.")
    return value.strip()


def read_count(value: Any, name: str) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise CircuitError(f"{name} is a whole number; got {_name_type(value)}.")
    return value


def _read_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CircuitError(f"{name} is a number; got {_name_type(value)}.")
    return float(value)


def _read_numbers(value: Any, name: str) -> tuple[float, ...]:
    found = []
    for item in _listed(value, name):
        try:
            found.append(float(item) if isinstance(item, str) else _read_number(item, name))
        except ValueError:
            raise CircuitError(f"{name} is written like 0.01,0.03; got {item!r}.") from None
    return tuple(found)


def _read_switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise CircuitError(f"{name} is true or false; got {_name_type(value)}.")
    return value


def _read_names(value: Any, name: str) -> tuple[str, ...]:
    return tuple(read_text(item, name) for item in _listed(value, name))


def _listed(value: Any, name: str) -> list[Any]:
    """A list; text is one that commas divide, anything else one of a single entry."""
    if isinstance(value, list):
        found = value
    elif isinstance(value, str):
        found = [part.strip() for part in value.split(",")]
    else:
        found = [value]
    if not found or "" in found:
        raise CircuitError(f"{name} must not be empty; got {value!r}.")
    return found


def _name_type(value: Any) -> str:
    kinds = {dict: "keys and values", list: "a list", type(None): "nothing"}
    return kinds.get(type(value)) or f"{type(value).__name__} {value!r}"


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "method": read_text,
    "edges": read_edges,
    "threshold": _read_numbers,
    "tau": _read_numbers,
    "how": read_text,
    "signed": _read_switch,
    "positions": _read_names,
    "neurons": _read_names,
    "direction": read_text,
    "ablation": read_text,
    "metric": read_text,
    "seed": read_count,
    "backend": read_text,
    "memory": read_count,
    "verify": read_text,
    "verify_top": read_count,
    "verify_sample": read_count,
    "faithfulness": _read_switch,
    "curve": _read_switch,
    "random": read_count,
    "min_faithfulness": _read_number,
    "min_agreement": _read_number,
}
"""How each option of a search is read."""
