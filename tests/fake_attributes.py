"""Activations in which three attributes are known directions, and dictionaries that hold them or mix them."""

from __future__ import annotations

import torch

from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.probing.labels import AttributeData
from interp.results import Provenance

D = 12
MOOD, FIRST_TOPIC, TENSE = 0, 1, 4
"""Coordinates that say the mood, one for each of three topics, and the tense."""


def make_data(prompts: int = 60, each: int = 10, noise: float = 0.0, seed: int = 0) -> AttributeData:
    """A coordinate is 1 where its answer is yes; the last seven are noise that says nothing."""
    generator = torch.Generator().manual_seed(seed)
    n = prompts * each
    mood, tense = (torch.randint(2, (n,), generator=generator) for _ in range(2))
    topic = torch.randint(3, (n,), generator=generator)
    x = torch.rand(n, D, generator=generator)
    x[:, :5] = 0
    x[:, MOOD] = (mood == 0).float()
    x[torch.arange(n), FIRST_TOPIC + topic] = 1
    x[:, TENSE] = (tense == 0).float()
    x = x + noise * torch.randn(n, D, generator=generator)
    # the tense of some rows is not known
    tense = torch.where(torch.rand(n, generator=generator) < 0.2, -1, tense)
    return AttributeData(
        activations=x,
        labels={"mood": mood, "topic": topic, "tense": tense},
        values={"mood": ("good", "bad"), "topic": ("food", "sea", "sport"), "tense": ("past", "future")},
        prompt=torch.arange(prompts).repeat_interleave(each),
        provenance=Provenance("made up", task="attributes", n_prompts=prompts),
    )


def aligned() -> LinearDictionary:
    """A latent for every coordinate."""
    return LinearDictionary(torch.eye(D), torch.eye(D))


def tangled() -> LinearDictionary:
    """Latents that read one coordinate and write mood and tense together."""
    write = torch.eye(D)
    write[MOOD, TENSE] = write[TENSE, MOOD] = 1.0
    return LinearDictionary(torch.eye(D), write)
