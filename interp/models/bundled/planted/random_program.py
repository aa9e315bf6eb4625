"""Random programs, prompt pairs of a program, and both as a planted model.

>>> planted = compiled_model(seed=3)
>>> planted.name
'compiled-3'
>>> pairs = planted.make_pairs(12, 0)
"""

from __future__ import annotations

import itertools
import random
from typing import Any, get_args

import numpy as np

from interp.errors import ModelError
from interp.models.bundled.planted.compiler import ANSWERS, ASK, BIT_WORDS, SCRATCH, WORDS, compile_program
from interp.models.bundled.planted.gates import GateKind, count_gate_sources
from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.program import END, Choose, Gate, Move, Program, Step
from interp.models.bundled.planted.program_layout import ProgramLayout
from interp.models.bundled.planted.record import PlantedModel
from interp.models.bundled.planted.tokenizer import number_words
from interp.tasks.base import PromptPairs

MOST_LAYERS, MOST_HEADS = 4, 6
_UNARY, _REUSE, _CHOOSE = 0.2, 0.35, 0.4
"""How often a feature goes through ``not`` or ``copy``, is read once more, and is chosen by or between."""
_BINARY: tuple[GateKind, ...] = tuple(kind for kind in get_args(GateKind) if count_gate_sources(kind) == 2)


def compiled_model(seed: int) -> PlantedModel:
    """The program of :func:`random_program`, compiled, and its prompts, as one planted model."""
    name = f"compiled-{seed}"
    program = random_program(seed)
    return PlantedModel(
        name,
        lambda: compile_program(program, name=name, seed=seed),
        lambda n, pairs_seed: make_program_pairs(program, n, pairs_seed, name=name, compiled_seed=seed),
    )


def random_program(seed: int) -> Program:
    """A program of 4 to 6 inputs whose every edge matters, in at most 4 layers of 6 heads; by its seed."""
    for attempt in itertools.count():
        try:
            program = _Draft(random.Random(f"program {seed} {attempt}")).finish()
        except ModelError:  # steps drawn blindly need not fit together
            continue
        layout = ProgramLayout(program)
        small = layout.n_layers <= MOST_LAYERS and layout.n_heads <= MOST_HEADS
        if small and not layout.idle_edges:
            return program
    raise AssertionError("unreachable")


class _Draft:
    """Combines what was not read yet until one feature is left."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.inputs = [f"x{i}" for i in range(rng.randint(4, 6))]
        places = list(self.inputs)
        for i in range(rng.randint(0, 2)):
            places.insert(rng.randint(2, len(places)), f"s{i}")
        self.places = [*places, END]
        self.steps: list[Step] = []
        self.at = {name: name for name in self.inputs}
        self.unread = list(self.inputs)

    def finish(self) -> Program:
        while len(self.unread) > 1:
            if len(self.unread) > 2 and self.rng.random() < _CHOOSE:
                self._choose()
            else:
                self._gate()
        answer = self._bring(self.unread[0], END)
        return Program(tuple(self.places), tuple(self.inputs), tuple(self.steps), answer)

    def _take(self, n: int) -> list[str]:
        """Features to read: not read yet, but now and then the last of them one that was."""
        taken = self.rng.sample(self.unread, n)
        others = [feature for feature in self.at if feature not in self.unread]
        if n > 1 and others and self.rng.random() < _REUSE:
            taken[-1] = self.rng.choice(others)
        self.unread = [feature for feature in self.unread if feature not in taken]
        return taken

    def _add(self, step: Any, at: str) -> str:
        self.steps.append(step)
        self.at[step.target] = at
        return str(step.target)

    def _name(self) -> str:
        return f"f{len(self.steps)}"

    def _place_after(self, features: list[str]) -> str:
        first = max(self.places.index(self.at[feature]) for feature in features)
        return self.rng.choice(self.places[first:])

    def _bring(self, feature: str, at: str) -> str:
        if self.at[feature] == at:
            return feature
        return self._add(Move(self._name(), feature, at), at)

    def _gate(self) -> None:
        sources = self._take(2)
        at = self._place_after(sources)
        here = tuple(self._bring(source, at) for source in sources)
        found = self._add(Gate(self._name(), self.rng.choice(_BINARY), here), at)
        if self.rng.random() < _UNARY:
            found = self._add(Gate(self._name(), self.rng.choice(("copy", "not")), (found,)), at)
        self.unread.append(found)

    def _choose(self) -> None:
        first, second, by = self._take(3)
        if self.rng.random() < 0.5:
            at = self._place_after([first, second, by])
            by = self._bring(by, at)
            step = Choose(self._name(), (first, second), by, "query", at)
        else:
            by = self._bring(by, self.at[first])
            at = self._place_after([first, second])
            step = Choose(self._name(), (first, second), by, "key", at)
        self.unread.append(self._add(step, at))


def make_program_pairs(
    program: Program, n: int, seed: int, *, name: str = "compiled", compiled_seed: int = 0
) -> PromptPairs:
    """Prompt pairs whose answers differ, such that every edge decides some.

    Each pair is drawn for the edge that decided the fewest pairs before it, with its value from the
    corrupted prompt in the clean run or the other way round; ``info[i]["kind"]`` names it, by the heads
    that the program has when compiled with ``compiled_seed``. An edge that decides a pair turns the answer
    round, so effects of different pairs never cancel.
    """
    layout = ProgramLayout(program, compiled_seed)
    rng = random.Random(seed)
    n_decided = {(edge, direction): 0 for edge in layout.decides for direction in ("noise", "denoise")}
    pairs = []
    for _ in range(n):
        edge, direction = min(n_decided, key=n_decided.__getitem__)
        choices = np.argwhere(layout.decides[edge])
        base, source = (int(setting) for setting in choices[rng.randrange(len(choices))])
        clean, corrupted = (base, source) if direction == "noise" else (source, base)
        for (other, way), count in n_decided.items():
            here = (clean, corrupted) if way == "noise" else (corrupted, clean)
            n_decided[other, way] = count + bool(layout.decides[other][here])
        pairs.append(_make_pair(layout, clean, corrupted, edge))
    return collect_pairs(name, seed, pairs, number_words(WORDS))


def _make_pair(layout: ProgramLayout, clean: int, corrupted: int, kind: str) -> WordPair:
    program = layout.program
    words = {value: word for word, value in BIT_WORDS.items()}
    answers = {value: word for word, value in ANSWERS.items()}

    def write(setting: int) -> tuple[str, ...]:
        bits = [
            words[layout.inputs[place][setting]] if place in program.inputs else SCRATCH
            for place in program.places[:-1]
        ]
        return (*bits, ASK)

    return WordPair(
        clean=write(clean),
        corrupted=write(corrupted),
        answer=answers[layout.answers[clean]],
        wrong=answers[layout.answers[corrupted]],
        labels={place.upper(): 1 + i for i, place in enumerate(program.places[:-1])},
        info={"kind": kind},
    )
