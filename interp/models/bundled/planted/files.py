"""Planted models as folders: the same files every time they are written."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

CIRCUIT_FILE = "circuit.json"
_CARD_PAIRS, _CARD_SEED = 64, 0


def save_planted(planted: PlantedModel, out_dir: str | Path) -> Path:
    """Write model, tokenizer, ``circuit.json`` and card into ``out_dir``; returns the folder.

    Files written twice by the same versions of the libraries are bit-identical.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer, circuit = planted.build()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CIRCUIT_FILE).write_text(json.dumps(circuit.to_json(), indent=2) + "\n", encoding="utf-8")
    card = _write_card(model, circuit, planted.make_pairs(_CARD_PAIRS, _CARD_SEED))
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def load_circuit(folder: str | Path) -> PlantedCircuit:
    """Read the ``circuit.json`` of a planted model's folder."""
    return PlantedCircuit.from_json(json.loads((Path(folder) / CIRCUIT_FILE).read_text(encoding="utf-8")))


@torch.no_grad()
def _measure(model: PlainTransformer, pairs: PromptPairs) -> tuple[float, float, float]:
    """Accuracy, and the mean logit difference (answer minus wrong) on clean and corrupted prompts."""
    last = [model(tokens).logits[:, -1] for tokens in (pairs.clean, pairs.corrupted)]
    clean, corrupted = (
        (logits.gather(1, pairs.answers) - logits.gather(1, pairs.wrong)).mean().item() for logits in last
    )
    accuracy = (last[0].argmax(-1) == pairs.answers[:, 0]).float().mean().item()
    return accuracy, clean, corrupted


def _show_kinds(pairs: PromptPairs) -> str:
    """One pair of every kind, as a table."""
    first: dict[str, int] = {}
    for index, info in enumerate(pairs.info):
        first.setdefault(info["kind"], index)
    rows = [
        f"| {kind} | `{(pairs.clean_text or ())[index]}` | {pairs.info[index]['answer']} "
        f"| `{(pairs.corrupted_text or ())[index]}` | {pairs.info[index]['wrong']} |"
        for kind, index in first.items()
    ]
    header = "| what differs | clean | answer | corrupted | answer |\n|---|---|---|---|---|\n"
    return header + "\n".join(rows)


def _write_card(model: PlainTransformer, circuit: PlantedCircuit, pairs: PromptPairs) -> str:
    config = model.config
    accuracy, clean, corrupted = _measure(model, pairs)
    mlp = (
        f"{config.d_mlp} {config.act} neurons{' (gated)' if config.gated_mlp else ''}"
        if config.d_mlp
        else "no MLP"
    )
    rows = [(node, f"planted, at {', '.join(where)}") for node, where in circuit.positions.items()]
    rows += [(node, f"decoy: {why}") for node, why in circuit.decoys.items()]
    parts = [
        f"# {circuit.name}",
        circuit.summary,
        "Written by hand, not trained: the circuit is known exactly, edges included, and stands in "
        f"`{CIRCUIT_FILE}`. A method that names another component, or misses one of these, is wrong.",
        "## Model",
        f"{config.n_layers} layers, {config.n_heads} heads of {config.d_head}, d_model {config.d_model}, "
        f"{mlp}, no norm, learned positions ({config.n_ctx}), {config.vocab_size} words. "
        f"{sum(parameter.numel() for parameter in model.parameters())} parameters.",
        "## Task",
        _show_kinds(pairs),
        "## Mechanism",
        "\n".join(f"{index}. {step}" for index, step in enumerate(circuit.mechanism, 1)),
        "| node | role |\n|---|---|\n" + "\n".join(f"| {node} | {role} |" for node, role in rows),
        "Edges that matter when they carry the other prompt's value, the same in both directions: "
        + ", ".join(f"`{edge}`" for edge in circuit.edges)
        + ". Needed too, but equal in both prompts: "
        + ", ".join(f"`{edge}`" for edge in circuit.constant_edges)
        + ".",
        "## Residual stream",
        "| subspace | dimensions |\n|---|---|\n"
        + "\n".join(f"| {name} | {first} to {end - 1} |" for name, (first, end) in circuit.spaces.items()),
        "## Measured",
        f"On {len(pairs)} pairs (seed {pairs.seed}): accuracy {accuracy:.1%}; mean logit difference "
        f"{clean:.2f} on clean and {corrupted:.2f} on corrupted prompts.",
        "## Made by",
        f"```python\nfrom interp.models.bundled.planted import write_planted\n\n"
        f'write_planted("{circuit.name}", "data/models/{circuit.name}")\n```',
        "Under a second; no data, no training.",
    ]
    return "\n\n".join(parts) + "\n"
