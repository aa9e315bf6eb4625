"""Cards of the bundled coders: ``card.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import DataFileError
from interp.results.storage import without_nan, write_whole

CARD_FILE = "card.json"

TOLERANCE = {"l0": 0.5, "fvu": 0.05, "dead_frac": 0.1, "ce_recovered": 0.05, "kl_recovered": 0.05}
"""How far from a card the same recipe may end on another kind of CPU, or figures of less text."""

_READING = (
    "Fresh text is generated from the templates that model and coder were trained on; unseen templates are new to "
    "both. There the model is often sure of the wrong word, and ablating a site can even lower its loss: read KL "
    "recovered. L0: latents that fire on a token. FVU: fraction of variance unexplained. Recovered: 0 with the "
    "site's mean in its place, 1 for the unchanged model, with 95 % intervals over rows. The first token of a row "
    "takes no part. The same kind of CPU and the same versions give the same weights to the bit; the last column is "
    "for reruns elsewhere."
)


@dataclass(frozen=True)
class CoderCard:
    """Where a bundled coder comes from, and what it scores."""

    name: str
    description: str
    model: str
    reads: str
    predicts: str
    architecture: str
    d_sae: int
    k: int | None
    tokens: int
    """Tokens trained on."""
    command: str
    minutes: float
    together: int
    """Coders that were trained side by side in these minutes."""
    versions: dict[str, str]
    recipe: dict[str, Any]
    curve: list[list[float]]
    """Rows of tokens, L0, FVU and share of dead latents, while training."""
    heldout: dict[str, dict[str, Any]]
    """By kind of text, figures of :func:`interp.coders.bundled.figures.measure_figures`."""
    heldout_rows: int
    heldout_seed: int
    attributes: dict[str, dict[str, float]]
    """Best F1 by target and kind of unit; empty for a coder of heads."""
    latents_by_head: list[int]
    """Live latents by the head that contributes most; empty for any other coder."""
    tolerance: dict[str, float] = field(default_factory=lambda: dict(TOLERANCE))


def write_coder_card(card: CoderCard, folder: Path) -> None:
    """Write ``card.json`` and ``README.md`` into ``folder``."""
    text = json.dumps(without_nan(asdict(card)), indent=1)
    write_whole(folder / CARD_FILE, f"{text}\n".encode())
    write_whole(folder / "README.md", _render(card).encode())


def read_coder_card(folder: str | Path) -> CoderCard:
    """Read the card of a coder's folder. Raises :class:`DataFileError` when it is missing or not a card."""
    path = Path(folder) / CARD_FILE
    try:
        return CoderCard(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataFileError(
            f"no card at {path}; expected a folder written by python -m interp.coders.bundled.train."
        ) from error
    except (json.JSONDecodeError, TypeError) as error:
        raise DataFileError(f"{path} is not a coder's card of this version: {error}") from error


def _render(card: CoderCard) -> str:
    where = card.reads if card.reads == card.predicts else f"{card.reads} -> {card.predicts}"
    fires = "" if card.k is None else f", {card.k} fire on a token"
    beside = "1 other" if card.together == 2 else f"{card.together - 1} others"
    others = f", side by side with {beside}," if card.together > 1 else ""
    parts = [
        f"# {card.name}",
        card.description,
        f"`interp.load_coder({card.name!r})`: {card.architecture}, {where} of `{card.model}`, {card.d_sae} "
        f"latents{fires}, fp32.",
        f"Trained on {card.tokens:,} tokens in {card.minutes:.1f} minutes{others} on one CPU thread; again with",
        f"    {card.command}",
        f"## Held out ({card.heldout_rows} rows of 64 tokens, seed {card.heldout_seed})",
        _table(("figure", *card.heldout, "a rerun may differ by"), _heldout_rows(card)),
        _READING,
        *_attribute_parts(card),
        *_head_parts(card),
        "## Training curve",
        _table(("tokens", "L0", "FVU", "dead"), [_curve_row(row) for row in card.curve]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _heldout_rows(card: CoderCard) -> list[tuple[str, ...]]:
    kinds = list(card.heldout.values())
    return [
        (
            name,
            *(_shown(kind[name]) for kind in kinds),
            f"{card.tolerance[name]:g}" if name in card.tolerance else "",
        )
        for name in kinds[0]
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        middle, low, high = value
        return f"{middle:.4f} [{low:.4f}, {high:.4f}]"
    return f"{value:.4f}"


def _attribute_parts(card: CoderCard) -> list[str]:
    if not card.attributes:
        return []
    columns = list(next(iter(card.attributes.values())))
    rows = [
        (target, *(f"{found[name]:.2f}" for name in columns)) for target, found in card.attributes.items()
    ]
    means = [sum(found[name] for found in card.attributes.values()) / len(rows) for name in columns]
    rows.append(("mean", *(f"{mean:.2f}" for mean in means)))
    return [
        "## Best F1 of one unit for each attribute of the generator",
        _table(("attribute", *columns), rows),
        "Chosen on half of the rows, measured on the other. Neurons and principal components may be read either way, "
        "latents say yes where they fire; `always` is saying yes everywhere. Attributes belong to whole sentences and "
        "are spread over many words, latents mostly to words and places: where a latent does not beat `always` or a "
        "random latent, it does not know the attribute.",
    ]


def _head_parts(card: CoderCard) -> list[str]:
    if not card.latents_by_head:
        return []
    heads = tuple(f"head {head}" for head in range(len(card.latents_by_head)))
    return [
        "## Live latents by the head that contributes most",
        _table(heads, [tuple(map(str, card.latents_by_head))]),
    ]


def _curve_row(row: Sequence[float]) -> tuple[str, ...]:
    tokens, l0, fvu, dead = row
    return f"{int(tokens):,}", f"{l0:.1f}", f"{fvu:.4f}", f"{dead:.3f}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
