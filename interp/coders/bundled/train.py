"""Train bundled coders again: ``python -m interp.coders.bundled.train mix-4l/mlp_out-2-topk --out DIR``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from interp.coders.bundled.cards import CoderCard, write_coder_card
from interp.coders.bundled.figures import (
    HELDOUT_SEED,
    SPLITS,
    count_by_head,
    match_card_attributes,
    measure_figures,
)
from interp.coders.bundled.recipes import CODER_RECIPES, CoderRecipe, find_coder_recipe
from interp.coders.coder import Coder
from interp.coders.files import save_coder
from interp.coders.sources import stream_activations
from interp.coders.train import train_coders
from interp.errors import CoderError
from interp.models.load import load_model
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.tasks.world import generate_tokens

HELDOUT_ROWS = 256
_PROMPTS = 64


def train_bundled_coders(
    names: Sequence[str],
    out: str | Path,
    *,
    tokens: int | None = None,
    heldout_rows: int = HELDOUT_ROWS,
    progress: bool = True,
) -> dict[str, CoderCard]:
    """Train bundled coders and write each, with its card, to the folder ``out / name``.

    Those of one model are trained side by side on the same activations, each to the weights that it would have
    alone. ``tokens`` shortens the run, its schedules with it; ``heldout_rows`` is the text behind each figure.
    PyTorch is held to one thread meanwhile: sums in another order would give other coders.

    Raises :class:`CoderError` for unknown names and for no names or tokens.
    """
    if not names:
        raise CoderError(f"name coders to train, some of {', '.join(CODER_RECIPES)}.")
    recipes = [find_coder_recipe(name) for name in dict.fromkeys(names)]
    cards = {}
    with hold_threads(1):
        for model_name in dict.fromkeys(recipe.model for recipe in recipes):
            model = load_model(model_name)
            group = [recipe for recipe in recipes if recipe.model == model_name]
            started = time.perf_counter()
            coders = _train(model, group, tokens, progress)
            minutes = round((time.perf_counter() - started) / 60, 2)
            for recipe, coder in zip(group, coders, strict=True):
                folder = save_coder(coder, Path(out) / recipe.name)
                card = _describe(model, recipe, coder, tokens, heldout_rows, minutes, len(group))
                write_coder_card(card, folder)
                cards[recipe.name] = card
    return cards


def _train(model: Model, recipes: Sequence[CoderRecipe], tokens: int | None, progress: bool) -> list[Coder]:
    """Coders of one model on the same text, in the order of their recipes."""
    first = recipes[0]
    training = first.training(tokens)
    if any(recipe.training() != first.training() for recipe in recipes):
        raise CoderError("recipes of one model share their training; give those that differ one by one.")
    text = generate_tokens(first.n_rows(tokens), seed=first.text_seed)
    source = stream_activations(
        model,
        text,
        {recipe.short_name: recipe.reads for recipe in recipes},
        target={recipe.short_name: recipe.predicts for recipe in recipes if recipe.predicts},
        batch_size=_PROMPTS,
    )
    configs = {recipe.short_name: recipe.config for recipe in recipes}
    found = train_coders(configs, source, training, progress=progress)
    return [found[recipe.short_name] for recipe in recipes]


def _describe(
    model: Model,
    recipe: CoderRecipe,
    coder: Coder,
    tokens: int | None,
    rows: int,
    minutes: float,
    together: int,
) -> CoderCard:
    command = f"python -m interp.coders.bundled.train {recipe.name} --out DIR"
    return CoderCard(
        name=recipe.name,
        description=recipe.description,
        model=recipe.model,
        reads=recipe.reads,
        predicts=recipe.predicts or recipe.reads,
        architecture=recipe.config.architecture,
        d_sae=recipe.config.d_sae,
        k=recipe.config.k,
        tokens=recipe.tokens if tokens is None else tokens,
        command=command if tokens is None else f"{command} --tokens {tokens}",
        minutes=minutes,
        together=together,
        versions={package: version(package) for package in ("torch", "transformers")},
        recipe=recipe.describe(),
        curve=_curve(coder),
        heldout={kind: measure_figures(model, coder, rows, split) for kind, split in SPLITS.items()},
        heldout_rows=rows,
        heldout_seed=HELDOUT_SEED,
        attributes=match_card_attributes(model, coder),
        latents_by_head=count_by_head(model, coder, rows),
    )


def _curve(coder: Coder) -> list[list[float]]:
    assert coder.history is not None
    columns = [coder.history.tokens.tolist()]
    columns += [coder.history.curve(name).tolist() for name in ("l0", "fvu", "dead_frac")]
    return [[round(value, 4) for value in row] for row in zip(*columns, strict=True)]


def main() -> None:
    """Command line: trains bundled coders and prints their figures on fresh text."""
    parser = argparse.ArgumentParser(description="Train bundled coders and write each with its card.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(CODER_RECIPES)}, or all")
    parser.add_argument(
        "--out", type=Path, required=True, help="each is written to a folder of its name in here"
    )
    parser.add_argument("--tokens", type=int, default=None, help="shorten the run to this many tokens")
    options = parser.parse_args()
    names = list(CODER_RECIPES) if options.names == ["all"] else options.names
    for name, card in train_bundled_coders(names, options.out, tokens=options.tokens).items():
        found = card.heldout["fresh text"]
        shown = ", ".join(
            f"{figure} {found[figure]}" for figure in ("l0", "fvu", "dead_frac", "ce_recovered")
        )
        sys.stdout.write(f"{name}: {shown}\n")


if __name__ == "__main__":
    main()
