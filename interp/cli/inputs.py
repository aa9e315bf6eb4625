"""From options on the command line to a device, a model and a task."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from interp.errors import DataFileError, ModelError, PatchError, SiteError, TaskError, unknown_name

if TYPE_CHECKING:
    import torch

    from interp.models import Model
    from interp.tasks import PromptPairs
    from interp.types import Site


def check_device(name: str | None) -> torch.device | None:
    """The device of that name. Raises :class:`ModelError` for one that is unknown or not here."""
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # what an absent backend raises depends on how torch was built
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(
            f"device {name!r} cannot be used: {reason}. Try 'cpu', or 'cuda' on a machine with a GPU."
        ) from error
    if device.type == "meta":
        raise ModelError("device 'meta' holds no numbers; use 'cpu' or 'cuda'.")
    return device


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``["template=ABBA", "n_items=3"]`` as keywords; a value that reads as JSON is taken as such.

    Raises :class:`TaskError` for an entry without ``=`` or one given twice.

    >>> parse_options(["template=ABBA", "names=[\\"Ann\\", \\"Bob\\"]"])
    {'template': 'ABBA', 'names': ['Ann', 'Bob']}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise TaskError(f"a task option is written key=value, such as template=ABBA; got {pair!r}.")
        if key in found:
            raise TaskError(f"the task option {key!r} was given twice.")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def split_sites(text: str) -> list[Site]:
    """Sites from a comma-separated list, whose sites may hold commas of their own.

    A comma outside brackets begins a new site unless a position, neuron or row can follow it. Raises
    :class:`SiteError` as :func:`interp.types.parse_sites`.

    >>> [str(site) for site in split_sites("z[1.0,2.3]@S1,END, resid_pre#0,2")]
    ['z[1.0]@S1,END', 'z[2.3]@S1,END', 'resid_pre#0,2']
    """
    from interp.types import COMPONENT_AXES, parse_sites

    found: list[str] = []
    for piece in (part.strip() for part in re.split(r",(?![^\[]*\])", text)):
        name = re.match(r"\w*", piece)
        starts = name is not None and name[0] in COMPONENT_AXES
        if found and not starts and re.search(r"[@#]|\.n|:latent", found[-1]):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    if not all(found):
        raise SiteError(f"sites are written like 'z,resid_pre@END'; got {text!r}.")
    return parse_sites(found)


def load_quietly(name: str, device: torch.device | None = None, progress: bool = True) -> Model:
    """Load a model; ``progress=False`` silences the bars that transformers draws."""
    import transformers

    from interp.models import load_model

    bars = transformers.utils.logging
    if progress or not bars.is_progress_bar_enabled():
        return load_model(name, device=device)
    bars.disable_progress_bar()
    try:
        return load_model(name, device=device)
    finally:
        bars.enable_progress_bar()


def load_prompts(
    model: Model, task: str | None, file: Path | None, n: int | None, seed: int, options: dict[str, Any]
) -> PromptPairs:
    """The named task, or the user's own from a file. Raises as :mod:`interp.tasks` does."""
    from interp import tasks

    if file is not None:
        return tasks.from_file(model, file, n=n, **options)
    return tasks.load(task or "ioi", model, 32 if n is None else n, seed, **options)


def check_choices(
    task: str | None,
    task_file: Path | None,
    direction: str,
    ablation: str,
    metric: str | None,
    backend: str = "auto",
) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises :class:`TaskError`, :class:`DataFileError`, :class:`PatchError` or :class:`MetricError`.
    """
    from interp.tasks import resolve_metric
    from interp.types import Ablation, Backend, Direction

    if task is not None and task_file is not None:
        raise TaskError("give --task or --task-file, not both.")
    if task_file is not None and not task_file.is_file():
        raise DataFileError(f"no file at {str(task_file)!r}.")
    choices = (
        ("direction", direction, Direction),
        ("ablation", ablation, Ablation),
        ("backend", backend, Backend),
    )
    for kind, got, known in choices:
        if got not in get_args(known):
            raise PatchError(unknown_name(kind, got, get_args(known)))
    if metric is not None:
        resolve_metric(metric)


def check_method(method: str, receivers: str | None = None) -> None:
    """Refuse an unknown method, and an estimate along paths. Raises :class:`PatchError`."""
    from interp.patching.attribution.methods import resolve_method

    if resolve_method(method) is not None and receivers is not None:
        raise PatchError(f"--receivers patches along paths exactly; --method {method} does not go with it.")
