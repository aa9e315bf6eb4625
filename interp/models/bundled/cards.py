"""Model cards of the trained bundled models: ``card.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import DataFileError

CARD_FILE = "card.json"

DATA = (
    "Text of the generated world (`interp.tasks.world`): fresh documents throughout, no row seen twice. "
    "Held out from training: about a fifth of all sentence templates (of agreement and pronouns, "
    "combinations of parts that train apart), and for IOI a fifth of all pairs of names "
    "(`interp.tasks.lexicon.is_heldout_pair`). Every name, noun and year is trained on."
)

LEARNED = 0.95
"""An accuracy from here on is a skill the model has; below, chance has a larger part in it."""

TOLERANCE = {
    "learned accuracy": 0.04,
    "other accuracy": 0.2,
    "prob_diff": 0.1,
    "score": 0.1,
    "logit_diff": 5.0,
    "rate": 0.1,
    "loss": 0.5,
}
"""How far the same seed may end from a figure on another kind of CPU or another version of PyTorch:
rounding differs there, and training amplifies it."""


@dataclass(frozen=True)
class Card:
    """Where a trained bundled model comes from, and what it can do."""

    name: str
    description: str
    parameters: int
    seed: int
    command: str
    minutes: float
    versions: dict[str, str]
    recipe: dict[str, Any]
    curve: list[list[float]]
    """Rows of step, training loss (mean since the row before) and, of text that repeats, highest induction score."""
    heldout: dict[str, float]
    """Figures of :func:`interp.models.bundled.evaluate.evaluate_heldout`."""
    heldout_n: int
    heldout_seed: int
    induction_scores: list[list[float]]
    """Induction score of every head, [layer][head]; empty for text in which nothing is repeated."""
    data: str = DATA
    tolerance: dict[str, float] = field(default_factory=lambda: dict(TOLERANCE))


def tolerance_of(card: Card, figure: str) -> float:
    """How far from a held-out figure a rerun may end."""
    if figure.endswith("accuracy"):
        return card.tolerance["learned accuracy" if card.heldout[figure] >= LEARNED else "other accuracy"]
    return next(value for part, value in card.tolerance.items() if part in figure)


def write_card(card: Card, folder: Path) -> None:
    """Write ``card.json`` and ``README.md`` into ``folder``."""
    text = json.dumps(asdict(card), indent=1)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_render(card), encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Read the card of a model folder. Raises :class:`DataFileError` when it is missing or not a card."""
    path = folder / CARD_FILE
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataFileError(
            f"no model card at {path}; expected a folder written by the training script."
        ) from error
    except (json.JSONDecodeError, TypeError) as error:
        raise DataFileError(f"{path} is not a model card of this version: {error}") from error


def _render(card: Card) -> str:
    opening = card.recipe["opening_steps"]
    several = len(card.recipe["mix"]) > 1
    mix = f" Documents by kind: {_shares(card.recipe['mix'])}." if several else ""
    if opening:
        mix += f" In the first {opening} steps: {_shares(card.recipe['opening_mix'])}."
    rows = [
        f"# {card.name}",
        card.description,
        f"{card.parameters:,} parameters, fp32. Seed {card.seed}. Trained in {card.minutes:.1f} minutes on one "
        "CPU thread with",
        f"    {card.command}",
        "## Data",
        f"{card.data}{mix}",
        f"{card.recipe['steps']} steps of {card.recipe['batch']} rows of {card.recipe['length']} tokens.",
        f"## Held out ({card.heldout_n} sentences of each kind, seed {card.heldout_seed})"
        if card.induction_scores
        else "## Measured",
        _table(("figure", "value", "a rerun may differ by"), _heldout_rows(card)),
        "On the same kind of CPU and the same versions the same seed gives the same weights, bit for bit; the last "
        "column is for reruns elsewhere.",
        *_about_induction(card),
        "## Training curve",
        _table(
            ("step", "loss", "highest induction score")[: len(card.curve[0])],
            [(f"{step:.0f}", *(f"{value:.3f}" for value in rest)) for step, *rest in card.curve],
        ),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items()) + ".",
    ]
    return "\n\n".join(rows) + "\n"


def _about_induction(card: Card) -> list[str]:
    """What a card says about text that repeats."""
    if not card.induction_scores:
        return []
    return [
        "Losses are on templates that the model has never seen: it is sure of the wrong continuation where an "
        "unseen template leaves the seen ones.",
        "## Induction score of every head",
        _table(
            ("layer", *(f"head {head}" for head in range(len(card.induction_scores[0])))),
            [
                (str(layer), *(f"{s:.3f}" for s in scores))
                for layer, scores in enumerate(card.induction_scores)
            ],
        ),
        "Mean attention from a repeated random word to the word after its first occurrence.",
    ]


def _shares(weights: dict[str, float]) -> str:
    return ", ".join(f"{kind} {weight / sum(weights.values()):.0%}" for kind, weight in weights.items())


def _heldout_rows(card: Card) -> list[tuple[str, ...]]:
    return [(name, f"{value:.4f}", f"{tolerance_of(card, name):g}") for name, value in card.heldout.items()]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
