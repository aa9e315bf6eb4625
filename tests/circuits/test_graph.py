"""The graph of a model, held against what the model does; positions of prompts as the graph's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task
from tiny_models import FAMILIES

import interp
from interp.circuits.graph import OTHER, build_graph, check_graph, place_columns
from interp.errors import CircuitError, TaskError
from interp.results import MlpUnits

MODELS = (*FAMILIES, "neox_sequential", "attention_only")
TOKENS = torch.randint(1, 53, (2, 6), generator=torch.Generator().manual_seed(0))


def reads(model, *interventions):
    """What every reader but the logits reads out of the residual stream, by its name in the graph."""
    traits = model.traits
    sites = ["q", "k", "v", "mlp_pre"] if traits.d_mlp else ["q", "k", "v"]
    with torch.no_grad(), interp.intervene(model, interventions) if interventions else nullcontext():
        cache = interp.capture(model, TOKENS, sites=sites)
    kv = "h" if traits.n_kv_heads == traits.n_heads else "kv"
    found = {}
    for layer in range(traits.n_layers):
        for kind in ("q", "k", "v"):
            for head in range(cache[kind].shape[3]):
                found[f"a{layer}.{'h' if kind == 'q' else kv}{head}<{kind}>"] = cache[kind][layer, :, :, head]
        if traits.d_mlp:
            found[f"m{layer}"] = cache["mlp_pre"][layer]
    return found


def writer_sites(model):
    traits = model.traits
    yield "input", "resid_pre[0]", traits.d_model
    for layer in range(traits.n_layers):
        yield f"a{layer}.h1", f"z[{layer}.1]", traits.d_head
        if traits.d_mlp:
            yield f"m{layer}", f"mlp_out[{layer}]", traits.d_model


@pytest.mark.parametrize("name", MODELS)
def test_a_reader_changes_where_the_graph_has_an_edge_to_it_and_nowhere_else(name):
    model = specimen(name).model
    graph = build_graph(model)
    before = reads(model)
    assert set(before) == set(graph.reader_names) - {"logits"}
    for writer, site, width in writer_sites(model):
        vector = torch.randn(width, generator=torch.Generator().manual_seed(1))
        after = reads(model, interp.add(site, vector))
        changed = {reader for reader in before if float((after[reader] - before[reader]).abs().max()) > 1e-4}
        edges = {
            name.split("->")[1]
            for name in graph.edge_names(range(graph.n_edges))
            if name.startswith(writer + "->")
        }
        assert changed == edges - {"logits"}, writer
        assert "logits" in edges


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_keys_and_values_feed_the_heads_of_their_group(name):
    model = specimen(name).model
    graph = build_graph(model)
    kv = "kv" if graph.n_kv_heads != graph.n_heads else "h"
    for kind in ("k", "v"):
        reader = graph.reader_names.index(f"a1.{kv}1<{kind}>")
        z = interp.capture(model, TOKENS, sites=["z"])["z"][1]
        with interp.intervene(model, [interp.add(f"{kind}[1.1]", torch.arange(model.traits.d_head) + 1.0)]):
            other = interp.capture(model, TOKENS, sites=["z"])["z"][1]
        # an equal change of every key leaves a row of a softmax as it was, but for position embeddings
        changed = ((other - z).abs().amax((0, 1, 3)) > 1e-4).nonzero().flatten().tolist()
        fed = [graph.nodes[node] for node in graph.fed[reader]]
        if changed or kind == "v":
            assert [f"a1.h{head}" for head in changed] == fed


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_the_models(name):
    model = specimen(name).model
    graph, traits = build_graph(model), model.traits
    assert (graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.d_mlp) == (
        traits.n_layers, traits.n_heads, traits.n_kv_heads, traits.d_mlp
    )  # fmt: skip
    assert graph.parallel_blocks == (name == "gpt_neox")
    check_graph(graph, model)


def test_graphs_of_other_models_are_refused():
    llama, gpt2 = specimen("llama").model, specimen("gpt2").model
    with pytest.raises(
        CircuitError, match=r"this graph has .* \(2, 4, 4, 52, False\), .* has \(2, 4, 2, 52, False\)"
    ):
        check_graph(build_graph(gpt2), llama)


def test_units():
    model = specimen("gpt2").model
    graph = build_graph(model, neurons={1: [7, 3]}, latents={0: range(2)})
    assert graph.units == (MlpUnits(0, "latent", (0, 1)), MlpUnits(1, "neuron", (3, 7)))
    every = build_graph(model, neurons="all")
    assert len(every.units_of(1).indices) == 52
    assert "m1" not in every.nodes
    with pytest.raises(CircuitError, match=r"neurons are 'all' or given by layer, .*; got 'some'"):
        build_graph(model, neurons="some")
    with pytest.raises(CircuitError, match="MLP 1 is given neurons and latents"):
        build_graph(model, neurons={1: [2]}, latents={1: [2]})
    with pytest.raises(CircuitError, match=r"neurons of MLP 1 lie in 0\.\.51; got 52"):
        build_graph(model, neurons={1: [52]})
    with pytest.raises(CircuitError, match="no such MLP"):
        build_graph(specimen("attention_only").model, latents={0: [2]})


def test_each_position():
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=8, seed=0)
    length = int(task.lengths[0])
    alike = task.select([i for i in range(len(task)) if int(task.lengths[i]) == length])
    graph = build_graph(model, alike, positions="pos")
    assert graph.positions == tuple(map(str, range(length)))
    assert graph.position_tokens == alike.clean_str_tokens[0]
    plain = build_graph(model, random_task([5, 5], "right", [1, 1]), positions="pos")
    assert plain.positions == ("0", "1", "2", "3", "4")
    assert plain.position_tokens == ()


def test_positions_that_cannot_be():
    model = specimen("gpt2").model
    task = random_task([5, 7], "right", [1, 1])
    with pytest.raises(CircuitError, match=r"needs prompts of one length; got lengths \[5, 7\]"):
        build_graph(model, task, positions="pos")
    with pytest.raises(CircuitError, match="give the task too"):
        build_graph(model, positions="pos")
    with pytest.raises(CircuitError, match="'pos' or a list of the task's labels; got 'END'"):
        build_graph(model, task, positions="END")
    for labels in ([], ["S", OTHER]):
        with pytest.raises(CircuitError, match="none of them 'other'"):
            build_graph(model, task, positions=labels)
    with pytest.raises(TaskError, match="unknown position label"):
        build_graph(model, task, positions=["S9"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_are_placed_wherever_padding_stands(side):
    model = specimen("gpt2").model
    task = random_task([4, 5, 6], side, [1, 1, 1])

    def padded(*rows):
        return [
            [-1] * (6 - len(row)) + row if side == "left" else row + [-1] * (6 - len(row)) for row in rows
        ]

    plain = place_columns(build_graph(model), task)
    assert plain.tolist() == padded([0] * 4, [0] * 5, [0] * 6)
    # S is token 1, 2 and 3 of the rows, END their last
    labelled = place_columns(build_graph(model, task, positions=["END", "S"]), task)
    assert labelled.tolist() == padded([2, 1, 2, 0], [2, 2, 1, 2, 0], [2, 2, 2, 1, 2, 0])
    alone = place_columns(build_graph(model, task, positions=["S"]), task)
    assert alone.tolist() == padded([1, 0, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1, 1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_column_is_its_position(side):
    model = specimen("gpt2").model
    graph = build_graph(model, random_task([4], side, [1]), positions="pos")
    assert place_columns(graph, random_task([4, 4], side, [1, 1])).tolist() == [[0, 1, 2, 3]] * 2
    shorter = place_columns(graph, random_task([3, 4], side, [1, 1])).tolist()
    assert shorter == [[-1, 0, 1, 2] if side == "left" else [0, 1, 2, -1], [0, 1, 2, 3]]
    with pytest.raises(CircuitError, match="the graph has 4 positions, but the prompts are 5 tokens long"):
        place_columns(graph, random_task([5], side, [1]))


def test_labels_of_one_token_are_refused():
    task = random_task([5, 6, 4], "right", [1, 1, 1])
    graph = build_graph(specimen("gpt2").model, task, positions=["END", "S"])
    with pytest.raises(CircuitError, match="label 'S' of prompt 2 is a token that another position"):
        place_columns(graph, task)
