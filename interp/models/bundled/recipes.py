"""How each trained bundled model is made: its shape, its text, its optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from interp.errors import ModelError, unknown_name
from interp.tasks.facts import facts_token_ids
from interp.tasks.world import BOS, DEFAULT_MIX, EOS, PAD, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recipe:
    """Everything that, with a seed, fixes a trained model."""

    name: str
    description: str
    """One line for the card: what the model is good for."""
    build: Callable[[int], PreTrainedModel]
    """Fresh model from the length of its context."""
    mix: Mapping[str, float]
    """Weight of each kind among the documents."""
    opening_mix: Mapping[str, float]
    """The same for the first ``opening_steps`` steps."""
    opening_steps: int
    steps: int
    batch: int
    """Rows a step."""
    length: int
    """Tokens a row."""
    learning_rate: float
    source: str = "world"
    """Whose text it is: a name in ``sources.SOURCES``."""
    n_ctx: int = 128
    warmup: int = 100
    final_rate: float = 0.05
    """Share of the learning rate that the cosine decays to."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    checkpoints: tuple[int, ...] = ()
    """Steps after which half-precision weights are kept."""

    def describe(self) -> dict[str, Any]:
        """The numbers of the recipe, for a card."""
        shown = (
            "steps",
            "opening_steps",
            "batch",
            "length",
            "learning_rate",
            "warmup",
            "final_rate",
            "weight_decay",
        )
        numbers = {name: getattr(self, name) for name in (*shown, "gradient_norm")}
        mixes = {"mix": dict(self.mix), "opening_mix": dict(self.opening_mix)}
        return numbers | {"betas": list(self.betas)} | mixes


def _build_mix(n_ctx: int) -> PreTrainedModel:
    return _build_gpt2(token_ids(), n_ctx, d_model=128, n_layers=4)


def _build_facts(n_ctx: int) -> PreTrainedModel:
    return _build_gpt2(facts_token_ids(), n_ctx, d_model=64, n_layers=3)


def _build_gpt2(ids: Mapping[str, int], n_ctx: int, d_model: int, n_layers: int) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.models.plain.model import make_sinusoids

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(ids),
            n_positions=n_ctx,
            n_embd=d_model,
            n_layer=n_layers,
            n_head=4,
            n_inner=4 * d_model,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
            initializer_range=MATRIX_STD,
            # Several times faster than the fused kernel on a CPU in half precision.
            attn_implementation="eager",
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
            pad_token_id=ids[PAD],
        )
    )
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=EMBED_STD)
        model.transformer.wpe.weight.copy_(make_sinusoids(n_ctx, d_model) * POSITION_AMPLITUDE)
    return model


def _build_induction(n_ctx: int) -> PreTrainedModel:
    from interp.models.plain import PlainConfig, PlainTransformer

    ids = token_ids()
    config = PlainConfig(
        vocab_size=len(ids),
        n_ctx=n_ctx,
        n_layers=2,
        n_heads=4,
        d_model=128,
        d_head=32,
        d_mlp=0,
        initializer_range=MATRIX_STD,
        embed_init_std=EMBED_STD,
        position_init="sinusoidal",
        position_init_std=POSITION_AMPLITUDE / 2**0.5,
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
    )
    return PlainTransformer(config)


MATRIX_STD = 0.07
"""Near ``1 / sqrt(d_model)``; with the usual 0.02 every skill came later or not at all."""
EMBED_STD = 0.3
"""Small token embeddings and small random positions gave models that copy through fixed hub
positions, without any induction pattern."""
POSITION_AMPLITUDE = 0.15

FACT_LENGTH = 11
"""<bos>, seven words of a question, its answer, a full stop, <eos>."""

_REPEATING: Mapping[str, float] = MappingProxyType({**DEFAULT_MIX, "induction": 1.5})
"""Mostly repeated words: induction heads form within about 1000 steps instead of 2500, and IOI and
argument completion, which build on them, soon after."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mix-4l": Recipe(
            name="mix-4l",
            description="A 4-layer GPT-2-shaped model of the generated world: IOI, greater-than, pronouns, "
            "agreement, argument completion, induction, and steerable attributes. It has seen coloured "
            "objects but not learned them.",
            build=_build_mix,
            mix=DEFAULT_MIX,
            opening_mix=_REPEATING,
            opening_steps=1000,
            steps=4000,
            batch=64,
            length=64,
            learning_rate=3e-3,
        ),
        "induction-2l": Recipe(
            name="induction-2l",
            description="A 2-layer attention-only model with induction heads, trained on repeated random "
            "words and text of the generated world.",
            build=_build_induction,
            mix=_REPEATING,
            opening_mix=_REPEATING,
            opening_steps=0,
            steps=2500,
            batch=64,
            length=64,
            learning_rate=3e-3,
            checkpoints=(500, 750, 900, 1200),
        ),
        "facts-3l": Recipe(
            name="facts-3l",
            description="A 3-layer GPT-2-shaped model that knows three facts about each of 200 people and "
            "makes them up about everybody else; it says 'unknown' of strangers only.",
            build=_build_facts,
            mix=MappingProxyType({"facts": 1.0}),
            opening_mix=MappingProxyType({"facts": 1.0}),
            opening_steps=0,
            steps=1800,
            batch=128,
            length=FACT_LENGTH,
            learning_rate=3e-3,
            source="facts",
            n_ctx=16,
        ),
    }
)
"""Name of a trained bundled model -> its recipe."""


def find_recipe(name: str) -> Recipe:
    """The recipe of a trained bundled model. Raises :class:`ModelError` for an unknown name."""
    if name not in RECIPES:
        raise ModelError(unknown_name("trained bundled model", name, RECIPES))
    return RECIPES[name]
