"""From a program to a transformer that carries it out, and the edges it runs through.

Every feature has a dimension of its own (those of the prompt's words share one). Heads attend by position,
a choice by content besides; gates are ReLU neurons; all other heads and neurons are decoys, which read
everything and write what nothing reads towards the answer.

>>> from interp.models.bundled.planted.random_program import random_program
>>> program = random_program(seed=0)
>>> model, tokenizer, circuit = compile_program(program)
>>> model.config.n_layers
3
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.models.bundled.planted.gates import wire_gate
from interp.models.bundled.planted.program import Choose, Gate, Move, Program
from interp.models.bundled.planted.program_layout import ProgramLayout
from interp.models.bundled.planted.record import PlantedCircuit
from interp.models.bundled.planted.tokenizer import build_word_tokenizer
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out, point_at
from interp.models.plain import PlainTransformer
from interp.results.graph import INPUT, LOGITS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BIT_WORDS = {"on": 1.0, "off": -1.0}
SCRATCH, ASK = ":", "="
ANSWERS = {"yes": 1.0, "no": -1.0}
WORDS = (*BIT_WORDS, SCRATCH, ASK, *ANSWERS)

_HARD = 20.0  # positional attention: e^-20 leaks elsewhere
_SOFT = 3.0  # a choice leaks e^-6, so that gradients through q and k are not zero
_LOGIT = 4.0
_N_IDENTITY, _N_JUNK, _N_DECOY_NEURONS = 3, 4, 4


def compile_program(
    program: Program, *, name: str = "compiled", seed: int = 0
) -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """A transformer whose answer is the program's: ``yes`` for +1, ``no`` for -1.

    ``seed`` draws which head carries out which step, and the decoys. The circuit lists the edges that
    features are read along; each of them decides the answer of some pair of prompts.

    Raises :class:`ModelError` for a program with an edge that never matters, for one of more than 8
    inputs, and for a feature named as a part of the residual stream is.
    """
    layout = ProgramLayout(program, seed)
    if layout.idle_edges:
        raise ModelError(
            f"the edge {layout.idle_edges[0]} of this program never changes the answer, so it would be neither true "
            "nor false; simplify the program."
        )
    tokenizer = build_word_tokenizer(name, WORDS, len(program.places) + 1)
    spaces = _name_spaces(program)
    wiring = Wiring(
        spaces,
        vocab_size=len(tokenizer),
        n_ctx=len(program.places) + 1,
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        # one dimension for each position to point at, and one for what a choice goes by
        d_head=len(program.places) + 2,
        d_mlp=layout.n_neurons + _N_DECOY_NEURONS,
        act="relu",
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _embed(wiring, tokenizer.get_vocab(), program)
    heads = {
        (layout.layers[step.target], layout.heads[step.target]): _Attention(wiring, program, step)
        for step in program.steps
        if not isinstance(step, Gate)
    }
    for (layer, head), attention in heads.items():
        attention.wire(layer, head)
    neurons = _wire_gates(wiring, layout)
    decoys = _Decoys(wiring, layout, seed).wire(heads, neurons)
    circuit = PlantedCircuit(
        name=name,
        summary=f"A compiled program of {len(program.steps)} steps over {len(program.inputs)} inputs.",
        mechanism=tuple(layout.describe()),
        nodes=_nodes_in_order(layout),
        edges=layout.edges,
        constant_edges=layout.constant_edges,
        positions=_positions(layout),
        neurons=neurons,
        decoys=decoys,
        spaces=lay_out(spaces),
    )
    return wiring.model, tokenizer, circuit


def _name_spaces(program: Program) -> dict[str, int]:
    own = {"position": len(program.places) + 1, "bit": 1, "identity": _N_IDENTITY}
    rest = {"junk": _N_JUNK, "empty": 1}
    features = [step.target for step in program.steps]
    # "token" is what a subspace is given to, where words are embedded
    taken = sorted({*own, *rest, "token"} & set(features))
    if taken:
        raise ModelError(
            f"a feature cannot be named {taken[0]!r}, which means something else here; rename it."
        )
    return own | dict.fromkeys(features, 1) | rest


def _embed(wiring: Wiring, vocabulary: dict[str, int], program: Program) -> None:
    codes = DecoyWeights(seed=13)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(_N_IDENTITY).tolist())
    for word, bit in BIT_WORDS.items():
        wiring.embed(vocabulary[word], bit=bit)
    for word, sign in ANSWERS.items():
        wiring.unembed(vocabulary[word], **{program.answer: sign * _LOGIT})
    wiring.place("position", torch.eye(len(program.places) + 1))


class _Attention:
    """Where a step's head looks: its place at the sources', every other position at ``<bos>``."""

    def __init__(self, wiring: Wiring, program: Program, step: Move | Choose) -> None:
        self.wiring = wiring
        n = len(program.places) + 1
        at = 1 + program.places.index(step.at)
        sources = step.sources if isinstance(step, Choose) else (step.source,)
        where = [1 + program.places.index(program.place_of(source)) for source in sources]
        query, key = point_at([0] * n, n, _HARD)
        query[at, 0] = 0.0
        query[at, where] = _HARD
        by = torch.zeros(1, n + 1)
        # the last dimension is for a choice by keys
        self.q: dict[str, Tensor] = {"position": torch.cat([query, torch.zeros(n, 1)], 1)}
        self.k: dict[str, Tensor] = {"position": torch.cat([key, torch.zeros(n, 1)], 1)}
        if isinstance(step, Choose):
            space = _space(program, step.by)
            if step.through == "query":
                by[0, where] = torch.tensor([_SOFT, -_SOFT])
                self.q[space] = by
            else:
                self.q["position"][at, n] = 2 * _SOFT
                by[0, n] = 1.0
                self.k[space] = by
        one = torch.ones(1, 1)
        self.v = {_space(program, source): one for source in sources}
        self.o = {step.target: one}

    def wire(self, layer: int, head: int) -> None:
        self.wiring.head(layer, head, q=self.q, k=self.k, v=self.v, o=self.o)


def _space(program: Program, feature: str) -> str:
    return "bit" if feature in program.inputs else feature


def _wire_gates(wiring: Wiring, layout: ProgramLayout) -> dict[str, tuple[int, ...]]:
    """Write all gates; returns the neurons of every MLP that has some."""
    found: dict[str, tuple[int, ...]] = {}
    for step in layout.program.steps:
        if isinstance(step, Gate):
            layer = layout.layers[step.target]
            taken = found.get(f"m{layer}", ())
            sources = [_space(layout.program, source) for source in step.sources]
            taken += wire_gate(wiring, layer, len(taken), step.kind, sources, step.target)
            found[f"m{layer}"] = taken
    return found


class _Decoys:
    """Heads and neurons that are busy and reach nothing; one head that would write the answer, but is silent."""

    def __init__(self, wiring: Wiring, layout: ProgramLayout, seed: int) -> None:
        self.wiring, self.layout = wiring, layout
        self.weights = DecoyWeights(seed=1000 + seed)
        features = dict.fromkeys(layout.layers, 1)
        self.readable = {"bit": 1, "identity": _N_IDENTITY, **features, "junk": _N_JUNK}

    def wire(
        self, heads: dict[tuple[int, int], _Attention], neurons: dict[str, tuple[int, ...]]
    ) -> dict[str, str]:
        """Fill what is free; returns every node that is a decoy as a whole, and why."""
        found: dict[str, str] = {}
        layout = self.layout
        for layer in range(layout.n_layers):
            free = [head for head in range(layout.n_heads) if (layer, head) not in heads]
            if layer == layout.n_layers - 1:
                silent = free.pop()
                found[f"a{layer}.h{silent}"] = self._silent(layer, silent)
            for head in free:
                twins = [(number, at) for (where, number), at in heads.items() if where == layer]
                is_twin = bool(twins) and head == free[0]
                found[f"a{layer}.h{head}"] = self._busy(layer, head, twins[0] if is_twin else None)
            first = len(neurons.get(f"m{layer}", ()))
            for index in range(first, self.wiring.model.config.d_mlp):
                self.wiring.neuron(
                    layer,
                    index,
                    reads=self._read(None),
                    writes={"junk": self.weights.vector(_N_JUNK)},
                    bias=0.25,
                )
            if not first:
                found[f"m{layer}"] = "ReLU of everything, written to junk"
        return found

    def _read(self, columns: int | None) -> dict[str, Tensor]:
        """Random weights [d, columns] on all there is to read; vectors [d] without columns."""
        weights = self.weights
        return {
            space: weights.vector(size) if columns is None else weights.matrix(size, columns) / 2
            for space, size in self.readable.items()
        }

    def _busy(self, layer: int, head: int, twin: tuple[int, _Attention] | None) -> str:
        matrix = self.weights.matrix
        identity = {"identity": matrix(_N_IDENTITY, 3)}
        q, k = (twin[1].q, twin[1].k) if twin else (identity, identity | {"bit": matrix(1, 3)})
        self.wiring.head(layer, head, q=q, k=k, v=self._read(3), o={"junk": matrix(3, _N_JUNK)})
        if twin:
            return f"has the attention pattern of a{layer}.h{twin[0]}, but copies everything to junk"
        return "attends by content and copies everything to junk"

    def _silent(self, layer: int, head: int) -> str:
        matrix = self.weights.matrix
        write = {self.layout.program.answer: matrix(2, 1)}
        self.wiring.head(layer, head, q=self._read(2), k=self._read(2), v={"empty": matrix(1, 2)}, o=write)
        return "writes the answer, but reads only the empty subspace: its output is always 0"


def _nodes_in_order(layout: ProgramLayout) -> tuple[str, ...]:
    nodes = dict.fromkeys(layout.node_of(step.target) for step in layout.program.steps)
    # within a layer, heads before the MLP
    ordered = sorted(nodes, key=lambda node: (int(node[1:].split(".")[0]), node[0], node))
    return (INPUT, *ordered, LOGITS)


def _positions(layout: ProgramLayout) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for step in layout.program.steps:
        node, place = layout.node_of(step.target), layout.program.place_of(step.target)
        found[node] = tuple(dict.fromkeys((*found.get(node, ()), place.upper())))
    return found
