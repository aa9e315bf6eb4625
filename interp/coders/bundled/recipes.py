"""How each bundled coder is made: its model and site, its architecture, its text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from interp.coders.config import CoderConfig
from interp.coders.train import TrainingConfig
from interp.errors import CoderError, unknown_name

ROW = 64
"""Tokens of a row of text; the first, whose activations are outliers, is left out."""


@dataclass(frozen=True)
class CoderRecipe:
    """Everything that fixes a bundled coder."""

    model: str
    reads: str
    config: CoderConfig
    description: str
    """One line for the card."""
    predicts: str | None = None
    """The target's site; ``None`` for an autoencoder."""
    tokens: int = 1_500_000
    batch_size: int = 1024
    dead_after: int = 200_000
    seed: int = 0
    text_seed: int = 31_000

    @property
    def name(self) -> str:
        """As :func:`interp.load_coder` finds it: ``"mix-4l/mlp_out-2-topk"``."""
        return f"{self.model}/{self.reads.replace('[', '-').rstrip(']')}-{self.config.architecture}"

    @property
    def short_name(self) -> str:
        """The part behind the model's name."""
        return self.name.partition("/")[2]

    def n_rows(self, tokens: int | None = None) -> int:
        """Rows of text that hold the tokens, all of them or so many."""
        return math.ceil((tokens or self.tokens) / (ROW - 1))

    def training(self, tokens: int | None = None) -> TrainingConfig:
        """The training, in full or over fewer tokens, its schedules with it.

        Raises :class:`CoderError` for fewer than one token.
        """
        asked = self.tokens if tokens is None else tokens
        return TrainingConfig(
            tokens=asked,
            batch_size=self.batch_size,
            dead_after=self.dead_after,
            seed=self.seed,
            log_every=100,
        )

    def describe(self) -> dict[str, Any]:
        """The recipe in plain values, for a card."""
        return {
            "model": self.model,
            "reads": self.reads,
            "predicts": self.predicts or self.reads,
            "config": self.config.to_dict(),
            "training": self.training().to_dict(),
            "text_seed": self.text_seed,
            "row": ROW,
        }


def _make(recipes: list[CoderRecipe]) -> Mapping[str, CoderRecipe]:
    return MappingProxyType({recipe.name: recipe for recipe in recipes})


_COST = (4.8, 0.57, 0.30, 1.3)
"""Nats that the loss of ``mix-4l`` rises by when MLP 0 to 3 gives its mean output: none is without interest."""

CODER_RECIPES: Mapping[str, CoderRecipe] = _make(
    [
        *(
            CoderRecipe(
                "mix-4l",
                f"mlp_out[{layer}]",
                CoderConfig("topk", d_sae=256, k=16 if layer == 0 else 4),
                f"Autoencoder of what MLP {layer} writes. With its mean there, the model loses {_COST[layer]} nats.",
            )
            for layer in range(4)
        ),
        *(
            CoderRecipe(
                "mix-4l",
                f"mlp_in[{layer}]",
                CoderConfig("skip-transcoder", d_sae=256, k=8),
                f"Skip transcoder of MLP {layer}: predicts its output from what enters it, with a linear shortcut.",
                predicts=f"mlp_out[{layer}]",
            )
            for layer in range(4)
        ),
        CoderRecipe(
            "mix-4l",
            "resid_post[2]",
            CoderConfig("topk", d_sae=256, k=8),
            "Autoencoder of the residual stream before the last layer.",
        ),
        CoderRecipe(
            "induction-2l",
            "z[1]",
            CoderConfig("topk", d_sae=256, k=8),
            "Autoencoder of the heads of layer 1, side by side; its latents can be attributed to heads.",
        ),
    ]
)
"""Bundled coders by name."""


def find_coder_recipe(name: str) -> CoderRecipe:
    """The recipe of a bundled coder. Raises :class:`CoderError` for an unknown name."""
    if name not in CODER_RECIPES:
        raise CoderError(unknown_name("bundled coder", name, CODER_RECIPES))
    return CODER_RECIPES[name]
