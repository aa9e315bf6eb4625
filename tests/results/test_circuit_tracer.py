"""Graph files for circuit-tracer's frontend, checked against what it reads and where it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph import graphs

from interp.errors import CircuitError, DataFileError
from interp.results import Circuit, Graph, MlpUnits, Provenance
from interp.results.circuit_tracer import INDEX, tracer_graph

PLAIN = Graph(2, 2, 2, 8)
LABELLED = Graph(2, 2, 2, 8, positions=("S1", "S2", "END"))
LATENTS = Graph(
    2, 2, 2, 8, units=(MlpUnits(1, "latent", (0, 17)),), positions=("0", "1"), position_tokens=("a", " b")
)

# field: types, from circuit-tracer's graph_models.py and Neuronpedia's graph-schema.json
METADATA = {
    "slug": str,
    "scan": str,
    "transcoder_list": list,
    "prompt_tokens": list,
    "prompt": str,
    "node_threshold": float,
    "schema_version": int,
    "info": dict,
}
PARAMETERS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "token_prob": float,
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
    "jsNodeId": str,
    "clerp": str,
    "influence": (float, type(None)),
    "activation": (float, type(None)),
}
LINK = {"source": str, "target": str, "weight": float, "edges": list}


def check_fields(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, kind in wanted.items():
        assert isinstance(found[name], kind), (name, found[name])
        assert isinstance(found[name], bool) == (kind is bool)


def check_graph(graph: dict[str, Any]) -> None:
    """The schema, and what the frontend's code takes for granted."""
    assert list(graph) == ["metadata", "qParams", "nodes", "links"]
    check_fields(graph["metadata"], METADATA)
    check_fields(graph["qParams"], PARAMETERS)
    json.dumps(graph, allow_nan=False)
    nodes = graph["nodes"]
    columns = graph["metadata"]["prompt_tokens"]
    assert all(isinstance(token, str) for token in columns)
    # it drops a node that stands at more than two thirds of all tokens
    assert len(columns) > 1
    for node in nodes:
        check_fields(node, NODE)
        assert node["layer"] == "E" or int(node["layer"]) >= 0
        assert 0 <= node["ctx_idx"] < len(columns)
        if node["feature_type"] == "logit":
            # it reads the probability between these and fails where they are missing
            node["clerp"].split("(p=")[1].split(")")[0]
        if node["influence"] is not None:
            assert 0 <= node["influence"] <= graph["metadata"]["node_threshold"]
    ids = {node["node_id"] for node in nodes}
    # pinned ids are joined by commas in its address
    assert not any("," in name for name in ids)
    assert len(ids) == len({node["jsNodeId"] for node in nodes}) == len(nodes)
    # it keeps labels by layer, number and column
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in nodes}) == len(nodes)
    assert set(graph["qParams"]["pinnedIds"]) == ids
    joined = [(link["source"], link["target"]) for link in graph["links"]]
    assert len(set(joined)) == len(joined)
    for link in graph["links"]:
        check_fields(link, LINK)
        assert {link["source"], link["target"]} <= ids


def make(graph: Graph, *edges: str) -> Circuit:
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(edges))] = True
    numbers = torch.arange(graph.n_edges).float() / 8
    made = Provenance("mix-4l", task="ioi", metric='logit "difference"', method="eap", direction="noise")
    return Circuit(graph, included, "by hand", made, numbers)


def value(graph: Graph, edge: str) -> float:
    return graph.find_edge(edge) / 8


@settings(max_examples=60)
@given(graphs(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5]))
def test_every_circuit_fits_the_format_and_keeps_its_values(graph, seed, share):
    generator = torch.Generator().manual_seed(seed)
    included = torch.rand(graph.n_edges, generator=generator) < share
    values = torch.randn(graph.n_edges, generator=generator)
    circuit = Circuit(graph, included, "random", Provenance("mix-4l"), values)
    found = tracer_graph(circuit)
    check_graph(found)
    total = sum(link["weight"] for link in found["links"])
    assert total == pytest.approx(float(values[included].double().sum()), abs=1e-9)
    assert {name for link in found["links"] for name in link["edges"]} == set(circuit.edges)


def test_nodes_by_head_and_mlp():
    edges = ("input->a0.h1<q>", "a0.h1->m1", "a0.h1->logits", "m1->logits")
    found = tracer_graph(make(PLAIN, *edges))
    check_graph(found)
    assert found["metadata"]["prompt_tokens"] == ["head 0", "head 1", "MLP"]
    told = {
        node["node_id"]: (node["layer"], node["ctx_idx"], node["feature_type"], node["clerp"])
        for node in found["nodes"]
    }
    assert told == {
        "input": ("E", 0, "embedding", "input"),
        "a0.h1": ("0", 1, "attention head", "L0H1"),
        "m1": ("1", 2, "mlp", "M1"),
        "logits": ("3", 2, "logit", "Output \"logit 'difference'\" (p=unknown)"),
    }
    assert found["metadata"]["info"]["provenance"]["method"] == "eap"
    assert found["metadata"]["info"]["description"] == "by hand"


def test_queries_keys_and_values_between_two_nodes_are_one_link():
    edges = ["input->a0.h1<q>", "input->a0.h1<v>", "a0.h1->logits"]
    links = tracer_graph(make(PLAIN, *edges))["links"]
    joined = next(link for link in links if link["target"] == "a0.h1")
    assert joined["edges"] == edges[:2]
    assert joined["weight"] == value(PLAIN, edges[0]) + value(PLAIN, edges[1])


def test_values_that_may_go_to_several_positions_are_shared_out():
    edge = "input->a0.h0<v>@S1"
    found = tracer_graph(make(LABELLED, edge, "a0.h0->m0@S2", "a0.h0->logits@END"))
    check_graph(found)
    links = {(link["source"], link["target"]): link["weight"] for link in found["links"]}
    half = value(LABELLED, edge) / 2
    assert links["input@S1", "a0.h0@S2"] == links["input@S1", "a0.h0@END"] == half
    assert [node["ctx_idx"] for node in found["nodes"] if node["node_id"] == "a0.h0@END"] == [2]
    assert found["metadata"]["prompt_tokens"] == ["S1", "S2", "END"]


def test_latents_are_features_and_their_rest_an_error():
    edges = ("input->m1.l17@1", "m1.l17->logits@1", "m1.l0->logits@1", "m1->logits@1", "a1.h0->logits@1")
    found = tracer_graph(make(LATENTS, *edges, "input->a1.h0<q>@1"))
    check_graph(found)
    told = {node["node_id"]: (node["feature_type"], node["feature"]) for node in found["nodes"]}
    # Cantor's pairing of (1, 17): 18 * 19 / 2 + 17
    assert told["1_17_1"] == ("cross layer transcoder", 188)
    assert told["1_0_1"] == ("cross layer transcoder", 1)
    assert told["1_-1_1"] == ("mlp reconstruction error", -1)
    # beside latents no head may have a feature's number
    assert told["a1.h0@1"] == ("attention head", -2)
    assert found["metadata"]["prompt"] == "a b"
    assert tracer_graph(make(LATENTS, *edges), prompt="a  b")["metadata"]["prompt"] == "a  b"


def test_influence_is_the_share_that_leaves_nodes_at_least_as_strong():
    edges = ("input->m0", "m0->m1", "m1->logits")
    found = tracer_graph(make(PLAIN, *edges))
    strength = {edge.split("->")[0]: value(PLAIN, edge) for edge in edges}
    total, so_far = sum(strength.values()), 0.0
    influence = {node["node_id"]: node["influence"] for node in found["nodes"]}
    for name in sorted(strength, key=lambda name: -strength[name]):
        so_far += strength[name]
        assert influence[name] == pytest.approx(so_far / total)
    assert influence["logits"] is None


def test_circuits_without_values_have_equal_weights():
    circuit = make(PLAIN, "input->m0", "m0->logits")
    plain = Circuit(circuit.graph, circuit.included, "x", circuit.provenance)
    assert [link["weight"] for link in tracer_graph(plain)["links"]] == [1.0, 1.0]
    circuit.values[circuit.included] = float("nan")
    with pytest.raises(CircuitError, match="not finite"):
        tracer_graph(circuit)


def test_a_single_position_has_an_empty_column_beside_it():
    graph = Graph(1, 1, 1, 0, positions=("0",), position_tokens=("a",))
    found = tracer_graph(make(graph, "input->logits@0"))
    check_graph(found)
    assert found["metadata"]["prompt_tokens"] == ["a", ""]


def test_files_and_the_list_of_a_folder(tmp_path):
    circuit = make(PLAIN, "input->m0", "m0->logits")
    path = circuit.write_circuit_tracer(tmp_path / "first.json", prompt="When Mary")
    graph = json.loads(path.read_text(encoding="utf-8"))
    check_graph(graph)
    assert (graph["metadata"]["slug"], graph["metadata"]["prompt"]) == ("first", "When Mary")
    assert not (tmp_path / INDEX).exists()
    for name in ("first", "second", "first"):
        circuit.write_circuit_tracer(tmp_path / f"{name}.json", index=True)
    listed = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))["graphs"]
    assert [row["slug"] for row in listed] == ["second", "first"]
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(DataFileError, match=r"no list of graphs .KeyError: 'graphs'"):
        circuit.write_circuit_tracer(tmp_path / "third.json", index=True)
    assert not (tmp_path / "third.json").exists()
