"""Plans of trainings from TOML.

::

    [coder]                      # or several: [coders.small], [coders.large], each with a site of its own if wanted
    architecture = "topk"
    d_sae = 2048
    k = 16

    [training]                   # fields of TrainingConfig
    tokens = 2_000_000

    [activations]                # fields of ActivationPlan, and where all coders read
    model = "mix-4l"
    site = "mlp_out[2]"

    [output]
    folder = "sae"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from interp.coders.config import CoderConfig, read_config
from interp.coders.data_files import GENERATED
from interp.coders.plan import ONE, ActivationPlan, CoderPlan, TrainingPlan
from interp.coders.train.config import TrainingConfig
from interp.errors import CoderError, DataFileError, InterpError, unknown_name

_SECTIONS = ("coder", "coders", "training", "activations", "output")
_PLACES = ("site", "target")
_OTHER_NAMES = {"sites": "site", "targets": "target", "dataset": "data", "architectures": "architecture"}


def read_training_plan(path: str | Path) -> TrainingPlan:
    """Read a plan; files and folders in it are found relative to the folder that it lies in.

    Raises :class:`DataFileError` for a file that is missing or cannot be read, :class:`CoderError` for keys that
    are unknown (suggesting the nearest) or missing, and whatever a plan refuses; messages name the file.
    """
    path = Path(path)
    values = load_values(path)
    try:
        return plan_from_values(values)
    except InterpError as error:
        raise type(error)(f"{str(path)!r}: {error}") from error


def load_values(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a file, its paths made absolute, otherwise unchecked. Raises as :func:`read_training_plan`."""
    path = Path(path)
    if path.suffix.lower() != ".toml":
        raise DataFileError(f"a plan of a training is a .toml file; got {str(path)!r}.")
    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}.")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataFileError(f"{str(path)!r} cannot be read: {error}.") from error
    for name, section in found.items():
        if name not in _SECTIONS:
            raise CoderError(f"{str(path)!r}: {unknown_name('section', name, _SECTIONS)}")
        if not isinstance(section, dict):
            raise CoderError(f"{str(path)!r}: [{name}] is a section of keys and values; got {section!r}.")
    _resolve(found.get("activations", {}), "cache", path.parent)
    _resolve(found.get("output", {}), "folder", path.parent)
    data = found.get("activations", {}).get("data")
    if isinstance(data, str) and data != GENERATED and (path.parent / data).exists():
        found["activations"]["data"] = str(path.parent / data)
    return found


def _resolve(section: dict[str, Any], key: str, folder: Path) -> None:
    if isinstance(section.get(key), str):
        section[key] = str(folder / section[key])


def plan_from_values(values: Mapping[str, Mapping[str, Any]]) -> TrainingPlan:
    """A plan from sections of plain values.

    Raises :class:`CoderError` for unknown or missing keys and values of another type, and as a plan does.
    """
    for name in values:
        if name not in _SECTIONS:
            raise CoderError(unknown_name("section", name, _SECTIONS))
    activations = _keys(values.get("activations", {}), "activations", (*_names(ActivationPlan), *_PLACES))
    shared = {name: activations.pop(name) for name in _PLACES if name in activations}
    output = _keys(values.get("output", {}), "output", ("folder",))
    training = _keys(values.get("training", {}), "training", _names(TrainingConfig))
    return TrainingPlan(
        coders={name: _read_coder(name, given, shared) for name, given in _sections_of(values).items()},
        training=_make(TrainingConfig, training),
        activations=_make(ActivationPlan, activations),
        out=Path(_text(output["folder"], "folder")) if "folder" in output else None,
    )


def _sections_of(values: Mapping[str, Any]) -> dict[str, Any]:
    if ("coder" in values) == ("coders" in values):
        raise CoderError("give one coder as [coder], or several as [coders.NAME].")
    return {ONE: values["coder"]} if "coder" in values else dict(values["coders"])


def _read_coder(name: str, given: Any, shared: Mapping[str, Any]) -> CoderPlan:
    where = "coder" if name == ONE else f"coders.{name}"
    if not isinstance(given, Mapping):
        raise CoderError(f"[{where}] is a section of keys and values; got {given!r}.")
    keys = _keys(given, where, (*_names(CoderConfig), *_PLACES))
    own = {place: keys.pop(place) for place in _PLACES if place in keys}
    # a site of its own has a target of its own
    places = own if "site" in own else {**shared, **own}
    for needed in ("architecture", "d_sae"):
        if needed not in keys:
            raise CoderError(f"[{where}] needs {needed}.")
    config = _make(CoderConfig, keys)
    site, target = (_listed(places[one], one) if one in places else () for one in _PLACES)
    if not config.reads_another_site and "target" not in own:
        target = ()
    return CoderPlan(config, site, target)


def _keys(given: Mapping[str, Any], section: str, known: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        name = _OTHER_NAMES.get(name, name)
        if name not in known:
            raise CoderError(unknown_name(f"key of [{section}]", str(key), known))
        if name in found:
            raise CoderError(f"{name} is given twice in [{section}].")
        found[name] = value
    return found


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _make(kind: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return read_config(kind, values)
    except TypeError as error:
        raise CoderError(f"a value has another type than {kind.__name__} takes: {error}.") from error


def _listed(value: Any, name: str) -> tuple[str, ...]:
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    return tuple(_text(one, name) for one in found)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CoderError(f"{name} is text; got {value!r}.")
    return value.strip()
