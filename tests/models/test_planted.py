"""Planted circuits, proved by brute force: every node and edge, patched in a forward of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from naive_planted import Direct, Patching
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.errors import ModelError, TaskError
from interp.models.bundled.planted import PLANTED, PlantedCircuit, load_circuit, planted_task, write_planted
from interp.models.bundled.planted.chain import FACTS, gets_in
from interp.tasks.base import PromptPairs

ZERO = 1e-9
CLEAR = {"planted-shared": 0.04}
"""Least share of the range that every edge moves, by name; others 0.2."""
OPPOSING = {"planted-backup": {"a0.h0->a1.h0<q>", "input->a1.h0<k>"}}
"""Edges that work against the answer."""
DIRECTIONS = ("denoise", "noise")


def least(direct: Direct) -> float:
    return CLEAR.get(direct.circuit.name, 0.2)


@pytest.fixture(params=PLANTED, scope="module")
def direct(request: pytest.FixtureRequest) -> Direct:
    return Direct(PLANTED[request.param])


@pytest.fixture(scope="module")
def pairs(direct: Direct) -> PromptPairs:
    return planted_task(direct.circuit.name, n=24, seed=7)


@pytest.fixture(params=DIRECTIONS, scope="module")
def patching(request: pytest.FixtureRequest, direct: Direct, pairs: PromptPairs) -> Patching:
    return Patching(direct, pairs, request.param)


def test_the_direct_forward_is_the_model(direct: Direct, pairs: PromptPairs) -> None:
    for tokens in (pairs.clean, pairs.corrupted):
        ours = direct.model(tokens).logits
        torch.testing.assert_close(direct.run(tokens)["logits"].float(), ours, atol=1e-5, rtol=1e-5)


def test_exactly_the_listed_edges_matter(direct: Direct, patching: Patching) -> None:
    found = patching.of_edges()
    listed, opposing = set(direct.circuit.edges), OPPOSING.get(direct.circuit.name, set())
    assert listed <= found.keys()
    for edge, (recovered, moved) in found.items():
        if edge in listed:
            assert (-recovered if edge in opposing else recovered) > least(direct), (edge, recovered)
        else:
            assert abs(recovered) < ZERO and moved < ZERO, (edge, recovered, moved)


def test_exactly_the_listed_nodes_matter(direct: Direct, patching: Patching) -> None:
    circuit = direct.circuit
    assert {*circuit.nodes, *circuit.decoys} == {*direct.nodes, "logits"}
    assert set(circuit.positions) == set(circuit.nodes) - {"input", "logits"}
    for node in direct.nodes:
        recovered, moved = patching.of_node(node)
        if node in circuit.nodes:
            assert recovered > least(direct), (node, recovered)
        else:
            assert abs(recovered) < ZERO and moved < ZERO, (node, recovered, moved)


def test_nodes_matter_at_the_listed_positions_only(direct: Direct, patching: Patching) -> None:
    labels, length = patching.pairs.labels, patching.pairs.clean.shape[1]
    for node, where in direct.circuit.positions.items():
        listed = torch.stack([labels[label] for label in where], 1)
        total = 0.0
        for label in where:
            recovered, _ = patching.of_node(node, labels[label])
            assert recovered > least(direct) / 4, (node, label, recovered)
            total += recovered
        assert total > least(direct), (node, total)
        for position in range(length):
            # rows in which this position is a listed one are left out by patching an impossible column
            column = torch.where((listed == position).any(1), -1, torch.full((len(listed),), position))
            _, moved = patching.of_node(node, column)
            assert moved < 1e-5, (node, position, moved)


def test_zero_ablation_adds_exactly_the_constant_edges(direct: Direct, pairs: PromptPairs) -> None:
    expected = {*direct.circuit.edges, *direct.circuit.constant_edges}
    assert not set(direct.circuit.edges) & set(direct.circuit.constant_edges)
    for edge, (_, moved) in Patching(direct, pairs, "noise").of_edges(zero=True).items():
        assert (moved > 0.01) if edge in expected else (moved < ZERO), (edge, moved)


def test_decoys_are_busy(direct: Direct, patching: Patching) -> None:
    """That decoys have no effect says nothing unless they do something, and something that differs."""
    changed = {
        node: (patching.source[node] - patching.base[node]).abs().max().item() for node in direct.nodes
    }
    silent = {node for node, why in direct.circuit.decoys.items() if "always 0" in why}
    assert len(silent) == 1
    for node in direct.circuit.decoys:
        assert (changed[node] == 0) if node in silent else (changed[node] > 0.1), (node, changed[node])
    for node in silent:
        layer, head = int(node[1]), int(node[-1])
        attention = direct.model.blocks[layer].attn
        for weight in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O):
            assert weight[head].abs().max() > 0.1
        reads = [patching.effect(lambda s, t, out, n=node: out * 0 if s == n else out)[1]]
        assert max(reads) == 0


def test_hooks_of_the_model_find_the_same_nodes(direct: Direct, pairs: PromptPairs) -> None:
    """The fp32 model itself, patched through its hook points, denoising."""
    model = direct.model
    hooks = {f"a{layer}.h{head}": (f"blocks.{layer}.attn.o.hook_in", head) for layer in range(direct.config.n_layers)
             for head in range(direct.config.n_heads)}  # fmt: skip
    if direct.config.d_mlp:
        hooks |= {
            f"m{layer}": (f"blocks.{layer}.mlp.hook_out", None) for layer in range(direct.config.n_layers)
        }

    def measure(logits: Tensor) -> float:
        last = logits[:, -1]
        return (last.gather(1, pairs.answers) - last.gather(1, pairs.wrong)).mean().item()

    saved: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(hook).register_forward_hook(
            lambda module, a, out: saved.__setitem__(module.name, out)
        )
        for hook in {hook for hook, _ in hooks.values()}
    ]
    clean = measure(model(pairs.clean).logits)
    for handle in handles:
        handle.remove()
    corrupted = measure(model(pairs.corrupted).logits)
    for node, (hook, head) in hooks.items():

        def patch(module: Any, args: Any, out: Tensor, head: int | None = head, hook: str = hook) -> Tensor:
            where = slice(None) if head is None else (slice(None), slice(None), head)
            out = out.clone()
            out[where] = saved[hook][where]
            return out

        with model.get_submodule(hook).register_forward_hook(patch):
            recovered = (measure(model(pairs.corrupted).logits) - corrupted) / (clean - corrupted)
        planted = node in direct.circuit.nodes
        assert recovered > least(direct) if planted else abs(recovered) < 1e-6, (node, recovered)


def test_exactly_the_listed_neurons_matter(direct: Direct, pairs: PromptPairs) -> None:
    for layer in range(direct.config.n_layers if direct.config.d_mlp else 0):
        mlp = direct.model.blocks[layer].mlp
        saved: list[Tensor] = []
        with mlp.get_submodule("out.hook_in").register_forward_hook(lambda m, a, out, s=saved: s.append(out)):
            clean = direct.model(pairs.clean).logits
        base = direct.model(pairs.corrupted).logits
        for neuron in range(direct.config.d_mlp):
            column = torch.arange(direct.config.d_mlp) == neuron

            def patch(m: Any, a: Any, out: Tensor, c: Tensor = column, s: list[Tensor] = saved) -> Tensor:
                return torch.where(c, s[0], out)

            with mlp.get_submodule("out.hook_in").register_forward_hook(patch):
                moved = (direct.model(pairs.corrupted).logits - base)[:, -1].abs().max().item()
            listed = neuron in direct.circuit.neurons.get(f"m{layer}", ())
            assert (moved > 0.5) if listed else (moved < 1e-6), (layer, neuron, moved)
        assert (clean - base).abs().max() > 1


def test_the_model_is_always_right(direct: Direct) -> None:
    pairs = planted_task(direct.circuit.name, n=240, seed=11)
    for tokens, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.wrong)):
        logits = direct.model(tokens).logits[:, -1]
        assert torch.equal(logits.argmax(-1), answers[:, 0])
    difference = direct.model(pairs.clean).logits[:, -1]
    difference = difference.gather(1, pairs.answers) - difference.gather(1, pairs.wrong)
    assert difference.min() > 3


def test_pairs_are_what_they_say(direct: Direct) -> None:
    name = direct.circuit.name
    pairs = planted_task(name, n=60, seed=3)
    again, other = planted_task(name, n=60, seed=3), planted_task(name, n=60, seed=4)
    assert torch.equal(pairs.clean, again.clean) and not torch.equal(pairs.clean, other.clean)
    assert torch.equal(pairs.clean[:12], planted_task(name, n=12, seed=3).clean)
    kinds = [info["kind"] for info in pairs.info]
    assert all(kinds.count(kind) == 60 // len(set(kinds)) for kind in kinds)
    assert (pairs.clean != pairs.corrupted).any(1).all()
    tokenizer = direct.tokenizer
    for row, (clean, corrupted) in enumerate(
        zip(pairs.clean_text or (), pairs.corrupted_text or (), strict=True)
    ):
        assert tokenizer(clean)["input_ids"] == pairs.clean[row].tolist()
        assert tokenizer(corrupted)["input_ids"] == pairs.corrupted[row].tolist()
        assert tokenizer.unk_token_id not in pairs.clean[row]
        assert tokenizer.convert_tokens_to_ids(pairs.info[row]["answer"]) == pairs.answers[row, 0]
    for label, words in {
        "micro": {"MODE": {"plain", "flip"}, "COLON": {":"}, "VALUE2": {"hot", "cold"}, "END": {"="}},
        "planted-copy": {},
        "planted-gate": {"DOOR": {"open", "closed"}, "SIGN": {"left", "right"}, "SKY": {"blue", "grey"}},
        "planted-backup": {"LAMP": {"red", "green", "blue"}, "DOOR": {"open", "shut"}, "END": {"so"}},
        "planted-chain": {"KEY": {"fits", "sticks"}, "TOLD": {"true", "false"}, "END": {"so"}},
        "planted-shared": {},
    }[name].items():
        at = pairs.labels[label].tolist()
        assert {(pairs.clean_str_tokens or ())[row][p] for row, p in enumerate(at)} == words
    if name in ("planted-copy", "planted-shared"):
        rows = torch.arange(60)
        assert torch.equal(pairs.clean[rows, pairs.labels["B"]], pairs.answers[:, 0])
        assert torch.equal(pairs.clean[rows, pairs.labels["A"]], pairs.clean[:, -1])
        assert torch.equal(pairs.labels["B"], pairs.labels["A"] + 1)


def test_bundled_folder_is_what_the_code_writes(direct: Direct, tmp_path: Path, root: Path) -> None:
    name = direct.circuit.name
    bundled = root / "data" / "models" / name
    written = write_planted(name, tmp_path / name)
    assert {path.name for path in bundled.iterdir()} == {path.name for path in written.iterdir()}
    for path in bundled.iterdir():
        if path.name in ("config.json", "generation_config.json"):
            ours, theirs = (json.loads((folder / path.name).read_text()) for folder in (written, bundled))
            assert ours | {"transformers_version": ""} == theirs | {"transformers_version": ""}
        else:
            assert (written / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(path.stat().st_size for path in bundled.iterdir()) < 130_000


def test_bundled_folder_loads(direct: Direct, pairs: PromptPairs, root: Path) -> None:
    folder = root / "data" / "models" / direct.circuit.name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert torch.equal(model(pairs.clean).logits, direct.model(pairs.clean).logits)
    assert tokenizer((pairs.clean_text or ())[0])["input_ids"] == pairs.clean[0].tolist()
    assert load_circuit(folder) == direct.circuit
    assert PlantedCircuit.from_json(direct.circuit.to_json()) == direct.circuit
    batch = tokenizer([(pairs.clean_text or ())[0], "is"], return_tensors="pt", padding=True)
    padded = model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits
    torch.testing.assert_close(padded[1, -2:], model(torch.tensor([tokenizer("is")["input_ids"]])).logits[0])


def test_the_backup_saves_the_answer() -> None:
    """Without the first head's part the answer stands, and falls where the backup is held still as well."""
    direct = Direct(PLANTED["planted-backup"])
    pairs = planted_task("planted-backup", n=24, seed=7)
    patching = Patching(direct, pairs, "noise")

    def lost(edges: set[tuple[str, str]]) -> int:
        patched = direct.run(pairs.clean, lambda u, v, out: patching.source[u] if (u, v) in edges else out)
        return int((patching.measure(patched) < 0).sum())

    assert lost({("a0.h0", "logits"), ("a0.h0", "a1.h0<q>")}) == 0
    assert lost({("a0.h0", "logits")}) == 24
    assert lost({("a0.h0", "a1.h0<q>")}) == 0


@pytest.mark.parametrize("kind", FACTS)
def test_the_chain_computes_its_formula(kind: str) -> None:
    facts = dict.fromkeys(FACTS, True)
    assert gets_in(facts)
    others = {"key": False, "guard": False, "window": False, "told": False} | {kind: True}
    assert gets_in(others) == (kind not in ("window", "told"))


def test_unknown_names_and_empty_tasks_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown planted model 'planted-gat'; did you mean 'planted-gate'"):
        planted_task("planted-gat")
    with pytest.raises(TaskError, match="n must be at least 1"):
        planted_task("micro", n=0)
