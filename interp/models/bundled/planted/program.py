"""Programs over ±1 features that a transformer can be written for: moves and choices by heads, gates by MLPs.

>>> steps = (Move("here", "x0", at="END"), Move("too", "x1", at="END"), Gate("both", "and", ("here", "too")))
>>> program = Program(("x0", "x1", "END"), ("x0", "x1"), steps, "both")
>>> program.run({"x0": 1, "x1": -1})["both"]
-1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from interp.errors import ModelError, unknown_name
from interp.models.bundled.planted.gates import GateKind, count_gate_sources

END = "END"


@dataclass(frozen=True)
class Move:
    """A head copies a feature from where it stands to ``at``."""

    target: str
    source: str
    at: str


@dataclass(frozen=True)
class Choose:
    """A head copies the first of two features to ``at`` where ``by`` is +1, else the second.

    ``by`` steers attention through the query, standing at ``at``, or through the key, standing
    where the first source does.
    """

    target: str
    sources: tuple[str, str]
    by: str
    through: Literal["query", "key"]
    at: str


@dataclass(frozen=True)
class Gate:
    """An MLP makes a feature of one or two others that stand at one place."""

    target: str
    kind: GateKind
    sources: tuple[str, ...]


Step = Move | Choose | Gate
Read = Callable[[str, Step | None, str], Any]
"""(feature, the step that reads it or ``None`` for the logits, ``v`` / ``q`` / ``k`` / ``mlp``) -> ±1."""


def sources_of(step: Step) -> tuple[tuple[str, str], ...]:
    """(feature, through what it is read: ``v``, ``q``, ``k`` or ``mlp``) of all that a step reads."""
    if isinstance(step, Move):
        return ((step.source, "v"),)
    if isinstance(step, Gate):
        return tuple((source, "mlp") for source in step.sources)
    return (*((source, "v") for source in step.sources), (step.by, step.through[0]))


@dataclass(frozen=True)
class Program:
    """Steps in the order they are computed; features are named by the place they are given at, or by a step.

    Raises :class:`ModelError` for steps that no transformer can carry out as they are written: that read
    what comes later, or what stands elsewhere.
    """

    places: tuple[str, ...]
    """Positions of the prompt after ``<bos>``; the last is ``END``."""
    inputs: tuple[str, ...]
    """Those places whose word is a feature, and the feature's name; the others are scratch paper."""
    steps: tuple[Step, ...]
    answer: str

    def __post_init__(self) -> None:
        places, inputs = self.places, self.inputs
        if len(set(places)) < len(places) or not places or places[-1] != END:
            raise ModelError(f"places of a program must differ and end with {END!r}; got {places}.")
        if not set(inputs) <= set(places[:-1]) or len(set(inputs)) < len(inputs):
            raise ModelError(f"inputs must be different places before {END}; got {inputs} of {places}.")
        known = set(inputs)
        for step in self.steps:
            missing = [source for source, _ in sources_of(step) if source not in known]
            if missing:
                raise ModelError(unknown_name(f"feature read by {step}:", missing[0], known))
            if step.target in known or step.target in places:
                raise ModelError(f"{step}: the name {step.target!r} is taken.")
            known.add(step.target)
            self._check(step)
        if self.answer not in known or self.place_of(self.answer) != END:
            raise ModelError(f"the answer {self.answer!r} must be a feature that stands at {END}.")

    def _check(self, step: Step) -> None:
        def fail(why: str) -> ModelError:
            return ModelError(f"{step}: {why}.")

        standing = [self.place_of(source) for source, _ in sources_of(step)]
        if isinstance(step, Gate):
            if step.kind not in get_args(GateKind) or len(step.sources) != count_gate_sources(step.kind):
                raise fail(f"known gates are {', '.join(get_args(GateKind))}, the last two of one source")
            if len(set(standing)) > 1:
                raise fail(f"a gate reads one place, but its sources stand at {standing}; move them first")
            return
        if step.at not in self.places:
            raise fail(unknown_name("place", step.at, self.places))
        late = [place for place in standing if self.places.index(place) > self.places.index(step.at)]
        if late:
            raise fail(f"{late[0]} comes after {step.at}, and heads look back only")
        if isinstance(step, Choose):
            (first, second), by = step.sources, step.by
            if standing[0] == standing[1]:
                raise fail("both sources stand at one place, so attention cannot choose")
            where, asked = (
                (step.at, "at") if step.through == "query" else (standing[0], "key of its first source")
            )
            if standing[2] != where:
                raise fail(f"{by} stands at {standing[2]}, but a {step.through} is read at {where} ({asked})")
            mixed = self._space(first) != self._space(second) and (
                standing[1] in self.spread(first) or standing[0] in self.spread(second)
            )
            if mixed:
                raise fail("one source is not silent where the other stands, so the two would mix")
            if step.through == "key" and standing[1] in self.spread(by):
                raise fail(f"{by} is not silent where {second} stands, so both keys would move")

    @cached_property
    def _step_of(self) -> dict[str, Step]:
        return {step.target: step for step in self.steps}

    def _space(self, feature: str) -> str:
        """Inputs share one dimension of the residual stream; every other feature has its own."""
        return "bit" if feature in self.inputs else feature

    def place_of(self, feature: str) -> str:
        """Where a feature stands."""
        if feature in self.inputs:
            return feature
        step = self._step_of[feature]
        return self.place_of(step.sources[0]) if isinstance(step, Gate) else step.at

    def spread(self, feature: str) -> frozenset[str]:
        """Places at which a feature's dimension is not 0: a gate answers wherever what it reads is there."""
        if feature in self.inputs:
            return frozenset(self.inputs)
        step = self._step_of[feature]
        if isinstance(step, Gate):
            return frozenset().union(*(self.spread(source) for source in step.sources))
        return frozenset((step.at,))

    def run(self, inputs: Mapping[str, Any], read: Read | None = None) -> dict[str, Any]:
        """Every feature, ±1, from those of the inputs: numbers or arrays that broadcast.

        ``read`` stands between a feature and what reads it, to answer something else.
        The logits' own reading is under ``logits``.
        """
        values = dict(inputs)

        def take(feature: str, step: Step | None, through: str) -> Any:
            changed = None if read is None else read(feature, step, through)
            return values[feature] if changed is None else changed

        for step in self.steps:
            found = [take(feature, step, through) for feature, through in sources_of(step)]
            values[step.target] = _carry_out(step, found)
        values["logits"] = take(self.answer, None, "logits")
        return values


def _carry_out(step: Step, read: list[Any]) -> Any:
    if isinstance(step, Move):
        return read[0]
    if isinstance(step, Choose):
        first, second, by = read
        return ((1 + by) * first + (1 - by) * second) // 2
    if step.kind in ("copy", "not"):
        return read[0] if step.kind == "copy" else -read[0]
    x, y = read
    # of ±1: the smaller is (x + y + xy - 1) / 2
    return {"and": (x + y + x * y - 1) // 2, "or": (x + y - x * y + 1) // 2, "xor": x * y}[step.kind]
