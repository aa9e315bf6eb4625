"""Circuits in the DOT language, read back by its grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from interp.errors import CircuitError
from interp.results import Circuit, Graph, MlpUnits, Provenance
from interp.results.circuit_plan import plan_circuit

GRAPH = Graph(3, 4, 4, 8)
WEIRD = ('"', "\\", '\\"]; x', " <b>\n")


def make(graph: Graph = GRAPH, share: float = 0.2, values: bool = True, seed: int = 0) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    included = torch.rand(graph.n_edges, generator=generator) < share
    numbers = torch.randn(graph.n_edges, generator=generator) if values else None
    made = Provenance('mix "4l"', task="ioi", method="eap", direction="noise")
    return Circuit(graph, included, "a \\ random choice", made, numbers)


TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|->|[{}\[\];,=]|[A-Za-z_][A-Za-z_0-9]*|-?\d*\.?\d+)', re.DOTALL)


def tokens(text: str) -> list[str]:
    found, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        assert match, f"no token of the language: {text[at : at + 40]!r}"
        found.append(match[1])
        at = match.end()
    return found


class Parser:
    """The part of the grammar that a directed graph with ranks needs; fails on anything else."""

    def __init__(self, text: str) -> None:
        self.rest: Iterator[str] = iter(tokens(text))
        self.next = next(self.rest)
        self.nodes: dict[str, dict[str, str]] = {}
        self.edges: list[tuple[str, str, dict[str, str]]] = []
        self.ranks: list[list[str]] = []
        self.defaults: dict[str, dict[str, str]] = {}
        self.take("digraph")
        self.name()
        self.block()
        assert self.next == ""

    def take(self, wanted: str) -> None:
        assert self.next == wanted, f"expected {wanted!r}, got {self.next!r}"
        self.next = next(self.rest, "")

    def name(self) -> str:
        found = self.next
        assert re.match(r'["A-Za-z_0-9.-]', found), found
        self.take(found)
        if found.startswith('"'):
            return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], found[1:-1])
        return found

    def block(self) -> list[str]:
        self.take("{")
        members: list[str] = []
        while self.next != "}":
            if self.next == "{":
                self.ranks.append(self.block())
                continue
            members += self.statement()
        self.take("}")
        return members

    def statement(self) -> list[str]:
        first = self.name()
        if self.next == "=":
            self.take("=")
            assert (first, self.name()) == ("rank", "same")
            self.take(";")
            return []
        if self.next == "->":
            self.take("->")
            second = self.name()
            self.edges.append((first, second, self.attributes()))
            self.take(";")
            return []
        attributes = self.attributes()
        self.take(";")
        if first in ("graph", "node", "edge"):
            self.defaults[first] = attributes
            return []
        self.nodes[first] = attributes
        return [first]

    def attributes(self) -> dict[str, str]:
        found: dict[str, Any] = {}
        self.take("[")
        while self.next != "]":
            key = self.name()
            self.take("=")
            found[key] = self.name()
            if self.next == ",":
                self.take(",")
        self.take("]")
        return found


@pytest.mark.parametrize(
    "graph",
    [
        GRAPH,
        Graph(2, 4, 2, 8, parallel_blocks=True),
        Graph(2, 2, 2, 8, units=(MlpUnits(0, "latent", (5, 9)), MlpUnits(1, "neuron", (2,)))),
        Graph(2, 2, 2, 8, positions=("0", "1", "2", "3"), position_tokens=WEIRD),
        Graph(2, 4, 2, 0, positions=("S1", "END", "other")),
    ],
)
def test_it_holds_every_node_edge_and_move_once(graph):
    circuit = make(graph)
    read, plan = Parser(circuit.to_dot()), plan_circuit(circuit)
    assert set(read.nodes) == {plan.name(spot) for spot in plan.spots}
    drawn = [(a, b) for a, b, how in read.edges if how.get("style") != "dotted"]
    assert drawn == [(plan.name(link.source), plan.name(link.target)) for link in plan.links]
    moved = [(a, b) for a, b, how in read.edges if how.get("style") == "dotted"]
    assert moved == [(plan.name(a), plan.name(b)) for a, b in plan.moves]
    assert sorted(name for rank in read.ranks for name in rank) == sorted(read.nodes)


def test_looks_tell_value_sign_and_kind():
    circuit = make()
    read = Parser(circuit.to_dot())
    largest = float(circuit.values[circuit.included].abs().max())
    for (_, _, how), number in zip(read.edges, circuit.edge_numbers.tolist(), strict=True):
        value, name = float(circuit.values[number]), GRAPH.edge_name(number)
        assert how["color"] == ("#2166ac" if value >= 0 else "#b2182b")
        assert float(how["penwidth"]) == pytest.approx(0.6 + 4.4 * abs(value) / largest, abs=0.006)
        assert how["tooltip"] == f"{name}: {value:.3g}"
        kind = re.search(r"<(.)>", name)
        assert how.get("label") == (kind[1] if kind else None)


def test_ranks_are_the_layers_from_the_input_up():
    read = Parser(make(share=1.0).to_dot())
    heads = [[f"a{layer}.h{head}" for head in range(4)] for layer in range(3)]
    assert read.ranks == [
        ["input"], heads[0], ["m0"], heads[1], ["m1"], heads[2], ["m2"], ["logits"],
    ]  # fmt: skip
    assert read.defaults["graph"]["rankdir"] == "BT"
    parallel = Parser(make(Graph(1, 2, 2, 8, parallel_blocks=True), share=1.0).to_dot())
    assert parallel.ranks == [["input"], ["a0.h0", "a0.h1", "m0"], ["logits"]]


def test_labels_are_names_for_people_and_nothing_breaks_out_of_them():
    graph = Graph(1, 2, 2, 8, positions=("0", "1", "2", "3"), position_tokens=WEIRD)
    read = Parser(make(graph, share=1.0).to_dot())
    assert read.nodes["a0.h1@1"]["label"] == "L0H1\n1 \\"
    assert read.nodes["input@3"]["label"] == "input\n3 ·<b>↵"
    assert read.nodes["m0@2"]["label"] == 'M0\n2 \\"];·x'
    assert read.defaults["graph"]["label"] == 'mix "4l" · ioi · noise · eap\na \\ random choice'


def test_the_strongest_edges_only():
    circuit = make()
    read = Parser(circuit.to_dot(max_edges=5))
    strongest = circuit.values[circuit.included].abs().sort(descending=True).values[:5]
    found = sorted(abs(float(how["tooltip"].split(": ")[1])) for _, _, how in read.edges)
    assert found == pytest.approx(sorted(strongest.tolist()), rel=0.01)
    assert read.defaults["graph"]["label"].endswith(f"the 5 strongest of {circuit.n_edges} edges")
    with pytest.raises(CircuitError, match="max_edges=0"):
        circuit.to_dot(max_edges=0)


def test_without_values_edges_are_alike(tmp_path):
    circuit = make(values=False)
    read = Parser(circuit.write_dot(tmp_path / "c.dot").read_text(encoding="utf-8"))
    assert {(how["color"], how["penwidth"]) for _, _, how in read.edges} == {("#787878", "1.00")}
    assert read.edges[0][2]["tooltip"] == circuit.edges[0]


@pytest.mark.parametrize("value", [float("nan"), 0.0, float("inf")])
def test_values_that_have_no_share(value):
    circuit = make(Graph(1, 1, 1, 0), share=1.0)
    circuit.values[:] = value
    widths = {how["penwidth"] for _, _, how in Parser(circuit.to_dot()).edges}
    assert widths <= {"1.00", "0.60", "5.00"}


def test_a_circuit_without_edges():
    assert Parser(make(share=0.0).to_dot()).nodes == {}
