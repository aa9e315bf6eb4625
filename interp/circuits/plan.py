"""What a search for circuits is asked: a model's task, a method, the circuits wanted and what tests them.

Plans are frozen and know nothing of files: :mod:`interp.circuits.sweep_file` reads a sweep of them from TOML or
YAML, and ``interp find-circuit`` makes one from its options. What can be refused without a model is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from interp.circuits.choose import Choice
from interp.circuits.gradients import EDGE_METHODS
from interp.errors import CircuitError, DataFileError, TaskError, unknown_name
from interp.models.model import Model
from interp.tasks import TASKS, from_file, load, resolve_metric
from interp.tasks.base import PromptPairs
from interp.types import Ablation, Backend, Direction

ACDC = "acdc"
EXACT = "exact"
METHODS = (*EDGE_METHODS, ACDC)
"""Names of methods that a search takes: those of :func:`interp.score_edges`, and ``acdc``."""
_SPELLINGS = {"relevance-edges": "relevance", "exact-edges": EXACT}

SHARES = (0.01, 0.02, 0.05)
"""Of all edges: the circuits of scored edges that are made where none are named."""
TAUS = (0.01,)
"""Of ACDC."""
N_PROMPTS = 32

Verify = Literal["exact", "none"]

_FOLDER = re.compile(r"[\w+-][\w.+-]*")
_UNIT = re.compile(r"m(\d+)\.n(\d+)")


def name_edge_method(name: str) -> str:
    """The method meant; ``relevance-edges`` and ``exact-edges`` are other spellings.

    Raises :class:`CircuitError` for an unknown one, suggesting the nearest.

    >>> name_edge_method("relevance-edges")
    'relevance'
    """
    found = _SPELLINGS.get(name, name)
    if found not in METHODS:
        raise CircuitError(unknown_name("method", name, (*METHODS, *_SPELLINGS)))
    return found


@dataclass(frozen=True)
class Cut:
    """One circuit asked for: so many edges, every edge above a threshold, or ACDC at one tau."""

    kind: Literal["edges", "threshold", "tau"]
    amount: float | int
    """A number of edges is an ``int``, a share of all edges a ``float``."""

    @property
    def label(self) -> str:
        """``2%``, ``50 edges``, ``threshold 0.01``, ``tau 0.01``."""
        if self.kind != "edges":
            return f"{self.kind} {self.amount:g}"
        if isinstance(self.amount, int):
            return f"{self.amount} edge{'s' * (self.amount != 1)}"
        return f"{self.amount * 100:.10g}%"

    @property
    def slug(self) -> str:
        """The label as part of a file's name: ``2pct``, ``50-edges``, ``tau-0.01``."""
        return self.label.replace("%", "pct").replace(" ", "-")


@dataclass(frozen=True)
class SearchPlan:
    """One search: how edges are scored, which circuits are made of them, and what is done to test these.

    Raises :class:`CircuitError` for an unknown name, for numbers outside their range and for options that do not
    go together, :class:`~interp.errors.MetricError` for an unknown metric.
    """

    method: str = "eap-ig"
    """One of :data:`METHODS`."""
    edges: tuple[float | int, ...] = ()
    """Circuits by their number of edges (``int``) or share of all edges (``float``); with nothing named,
    :data:`SHARES`."""
    threshold: tuple[float, ...] = ()
    """Circuits of every edge that carries at least this share of the gap."""
    tau: tuple[float, ...] = ()
    """Circuits of ACDC, each at one tau; with nothing named, :data:`TAUS`."""
    how: Choice = "top"
    signed: bool = False
    """Edges that support the clean answer only."""
    positions: tuple[str, ...] = ()
    """Labels of the task whose tokens are told apart, or ``("pos",)`` for every position; none: all together."""
    neurons: tuple[str, ...] = ()
    """Neurons that are nodes of their own, ``("m3.n5", "m3.n17")``, or ``("all",)``."""
    direction: Direction = "noise"
    ablation: Ablation = "source"
    metric: str | None = None
    """The task's own by default."""
    seed: int = 0
    """Of the prompts, of resampled prompts, of the edges that are checked and of random circuits."""
    backend: Backend = "auto"
    memory: int = 1024
    """For activations beside the weights, in MiB."""
    verify: Verify = "exact"
    """Whether estimates are checked by exact patching of some of the same edges."""
    verify_top: int = 20
    verify_sample: int = 20
    faithfulness: bool = True
    """Whether every circuit is run, with random ones beside it."""
    curve: bool = True
    """Whether circuits of every size on MIB's grid are run too, for CPR and CMD; not with ACDC."""
    random: int = 10
    """Random circuits of each kind and size."""
    min_faithfulness: float | None = None
    """A check: the largest circuit asked for keeps at least so much."""
    min_agreement: float | None = None
    """A check: Pearson's r of the estimate with exact patching is at least so much."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", name_edge_method(self.method))
        named = (
            ("way to choose edges", self.how, Choice),
            ("direction", self.direction, Direction),
            ("ablation", self.ablation, Ablation),
            ("backend", self.backend, Backend),
            ("way to verify", self.verify, Verify),
        )
        for kind, got, known in named:
            if got not in get_args(known):
                raise CircuitError(unknown_name(kind, str(got), get_args(known)))
        if self.metric is not None:
            resolve_metric(self.metric)
        self._check_cuts()
        self._check_units()
        self._check_numbers()
        self._check_bounds()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The circuits asked for, in the order they were named."""
        if self.method == ACDC:
            return tuple(Cut("tau", tau) for tau in self.tau or TAUS)
        edges = self.edges or (() if self.threshold else SHARES)
        return (*(Cut("edges", n) for n in edges), *(Cut("threshold", t) for t in self.threshold))

    @property
    def is_estimate(self) -> bool:
        """Whether the method's scores are estimates, which exact patching can check."""
        return self.method not in (ACDC, EXACT)

    def question(self) -> dict[str, Any]:
        """What changes numbers, for telling one search from another: neither which tests are done, nor how."""
        free = ("memory", "verify", "faithfulness", "curve", "min_faithfulness", "min_agreement")
        found = {name: value for name, value in vars(self).items() if name not in free}
        for name in ("edges", "threshold", "tau"):
            del found[name]
        return found | {"circuits": ", ".join(cut.label for cut in self.cuts)}

    def _check_cuts(self) -> None:
        for n in self.edges:
            fits = n >= 1 if isinstance(n, int) else 0 < n <= 1
            if isinstance(n, bool) or not fits:
                raise CircuitError(
                    f"edges are a number from 1 on, or a share of all edges such as 2% or 0.02; got {n!r}."
                )
        for name in ("threshold", "tau"):
            wrong = [value for value in getattr(self, name) if not 0 < value < float("inf")]
            if wrong:
                raise CircuitError(
                    f"{name} is a positive share of the gap between clean and ablated; got {wrong[0]}."
                )
        if self.method == ACDC:
            others = {"edges": self.edges, "threshold": self.threshold, "signed": self.signed}
            others |= {"how": self.how != "top", "direction": self.direction != "noise"}
            given = [name for name, is_given in others.items() if is_given]
            if given:
                raise CircuitError(
                    f"method acdc chooses by tau alone and patches corrupted into clean runs; leave out {given[0]}."
                )
        elif self.tau:
            raise CircuitError(f"tau belongs to method acdc; {self.method} chooses by edges or threshold.")
        labels = [cut.label for cut in self.cuts]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise CircuitError(f"a circuit was asked for twice: {twice[0]}.")

    def _check_units(self) -> None:
        if "pos" in self.positions and len(self.positions) > 1:
            raise CircuitError("positions are pos (every one) or labels of the task, not both.")
        if self.neurons != ("all",):
            self.neurons_by_layer()

    def neurons_by_layer(self) -> dict[int, list[int]]:
        """Named neurons, ``{layer: [neuron, ...]}``. Raises :class:`CircuitError` for one written otherwise."""
        found: dict[int, list[int]] = {}
        for name in self.neurons:
            match = _UNIT.fullmatch(name)
            if match is None:
                raise CircuitError(f"neurons are all, or written like m3.n5,m3.n17; got {name!r}.")
            found.setdefault(int(match[1]), []).append(int(match[2]))
        return found

    def _check_numbers(self) -> None:
        least = {"memory": 1, "verify_top": 0, "verify_sample": 0, "random": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise CircuitError(f"{name} is a whole number from {bound} on; got {getattr(self, name)}.")
        if self.verify == "exact" and self.verify_top == self.verify_sample == 0:
            raise CircuitError(
                "verify_top and verify_sample are both 0, so no edge would be checked; say verify none."
            )

    def _check_bounds(self) -> None:
        if self.min_faithfulness is not None and not self.faithfulness:
            raise CircuitError("min_faithfulness needs faithfulness, which was switched off.")
        if self.min_agreement is None:
            return
        if not self.is_estimate:
            raise CircuitError(f"min_agreement is for estimates; method {self.method} is none.")
        if self.verify == "none":
            raise CircuitError("min_agreement needs verify exact, which was switched off.")
        if not -1 <= self.min_agreement <= 1:
            raise CircuitError(f"min_agreement bounds a correlation, -1 to 1; got {self.min_agreement}.")


@dataclass(frozen=True)
class TaskPlan:
    """Prompts: a named task with its options, or a file of pairs.

    Raises :class:`~interp.errors.TaskError` for an unknown task or option,
    :class:`~interp.errors.DataFileError` for a file that is not there.
    """

    name: str | None = None
    """One of ``interp.tasks.available()``."""
    file: Path | None = None
    """CSV or JSONL with columns clean, corrupted, answer, wrong."""
    n: int | None = None
    """Prompt pairs: 32 of a task, all of a file."""
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """How a sweep calls it, also the name of its folder; by default the task's or the file's name."""

    def __post_init__(self) -> None:
        if (self.name is None) == (self.file is None):
            raise TaskError("a task is given by its name or as a file, one of them.")
        if self.n is not None and self.n < 1:
            raise TaskError(f"n is a number of prompt pairs from 1 on; got {self.n}.")
        if self.name is not None:
            key = self.name.strip().lower().replace("-", "_")
            if key not in TASKS:
                raise TaskError(unknown_name("task", self.name, TASKS))
            known = (*TASKS[key].options, "padding_side", "prepend_bos")
            for option in self.options:
                if option not in known:
                    raise TaskError(unknown_name(f"option of task {key!r}", option, known))
            object.__setattr__(self, "label", self.label or key)
        elif self.file is not None:
            if not self.file.is_file():
                raise DataFileError(f"no file at {str(self.file)!r}.")
            object.__setattr__(self, "label", self.label or as_folder(self.file.stem))
        if not _FOLDER.fullmatch(self.label):
            raise TaskError(
                f"a label names a folder: letters, digits, '.', '_', '+' and '-'; got {self.label!r}."
            )

    def load(self, model: Model, seed: int) -> PromptPairs:
        """The prompts in the tokens of a model. Raises as :func:`interp.tasks.load` does."""
        if self.file is not None:
            return from_file(model, self.file, n=self.n, **self.options)
        return load(self.name or "", model, N_PROMPTS if self.n is None else self.n, seed, **self.options)


def as_folder(name: str) -> str:
    """A name as one part of a path.

    >>> as_folder("eap-ig:activations"), as_folder("atp*"), as_folder("org/model")
    ('eap-ig-activations', 'atp-star', 'org-model')
    """
    return re.sub(r"[^\w.+-]+", "-", name.replace("*", "-star")).strip("-.") or "unnamed"


@dataclass(frozen=True)
class PlannedSearch:
    """One search of a sweep."""

    model: str
    task: TaskPlan
    plan: SearchPlan
    folder: str
    """Where it lies in the sweep's folder: ``ioi/eap-ig``, or ``mix-4l/ioi/eap-ig`` with several models."""


_SCORED_ONLY = ("edges", "threshold", "how", "signed", "direction")


def options_for(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options that several methods share, those that are for this one.

    >>> options_for("acdc", {"edges": (0.02,), "tau": (0.1,), "seed": 3})
    {'tau': (0.1,), 'seed': 3}
    """
    left_out = set(_SCORED_ONLY if method == ACDC else ("tau",))
    if method in (ACDC, EXACT):
        left_out.add("min_agreement")
    return {name: value for name, value in options.items() if name not in left_out}


@dataclass(frozen=True)
class SweepPlan:
    """Searches of every model, task and method, with the same options.

    Raises :class:`CircuitError` for nothing to search, for a name given twice, for an option that is for none of
    the methods, and where :class:`SearchPlan` does.
    """

    models: tuple[str, ...]
    tasks: tuple[TaskPlan, ...]
    methods: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of :class:`SearchPlan`, for all searches; an option of some methods only is left out of the others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(map(name_edge_method, self.methods)))
        folders = {
            "model": tuple(map(as_folder, self.models)),
            "task": tuple(task.label for task in self.tasks),
            "method": tuple(map(as_folder, self.methods)),
        }
        for kind, names in folders.items():
            if not names:
                raise CircuitError(f"a sweep needs at least one {kind}.")
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                hint = "; give each a label of its own." if kind == "task" else "."
                raise CircuitError(f"two {kind}s of the sweep are called {twice[0]!r}{hint}")
        used = {name for method in self.methods for name in options_for(method, self.options)}
        idle = [name for name in self.options if name not in used]
        if idle:
            raise CircuitError(
                f"{idle[0]} is for none of the methods {', '.join(self.methods)}; leave it out."
            )
        list(self.searches())

    def searches(self) -> Iterator[PlannedSearch]:
        """All of them: model by model, task by task."""
        for model in self.models:
            above = (as_folder(model),) if len(self.models) > 1 else ()
            for task in self.tasks:
                for method in self.methods:
                    plan = SearchPlan(method=method, **options_for(method, self.options))
                    yield PlannedSearch(model, task, plan, "/".join((*above, task.label, as_folder(method))))
