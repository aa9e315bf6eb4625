"""What a model knows, told by sampling: prompts it answers right nearly always, and nearly never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class KnowledgeSplit:
    """Prompts parted by how often the model answers them right."""

    prompts: tuple[str, ...]
    right: Float[Tensor, " prompt"]
    """Share of samples that begin with the answer."""
    known_at: float
    unknown_at: float

    @property
    def known(self) -> tuple[str, ...]:
        """Prompts answered right in a share of at least ``known_at``."""
        return self._where(self.right >= self.known_at)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Prompts answered right in a share of at most ``unknown_at``."""
        return self._where(self.right <= self.unknown_at)

    @property
    def unsure(self) -> tuple[str, ...]:
        """Prompts in between, of neither side."""
        return self._where((self.right < self.known_at) & (self.right > self.unknown_at))

    def __repr__(self) -> str:
        counts = f"{len(self.known)} known, {len(self.unknown)} unknown, {len(self.unsure)} unsure"
        return f"KnowledgeSplit({counts} of {len(self.prompts)} prompts)"

    def _where(self, chosen: Tensor) -> tuple[str, ...]:
        return tuple(self.prompts[number] for number in chosen.nonzero()[:, 0].tolist())


@torch.no_grad()
def split_by_knowledge(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    n_samples: int = 10,
    temperature: float = 1.0,
    known_at: float = 0.7,
    unknown_at: float = 0.3,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> KnowledgeSplit:
    """Answer every prompt ``n_samples`` times and part the prompts by how often the answer is right.

    An answer is right when the sample begins with the tokens of ``answers[i]`` (with its leading space where the
    tokenizer wants one). As CASAL begins (Yang et al. 2025, arXiv 2510.02324, section 3), which also drops
    prompts between the two shares. Raises :class:`SteeringError` for no prompts, as many answers as not prompts, an
    empty answer and bad numbers.
    """
    from tqdm.auto import tqdm

    if isinstance(prompts, str) or isinstance(answers, str):
        raise SteeringError("give lists of prompts and answers; got one text.")
    if not prompts or len(prompts) != len(answers) or not all(answers):
        raise SteeringError(f"give prompts and an answer for each; got {len(prompts)} and {len(answers)}.")
    if n_samples < 1 or not temperature > 0 or not 0 <= unknown_at < known_at <= 1:
        raise SteeringError(
            f"n_samples must be at least 1, temperature above 0, and unknown_at below known_at in 0..1; got "
            f"{n_samples}, {temperature}, {unknown_at} and {known_at}."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = [model.to_tokens(prompt)[0].cpu() for prompt in prompts]
    wanted = [model.to_tokens(answer, prepend_bos=False)[0].cpu() for answer in answers]
    right = torch.zeros(len(rows))
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (row, answer) in enumerate(zip(rows, wanted, strict=True)):
        groups.setdefault((len(row), len(answer)), []).append(number)
    with tqdm(total=len(rows), disable=not progress, desc="sampling") as bar:
        for numbers in groups.values():
            for start in range(0, len(numbers), batch_size):
                part = numbers[start : start + batch_size]
                tokens = torch.stack([rows[number] for number in part])
                truth = torch.stack([wanted[number] for number in part])
                found = _sample(model, tokens, n_samples, truth.shape[1], temperature, generator)
                right[part] = (found == truth[:, None]).all(-1).float().mean(1)
                bar.update(len(part))
    return KnowledgeSplit(tuple(prompts), right, known_at, unknown_at)


def _sample(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    n: int,
    length: int,
    temperature: float,
    generator: torch.Generator,
) -> Int[Tensor, "batch n length"]:
    """Continuations drawn from the model, ``n`` a prompt."""
    logits = model(tokens)[:, -1].repeat_interleave(n, 0)
    rows = tokens.repeat_interleave(n, 0)
    for step in range(length):
        if step:
            logits = model(rows)[:, -1]
        chances = (logits.float().cpu() / temperature).softmax(-1)
        rows = torch.cat([rows, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return rows[:, tokens.shape[1] :].unflatten(0, (len(tokens), n))
