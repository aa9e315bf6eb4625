"""Random GPT-2 models and prompts of stated sizes: what a benchmark runs on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from interp.errors import BenchError
from interp.models import Model, load_model
from interp.tasks import PromptPairs, from_tokens

D_HEAD = 64
GPT2_VOCABULARY = 50257
SITES = ("resid_pre", "z")
"""``resid_pre`` at every layer and position; ``z`` of every head, all positions together."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT-2 model; the MLP is four times as wide as the residual stream."""

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int = GPT2_VOCABULARY

    def __str__(self) -> str:
        return f"{self.n_layers}x{self.d_model}"


@dataclass(frozen=True)
class Case:
    """A shape, and prompt pairs whose tokens are random from ``first_difference`` on."""

    shape: Shape
    first_difference: int
    n_prompts: int = 4
    n_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.first_difference < self.n_tokens:
            raise BenchError(
                f"prompts of {self.n_tokens} tokens differ first at a position from 0 to {self.n_tokens - 1}; "
                f"got {self.first_difference}."
            )

    def __str__(self) -> str:
        return f"{self.shape}@{self.first_difference}"


def parse_shape(text: str) -> Shape:
    """``"6x512"`` as 6 layers of width 512, with heads of 64 and GPT-2's vocabulary.

    Raises :class:`BenchError` for anything else.

    >>> parse_shape("12x768").n_heads
    12
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None or int(match[2]) % D_HEAD:
        raise BenchError(
            f"a shape is written LAYERSxWIDTH with a width divisible by {D_HEAD}, such as 6x512; got {text!r}."
        )
    return Shape(int(match[1]), int(match[2]), int(match[2]) // D_HEAD)


def build_gpt2(shape: Shape, seed: int, device: torch.device, init: float = 0.02) -> Any:
    """A Hugging Face GPT-2 with random weights, in fp32 with eager attention.

    ``init`` is the weights' standard deviation; GPT-2's own, 0.02, leaves narrow models nearly linear.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        initializer_range=init,
        vocab_size=shape.d_vocab,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return model.eval().to(device)


def wrap_gpt2(hf: Any, shape: Shape) -> Model:
    """The model of this package over a Hugging Face one, which it changes in place."""
    return load_model(hf, name=f"random GPT-2 {shape}", check_hooks=False)


def make_task(case: Case, seed: int, device: torch.device) -> PromptPairs:
    """Prompt pairs equal before ``first_difference`` and different there, random after it."""
    draw = torch.Generator().manual_seed(seed)
    d_vocab, at = case.shape.d_vocab, case.first_difference

    def random_tokens(*shape: int) -> torch.Tensor:
        return torch.randint(0, d_vocab, shape, generator=draw)

    clean = random_tokens(case.n_prompts, case.n_tokens)
    corrupted = clean.clone()
    corrupted[:, at:] = random_tokens(case.n_prompts, case.n_tokens - at)
    equal = corrupted[:, at] == clean[:, at]
    corrupted[equal, at] = (clean[equal, at] + 1) % d_vocab
    answers, wrong = random_tokens(case.n_prompts), random_tokens(case.n_prompts)
    wrong = torch.where(wrong == answers, (wrong + 1) % d_vocab, wrong)
    return from_tokens(clean, corrupted, answers, wrong).to(device)
