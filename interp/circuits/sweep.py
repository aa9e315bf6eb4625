"""Searches of several models, tasks and methods, one after another, each in its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.circuits.plan import PlannedSearch, SweepPlan
from interp.circuits.search import CircuitSearch, search_circuits
from interp.circuits.search_summary import circuit_rows
from interp.errors import InterpError
from interp.models import load_model
from interp.models.model import Model
from interp.results.storage import without_nan
from interp.tasks.base import PromptPairs


@dataclass(frozen=True)
class SweepResult:
    """One search of a sweep, or why it failed."""

    search: PlannedSearch
    found: CircuitSearch | None = None
    prompts: PromptPairs | None = None
    error: Exception | None = None

    @property
    def status(self) -> str:
        """``done``; ``check failed``, where a bound of the plan does not hold; ``failed``."""
        if self.found is None:
            return "failed"
        return "done" if self.found.passed else "check failed"

    @property
    def reason(self) -> str | None:
        """Of a failure: the error's message, with its kind where this package did not raise it on purpose."""
        if self.error is None:
            return None
        kind = "" if isinstance(self.error, InterpError) else f"{type(self.error).__name__}: "
        return f"{kind}{self.error}"

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` of the sweep holds of it: the search's own summary, and where it lies."""
        search = self.search
        named = {"model": search.model, "task": search.task.label, "method": search.plan.method}
        told = {"folder": search.folder, "status": self.status, "error": self.reason}
        return {**named, **told, "search": None if self.found is None else self.found.summary()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a circuit for ``summary.csv``; a single one for a search that failed."""
        search, found = self.search, self.found
        named = {"model": search.model, "task": search.task.label, "method": search.plan.method}
        if found is None:
            yield named | {"status": self.status, "error": self.reason}
            return
        told: dict[str, Any] = {}
        if found.curve is not None:
            told |= {"cpr": found.curve.cpr[0].value, "cmd": found.curve.cmd[0].value}
        if found.agreement is not None:
            told["pearson"] = found.agreement.pearson.value
        for row in circuit_rows(found):
            yield without_nan(named | row | told | {"status": self.status})


def run_sweep(
    plan: SweepPlan,
    folder: str | Path,
    *,
    restart: bool = False,
    progress: bool = True,
    load: Callable[[str], Model] = load_model,
) -> Iterator[SweepResult]:
    """Search after search, each as soon as it is done; :func:`search_circuits` says how it resumes.

    A search that fails, whatever the error, is handed out with it and the next one begins: a model that cannot
    be loaded fails all of its searches. Ctrl-C ends the sweep, and the same call goes on.
    """
    loaded = _Loaded(load)
    for search in plan.searches():
        place = Path(folder) / search.folder
        try:
            model, prompts = loaded.get(search)
            found = search_circuits(
                model, prompts, search.plan, folder=place, restart=restart, progress=progress
            )
        except Exception as error:
            yield SweepResult(search, error=error)
        else:
            yield SweepResult(search, found, prompts)


class _Loaded:
    """The last model and its prompts, which the next search mostly shares; one model at a time."""

    def __init__(self, load: Callable[[str], Model]) -> None:
        self._load = load
        self._model: tuple[str, Model] | None = None
        self._prompts: dict[str, PromptPairs] = {}

    def get(self, search: PlannedSearch) -> tuple[Model, PromptPairs]:
        """Raises whatever loading does."""
        if self._model is None or self._model[0] != search.model:
            self._model, self._prompts = None, {}
            self._model = (search.model, self._load(search.model))
        model = self._model[1]
        label = search.task.label
        if label not in self._prompts:
            self._prompts[label] = search.task.load(model, search.plan.seed)
        return model, self._prompts[label]
