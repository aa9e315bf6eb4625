"""Train a bundled model again: ``python -m interp.models.bundled.train mix-4l --out DIR --seed 0``."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from interp.errors import ModelError
from interp.models.bundled.cards import Card, write_card
from interp.models.bundled.corpus import Batch
from interp.models.bundled.evaluate import HELDOUT_SEED
from interp.models.bundled.recipes import RECIPES, Recipe, find_recipe
from interp.models.bundled.sources import SOURCES
from interp.models.threads import hold_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CURVE_EVERY = 100
"""Steps between two points of the training curve."""
_INDUCTION_ROWS = 64


def train_bundled(
    name: str,
    out: str | Path,
    seed: int = 0,
    steps: int | None = None,
    heldout_n: int = 500,
    progress: bool = True,
) -> Card:
    """Train the bundled model ``name`` and write it, its tokenizer and its card into ``out``.

    ``steps`` shortens the recipe's run (the schedule with it); ``heldout_n`` is the number of
    sentences behind each held-out figure. Nothing is written to ``out`` before training and
    evaluation have ended, so an interrupted run leaves it as it was. The global random state is
    neither read nor changed. PyTorch is held to one thread meanwhile: sums in another order would
    give another model.

    Raises :class:`ModelError` for an unknown name or fewer than one step.
    """
    recipe = find_recipe(name)
    if steps is not None:
        if steps < 1:
            raise ModelError(f"training takes at least 1 step; got steps={steps}.")
        recipe = replace(recipe, steps=steps)
    source = SOURCES[recipe.source]
    started = time.perf_counter()
    with _staging(Path(out)) as folder, hold_threads(1):
        model, curve = _fit(recipe, seed, folder, progress)
        card = Card(
            name=name,
            description=recipe.description,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            seed=seed,
            command=f"python -m interp.models.bundled.train {name} --out DIR --seed {seed}"
            + ("" if steps is None else f" --steps {steps}"),
            heldout=source.evaluate(model, heldout_n),
            heldout_n=heldout_n,
            heldout_seed=HELDOUT_SEED,
            induction_scores=[[round(s, 4) for s in row] for row in source.induction(model, _INDUCTION_ROWS)],
            minutes=round((time.perf_counter() - started) / 60, 2),
            versions={package: version(package) for package in ("torch", "transformers")},
            recipe=recipe.describe(),
            curve=curve,
            data=source.data,
        )
        model.save_pretrained(folder)
        source.tokenizer(recipe.n_ctx).save_pretrained(folder)
        write_card(card, folder)
    return card


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` whose files move there when the block ends without an exception."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield folder
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            target = out / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)  # safetensors writes files that only their owner may read
            os.replace(path, target)
    finally:
        shutil.rmtree(folder)


def _fit(
    recipe: Recipe, seed: int, folder: Path, progress: bool
) -> tuple[PreTrainedModel, list[list[float]]]:
    """Train; return the model in evaluation mode and its curve (see :class:`Card`)."""
    from tqdm.auto import trange

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipe.build(recipe.n_ctx)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    source = SOURCES[recipe.source]
    batches = source.batches(recipe, seed)
    curve: list[list[float]] = []
    losses: list[float] = []
    model.train()
    bar = trange(1, recipe.steps + 1, desc=recipe.name, disable=not progress)
    for step in bar:
        losses.append(_take_step(model, next(batches), optimizer, recipe))
        schedule.step()
        if step % CURVE_EVERY == 0 or step == recipe.steps or step in recipe.checkpoints:
            scores = [score for row in source.induction(model, 16) for score in row]
            highest = [round(max(scores), 4)] if scores else []
            curve.append([step, round(sum(losses) / len(losses), 4), *highest])
            losses = []
            bar.set_postfix({"loss": curve[-1][1], **({"induction": highest[0]} if highest else {})})
        if step in recipe.checkpoints:
            _save_checkpoint(model, folder, step)
    return model.eval(), curve


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the learning rate: a linear rise, then half a cosine."""
    rise = min(1.0, (step + 1) / min(recipe.warmup, recipe.steps))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps)))
    return rise * (recipe.final_rate + (1 - recipe.final_rate) * fall)


def _take_step(
    model: PreTrainedModel, batch: Batch, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch.tokens, position_ids=batch.position_ids).logits[:, :-1]
    loss = cross_entropy(logits.float().flatten(0, 1), batch.tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
    optimizer.step()
    return loss.item()


def _save_checkpoint(model: PreTrainedModel, folder: Path, step: int) -> None:
    """Keep the weights in half precision, under the names of ``model.safetensors``."""
    from safetensors.torch import save_file

    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    halves = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(halves, checkpoints / f"step-{step:05d}.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Command line: trains one model and prints its held-out figures."""
    parser = argparse.ArgumentParser(description="Train a bundled model and write it with its card.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="shorten the run to this many steps")
    options = parser.parse_args()
    card = train_bundled(options.name, options.out, options.seed, options.steps)
    for figure, value in card.heldout.items():
        print(f"{figure:32s} {value:.4f}")


if __name__ == "__main__":
    main()
