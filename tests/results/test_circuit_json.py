"""Circuits as JSON: what was written is read, and nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph import graphs

from interp.errors import DataFileError
from interp.results import Circuit, Graph, MlpUnits, Provenance, storage

MADE = Provenance("mix-4l", task="<ioi> ü", n_prompts=8, seconds=0.1 + 0.2, notes=('a "note"', "b"))
GRAPH = Graph(2, 4, 2, 8, True, (MlpUnits(1, "latent", (3, 9)),), ("0", "1"), ("<s>", ' "a\\'))


def make(
    graph: Graph = GRAPH, seed: int = 0, share: float = 0.3, dtype: torch.dtype = torch.float32
) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    included = torch.rand(graph.n_edges, generator=generator) < share
    values = torch.randn(graph.n_edges, generator=generator, dtype=torch.float64) ** 9
    return Circuit(graph, included, "edges @ random", MADE, values.to(dtype))


def same(a: Circuit, b: Circuit) -> bool:
    alike = (a.graph, a.how, a.provenance) == (b.graph, b.how, b.provenance)
    if (a.values is None) != (b.values is None):
        return False
    equal = a.values is None or (
        a.values.dtype == b.values.dtype
        # every bit, so that 0.0 and -0.0 differ and NaN equals NaN
        and np.array_equal(a.values.double().numpy().view("int64"), b.values.double().numpy().view("int64"))
    )
    return alike and equal and torch.equal(a.included, b.included)


@settings(max_examples=40)
@given(graphs(), st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_round_trip_is_exact(tmp_path_factory, graph, seed, dtype):
    circuit = make(graph, seed, dtype=dtype)
    path = tmp_path_factory.mktemp("c") / "circuit.json"
    assert circuit.write_json(path) == path
    assert same(Circuit.read_json(path), circuit)


@given(st.lists(st.floats(width=32), min_size=8, max_size=8))
def test_every_number_of_single_precision_survives(tmp_path_factory, numbers):
    graph = Graph(1, 1, 1, 4)
    assert graph.n_edges == 8
    values = torch.tensor(numbers)
    circuit = Circuit(
        graph, torch.ones(8, dtype=torch.bool), "x", MADE, values.where(~values.isnan(), math.nan)
    )
    path = circuit.write_json(tmp_path_factory.mktemp("c") / "c.json")
    assert same(Circuit.read_json(path), circuit)


def test_the_file_is_plain_json_that_people_can_read(tmp_path):
    circuit = make(share=0.05)
    text = circuit.write_json(tmp_path / "c.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(data)[:5] == ["format", "version", "graph", "how", "provenance"]
    assert (data["format"], data["version"]) == ("interp circuit", 1)
    assert [row["edge"] for row in data["edges"]] == list(circuit.edges)
    assert data["graph"]["n_kv_heads"] == 2
    assert data["provenance"]["task"] == "<ioi> ü"
    assert len(data["values"]) == circuit.graph.n_edges
    first = data["edges"][0]
    assert f'  {{"edge": "{first["edge"]}", "value": {first["value"]}}},\n' in text
    # an edge a line, and every other part on one
    assert len(text.splitlines()) == 10 + circuit.n_edges


def test_values_may_be_left_out(tmp_path):
    circuit = make()
    read = Circuit.read_json(circuit.write_json(tmp_path / "c.json", all_values=False))
    assert torch.equal(read.values[circuit.included], circuit.values[circuit.included])
    assert bool(read.values[~circuit.included].isnan().all())
    without = replace(circuit, values=None)
    assert same(Circuit.read_json(without.write_json(tmp_path / "w.json")), without)


def test_values_that_are_no_numbers(tmp_path):
    circuit = make(Graph(1, 1, 1, 4))
    circuit.values[:3] = torch.tensor([math.nan, math.inf, -math.inf])
    assert same(Circuit.read_json(circuit.write_json(tmp_path / "c.json")), circuit)


def test_a_circuit_without_edges(tmp_path):
    circuit = make(share=0.0)
    assert same(Circuit.read_json(circuit.write_json(tmp_path / "c.json")), circuit)


def test_files_written_by_hand(tmp_path):
    path = tmp_path / "c.json"
    data = json.loads(make().write_json(path).read_text())
    del data["values"], data["dtype"]
    data["edges"] = [{"edge": "input->logits@1"}, {"edge": "input->a0.h1<q>@0", "value": 0.5}]
    path.write_text(json.dumps(data))
    read = Circuit.read_json(path)
    assert read.edges == ("input->a0.h1<q>@0", "input->logits@1")
    assert float(read.values[read.graph.find_edge("input->a0.h1<q>@0")]) == 0.5
    assert math.isnan(read.values[read.graph.find_edge("input->logits@1")])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = make().write_json(tmp_path / "new" / "c.json")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make(seed=1).write_json(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["c.json"]


def change(name, value):
    def apply(data):
        data[name] = value

    return apply


def change_graph(**sizes):
    return lambda data: data["graph"].update(sizes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("format", "something else"), "no circuit: its 'format' is 'something else'"),
        (lambda data: data.pop("format"), "no circuit: its 'format' is None"),
        (
            change("version", 2),
            r"of version 2; this installation reads version 1\. Was it written by a newer",
        ),
        (lambda data: data.pop("version"), "of version None"),
        (lambda data: data.pop("edges"), "does not hold a whole circuit .KeyError: 'edges'"),
        (lambda data: data.pop("graph"), "KeyError: 'graph'"),
        (lambda data: data["graph"].pop("units"), "KeyError: 'units'"),
        (lambda data: data["graph"].pop("n_heads"), "TypeError"),
        (change_graph(n_layers="2"), "TypeError"),
        (change_graph(n_layers=3), "164 'values' for the 408 edges"),
        (change_graph(n_kv_heads=0), "does not hold a whole circuit"),
        (change_graph(wings=2), "wings"),
        (lambda data: data["edges"].append({"edge": "m9->logits@0"}), "no node 'm9' writes"),
        (lambda data: data["edges"].append(data["edges"][0]), "is listed twice"),
        (lambda data: data["edges"].append({"value": 1.0}), "KeyError: 'edge'"),
        (change("edges", 5), "TypeError"),
        (lambda data: data["values"].pop(), "163 'values' for the 164 edges"),
        (change("values", ["x"]), "ValueError"),
        (change("dtype", "load"), "TypeError"),
        (change("dtype", "float7"), "AttributeError"),
        (lambda data: data["edges"][0].update(value=77.0), "is another in the list 'values'"),
        (change("provenance", {}), "TypeError"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, damage, message):
    path = make().write_json(tmp_path / "c.json")
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataFileError, match=message) as caught:
        Circuit.read_json(path)
    assert str(path) in str(caught.value)


def test_what_is_no_json(tmp_path):
    path = make().write_json(tmp_path / "c.json")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataFileError, match="no readable JSON"):
        Circuit.read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataFileError, match="no readable JSON"):
        Circuit.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataFileError, match="no readable JSON"):
        Circuit.read_json(path)
    path.write_text("[1, 2]")
    with pytest.raises(DataFileError, match="no circuit"):
        Circuit.read_json(path)
    with pytest.raises(DataFileError, match="no file at"):
        Circuit.read_json(tmp_path / "nothing.json")
