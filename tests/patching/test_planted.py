"""Exact patching on models whose circuit is known: it finds that circuit and nothing else."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import interp
from interp.bundled_data import data_path
from interp.models.bundled.planted import PLANTED, PlantedCircuit, load_circuit, planted_task
from interp.models.model import Model
from interp.results import PatchScores
from interp.tasks.base import PromptPairs

FOUND, NOTHING = 0.05, 1e-4


@pytest.fixture(params=PLANTED, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Model:
    return interp.load_model(name)


@pytest.fixture(scope="module")
def circuit(name: str) -> PlantedCircuit:
    return load_circuit(data_path(f"models/{name}"))


@pytest.fixture(scope="module")
def task(name: str) -> PromptPairs:
    return planted_task(name, n=24, seed=5)


def effects_of_nodes(scores: PatchScores) -> dict[str, Tensor]:
    """Effects by the names that circuits use: ``a0.h1``, ``m1``."""
    found = {}
    for site, entries in scores.items():
        for layer, values in enumerate(scores.effects(site)):
            if entries.component == "z":
                found |= {f"a{layer}.h{head}": value for head, value in enumerate(values)}
            else:
                found[f"m{layer}"] = values
    return found


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_exactly_the_planted_heads_and_mlps_are_found(
    model: Model, circuit: PlantedCircuit, task: PromptPairs, direction: str
) -> None:
    sites = ["z", "mlp_out@all"] if model.traits.d_mlp else ["z"]
    effects = effects_of_nodes(interp.patch(model, task, sites, direction=direction, progress=False))
    planted = set(circuit.nodes) - {"input", "logits"}
    assert set(effects) == planted | set(circuit.decoys)
    assert {node for node, effect in effects.items() if abs(float(effect)) > FOUND} == planted
    assert all(abs(float(effects[node])) < NOTHING for node in circuit.decoys), effects


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_they_are_found_at_the_planted_positions_only(
    model: Model, circuit: PlantedCircuit, task: PromptPairs, direction: str
) -> None:
    sites = ["z@pos", "mlp_out"] if model.traits.d_mlp else ["z@pos"]
    # the first token is <bos> in both prompts, so this patch does nothing
    scores = interp.patch(model, task, [*sites, "z[1.0]@0"], direction=direction, progress=False)
    unpatched, positions = scores["z[1.0]@0"].per_prompt, torch.arange(task.clean.shape[1])[:, None, None]
    moved_at_all = torch.zeros(len(task), dtype=torch.bool)
    for node, where in circuit.positions.items():
        entries = scores["z@pos" if "h" in node else "mlp_out"].per_prompt
        assert entries is not None and unpatched is not None
        moved = (entries[tuple(map(int, re.findall(r"\d", node)))] - unpatched).abs()
        listed = (positions == torch.stack([task.labels[label] for label in where])).any(1)
        assert float(moved[~listed].max()) < NOTHING, node
        assert float(moved[listed].max()) > 1, node
        moved_at_all |= (moved > 1).any(0)
    assert bool(moved_at_all.all()), "some pair is moved by no planted part"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_exactly_the_planted_neurons_are_found(
    model: Model, circuit: PlantedCircuit, task: PromptPairs, direction: str
) -> None:
    if not model.traits.d_mlp:
        assert not circuit.neurons
        return
    effects = interp.patch(model, task, "mlp_post.n*", direction=direction, progress=False).effects(
        "mlp_post"
    )
    found = {(int(layer), int(n)) for layer, n in (effects.abs() > FOUND).nonzero()}
    planted = {(int(node[1:]), n) for node, neurons in circuit.neurons.items() for n in neurons}
    assert found == planted
    assert all(
        abs(float(effects[layer, n])) < NOTHING
        for layer in range(effects.shape[0])
        for n in range(effects.shape[1])
        if (layer, n) not in planted
    )
