"""The bundled model with a direction that is known to steer, and a tiny model of random weights."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.steering.contrast import Contrast, read_contrast
from interp.steering.extract.extract import steering_of
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.operations import Add
from interp.steering.steering import Steering, steer_with
from interp.steering.world import contrast_prompts


@pytest.fixture(scope="session")
def mix():
    return interp.load_model("mix-4l")


@pytest.fixture(scope="session")
def mix_text(mix) -> NeutralText:
    return read_neutral(mix, n=6, length=32)


@pytest.fixture(scope="session")
def contrast(mix) -> Contrast:
    return read_contrast(mix, *contrast_prompts("sentiment=positive", 48), "resid_post[1]", paired=False)


@pytest.fixture(scope="session")
def happy(contrast) -> Steering:
    return steering_of(contrast)


@pytest.fixture(scope="session")
def tiny(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"))


@pytest.fixture(scope="session")
def tiny_text() -> NeutralText:
    """Rows of two lengths."""
    draw = torch.Generator().manual_seed(3)
    lengths = (9, 9, 5, 9, 5)
    return NeutralText(tuple(torch.randint(0, 53, (n,), generator=draw) for n in lengths), "random tokens")


@pytest.fixture(scope="session")
def push() -> Steering:
    """A random direction for ``tiny``."""
    vector = torch.randn(36, generator=torch.Generator().manual_seed(4))
    return steer_with({"resid_post[0]": Add(vector)})
