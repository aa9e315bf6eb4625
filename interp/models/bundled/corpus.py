"""Training batches of the bundled models, in an order that the seed alone fixes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models.bundled.recipes import Recipe
from interp.tasks.world import generate_documents, pack_tokens


@dataclass(frozen=True)
class Batch:
    """Token ids and the positions they are shown at."""

    tokens: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]


def stream_batches(recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Endless batches of fresh text, no row twice.

    Each row starts at a random position of the context, so that no fixed position becomes special.
    """
    generator = torch.Generator().manual_seed(seed)
    opening, main = (
        pack_tokens(generate_documents(sys.maxsize, number, kinds=mix), recipe.length)
        for number, mix in ((-1 - seed, recipe.opening_mix), (seed, recipe.mix))
    )
    rows = chain(islice(opening, recipe.opening_steps * recipe.batch), main)
    columns = torch.arange(recipe.length)
    while True:
        tokens = torch.tensor(list(islice(rows, recipe.batch)), dtype=torch.long)
        offsets = torch.randint(recipe.n_ctx - recipe.length + 1, (recipe.batch, 1), generator=generator)
        yield Batch(tokens, columns + offsets)
