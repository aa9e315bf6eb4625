"""Which head or MLP carries out each step of a program, and which edges then matter, by enumeration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from interp.errors import ModelError
from interp.models.bundled.planted.gates import count_gate_neurons
from interp.models.bundled.planted.program import Choose, Gate, Program, Step, sources_of
from interp.results.graph import INPUT, LOGITS

MOST_INPUTS = 8


@dataclass(frozen=True)
class ProgramLayout:
    """Every step as early as what it reads allows; which of a layer's heads, is drawn by ``seed``."""

    program: Program
    seed: int = 0

    @cached_property
    def layers(self) -> dict[str, int]:
        """The layer of each step, by its target."""
        time = dict.fromkeys(self.program.inputs, -1)
        for step in self.program.steps:
            # a layer is two moments: heads at even ones, the MLP at odd ones
            after = max(time[source] for source, _ in sources_of(step)) + 1
            time[step.target] = after + (after % 2 != isinstance(step, Gate))
        return {step.target: time[step.target] // 2 for step in self.program.steps}

    @property
    def n_layers(self) -> int:
        return max(self.layers.values(), default=0) + 1

    @cached_property
    def n_heads(self) -> int:
        """In every layer, two of them at least decoys."""
        counts = [len(self.steps_in(layer, heads=True)) for layer in range(self.n_layers)]
        return max(counts) + 2

    def steps_in(self, layer: int, heads: bool) -> list[Step]:
        """Steps of a layer's heads, or of its MLP."""
        return [
            step
            for step in self.program.steps
            if self.layers[step.target] == layer and isinstance(step, Gate) != heads
        ]

    @cached_property
    def heads(self) -> dict[str, int]:
        """The head of each move and choice, by its target."""
        rng = random.Random(self.seed)
        found: dict[str, int] = {}
        for layer in range(self.n_layers):
            steps = self.steps_in(layer, heads=True)
            numbers = rng.sample(range(self.n_heads), len(steps))
            found |= {step.target: number for step, number in zip(steps, numbers, strict=True)}
        return found

    @property
    def n_neurons(self) -> int:
        """The most that the gates of one layer take."""
        gates = [
            [s for s in self.steps_in(i, heads=False) if isinstance(s, Gate)] for i in range(self.n_layers)
        ]
        return max(sum(count_gate_neurons(gate.kind) for gate in layer) for layer in gates)

    def node_of(self, feature: str) -> str:
        """The node that writes a feature: ``input``, ``a0.h1``, ``m0``."""
        if feature in self.program.inputs:
            return INPUT
        layer = self.layers[feature]
        return f"a{layer}.h{self.heads[feature]}" if feature in self.heads else f"m{layer}"

    def reader(self, step: Step | None, through: str) -> str:
        """What reads a feature for a step: ``a0.h1<v>``, ``m0``, ``logits``."""
        if step is None:
            return LOGITS
        return self.node_of(step.target) + ("" if through == "mlp" else f"<{through}>")

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Every edge along which a feature is read, each once."""
        found = [
            f"{self.node_of(source)}->{self.reader(step, through)}"
            for step in self.program.steps
            for source, through in sources_of(step)
        ]
        return tuple(dict.fromkeys([*found, f"{self.node_of(self.program.answer)}->{LOGITS}"]))

    @cached_property
    def constant_edges(self) -> tuple[str, ...]:
        """Edges that bring heads the positions to look at, and no feature."""
        heads = [self.node_of(step.target) for step in self.program.steps if step.target in self.heads]
        found = [f"{INPUT}->{head}<{part}>" for head in heads for part in "qk"]
        return tuple(edge for edge in found if edge not in self.edges)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """[setting] The value of every input in every setting of all of them."""
        names = self.program.inputs
        if len(names) > MOST_INPUTS:
            raise ModelError(
                f"at most {MOST_INPUTS} inputs can be enumerated; this program has {len(names)}."
            )
        settings = np.arange(2 ** len(names))
        return {name: 2 * (settings >> i & 1) - 1 for i, name in enumerate(names)}

    @cached_property
    def answers(self) -> np.ndarray:
        """[setting] ±1."""
        found: np.ndarray = self.program.run(self.inputs)[LOGITS]
        return found

    @cached_property
    def decides(self) -> dict[str, np.ndarray]:
        """Edge -> [base setting, source setting]: whether the edge alone, with the source run's value, turns
        the base run's answer into the source's other one."""
        base = {name: values[:, None] for name, values in self.inputs.items()}
        source = self.program.run({name: values[None] for name, values in self.inputs.items()})
        differ = self.answers[:, None] != self.answers[None]
        found = {}
        for edge in self.edges:

            def read(feature: str, step: Step | None, through: str, edge: str = edge) -> Any:
                here = f"{self.node_of(feature)}->{self.reader(step, through)}"
                return source[feature] if here == edge else None

            patched = self.program.run(base, read)[LOGITS]
            found[edge] = differ & (patched != self.answers[:, None])
        return found

    @property
    def idle_edges(self) -> tuple[str, ...]:
        """Edges that decide no pair of settings, whatever they carry."""
        return tuple(edge for edge, pairs in self.decides.items() if not pairs.any())

    def describe(self) -> Iterator[str]:
        """The steps in words, by the nodes that carry them out."""
        place = self.program.place_of
        for step in self.program.steps:
            node = self.node_of(step.target)
            if isinstance(step, Gate):
                yield f"{node}: at {place(step.target)}, {step.target} = {step.kind}({', '.join(step.sources)})."
            elif isinstance(step, Choose):
                first, second = step.sources
                yield (
                    f"{node}: {step.at} attends to {place(first)} if {step.by} is +1 (through the {step.through}), "
                    f"else to {place(second)}, and copies {first} or {second} to {step.target}."
                )
            else:
                yield (
                    f"{node}: {step.at} attends to {place(step.source)} and copies {step.source} to {step.target}."
                )
        yield f"logits: 'yes' reads {self.program.answer}, 'no' its negative."
