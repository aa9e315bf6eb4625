"""Where the nodes of a circuit act, and what leads from one to another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph import graphs, naive_edges, naive_ends, split_edge

from interp.errors import CircuitError
from interp.results import Circuit, Graph, MlpUnits, Provenance
from interp.results.circuit_plan import (
    Spot,
    keep_strongest,
    plan_circuit,
    show_edge,
    show_node,
    show_reader,
    show_spot,
)

MADE = Provenance("mix-4l")
LABELLED = Graph(2, 2, 2, 8, positions=("S1", "S2", "END"))
COLUMNS = Graph(2, 2, 2, 8, positions=("0", "1", "2"))
GROUPED = Graph(2, 4, 2, 8)


def make(graph: Graph, *edges: str, values: torch.Tensor | None = None) -> Circuit:
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(edges))] = True
    return Circuit(graph, included, "by hand", MADE, values)


def names(graph: Graph, *edges: str):
    plan = plan_circuit(make(graph, *edges))
    links = {(plan.name(link.source), plan.name(link.target)) for link in plan.links}
    return links, {(plan.name(a), plan.name(b)) for a, b in plan.moves}


def test_without_positions_edges_join_nodes():
    graph = Graph(2, 2, 2, 8)
    links, moves = names(graph, "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->m1", "m1->logits")
    assert links == {("input", "a0.h1"), ("a0.h1", "m1"), ("m1", "logits")}
    assert moves == set()


def test_keys_read_elsewhere_have_a_spot_and_lead_to_where_the_head_acts():
    links, moves = names(
        LABELLED, "input->a0.h1<v>@S1", "input->a0.h1<q>@END", "a0.h1->logits@END", "a0.h1->m0@S2"
    )
    assert links == {
        ("input@S1", "a0.h1<kv>@S1"),
        ("input@END", "a0.h1@END"),
        ("a0.h1@END", "logits@END"),
        ("a0.h1@S2", "m0@S2"),
    }
    assert moves == {("a0.h1<kv>@S1", "a0.h1@S2"), ("a0.h1<kv>@S1", "a0.h1@END")}


def test_keys_read_where_alone_the_head_acts_need_no_spot():
    links, moves = names(LABELLED, "input->a0.h1<v>@END", "a0.h1->logits@END")
    assert links == {("input@END", "a0.h1@END"), ("a0.h1@END", "logits@END")}
    assert moves == set()


def test_nothing_moves_to_an_earlier_column():
    edges = ("input->a0.h1<k>@1", "a0.h1->m0@0", "a0.h1->logits@2")
    assert names(COLUMNS, *edges)[1] == {("a0.h1<kv>@1", "a0.h1@2")}
    # a head that acts only before it reads stands where it reads
    links, moves = names(COLUMNS, "input->a0.h1<k>@1", "a0.h1->m0@0")
    assert ("input@1", "a0.h1@1") in links
    assert moves == set()


def test_heads_of_a_group_share_a_spot_where_several_act():
    links, moves = names(GROUPED, "input->a0.kv1<k>", "a0.h2->logits", "a0.h3->logits")
    assert ("input", "a0.kv1<kv>") in links
    assert moves == {("a0.kv1<kv>", "a0.h2"), ("a0.kv1<kv>", "a0.h3")}
    links, moves = names(GROUPED, "input->a0.kv1<k>", "a0.h3->logits")
    assert ("input", "a0.h3") in links
    assert moves == set()


@settings(max_examples=150)
@given(graphs(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.4]))
def test_every_edge_leads_where_names_say_it_leads(graph, seed, share):
    included = torch.from_numpy(np.random.default_rng(seed).random(graph.n_edges) < share)
    plan = plan_circuit(Circuit(graph, included, "random", MADE))
    chosen = [name for name, there in zip(naive_edges(graph), included.tolist(), strict=True) if there]
    acts = {(split_edge(name)[0], split_edge(name)[2]) for name in chosen}
    acts |= {
        end
        for name in chosen
        if not name.partition("@")[0].endswith(("<k>", "<v>"))
        for end in naive_ends(graph, *split_edge(name)[1:])
    }
    assert [graph.edge_name(link.edge) for link in plan.links] == chosen
    for link, name in zip(plan.links, chosen, strict=True):
        writer, reader, place = split_edge(name)
        at = f"@{place}" if place else ""
        assert plan.name(link.source) == writer + at
        wanted = [end for end in naive_ends(graph, reader, place) if end in acts]
        found = (
            [b for a, b in plan.moves if a == link.target] if link.target.kind == "keys" else [link.target]
        )
        reached = {plan.name(spot) for spot in found}
        default = {naive_ends(graph, reader, place)[0][0] + at}
        assert reached == ({node + (f"@{p}" if p else "") for node, p in wanted} or default)
    assert len(set(plan.spots)) == len(plan.spots)
    assert {spot for link in plan.links for spot in link[1:]} <= set(plan.spots)


def test_names_for_people():
    units = (MlpUnits(0, "neuron", (3,)), MlpUnits(1, "latent", (17,)))
    graph = Graph(2, 4, 2, 8, units=units, positions=("S1", "END"))
    shown = [show_node(graph, node) for node in range(len(graph.nodes))]
    heads = [f"L0H{i}" for i in range(4)]
    assert shown[:7] == ["input", *heads, "M0 neuron 3", "M0 rest"]
    assert shown[-3:] == ["M1 latent 17", "M1 error", "logits"]
    assert show_edge(graph, graph.find_edge("a0.h1->a1.kv1<k>@END")) == "L0H1 → L1KV1 key at END"
    assert show_edge(GROUPED, GROUPED.find_edge("m0->logits")) == "M0 → logits"
    assert show_reader(graph, graph.reader_names.index("a1.h3<q>")) == "L1H3 query"
    assert show_spot(graph, Spot("keys", graph.find_node("a1.h2"), 0)) == "L1KV1 keys and values"
    assert show_spot(LABELLED, Spot("keys", LABELLED.find_node("a1.h1"), 0)) == "L1H1 keys and values"


def test_the_strongest_edges_are_kept():
    graph = Graph(1, 1, 1, 0)
    assert graph.n_edges == 5
    values = torch.tensor([0.1, -0.9, float("nan"), 0.5, 0.5])
    circuit = Circuit(graph, torch.tensor([True, True, True, False, True]), "x", MADE, values)
    assert keep_strongest(circuit, 2).edge_numbers.tolist() == [1, 4]
    assert keep_strongest(circuit, 3).edge_numbers.tolist() == [0, 1, 4]
    assert keep_strongest(circuit, 4) is circuit
    plain = Circuit(graph, circuit.included, "x", MADE)
    assert keep_strongest(plain, 2).edge_numbers.tolist() == [0, 1]
    with pytest.raises(CircuitError, match="at least one edge; got max_edges=0"):
        keep_strongest(circuit, 0)
