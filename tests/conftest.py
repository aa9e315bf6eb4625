"""What all tests share: no network, shapes checked, tiny models, and every reason to skip."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# read when a kernel is defined: without a GPU Triton's interpreter runs it
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from shape_checks import check_shapes_of
from tiny_models import FAMILIES, make_hf_model

check_shapes_of("interp")
# the same examples at every run; no deadline, for a first call may import for seconds
settings.register_profile("interp", derandomize=True, deadline=None)
settings.load_profile("interp")

ROOT = Path(__file__).resolve().parent.parent


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _has_interpreter() -> bool:
    return _has_triton() and os.environ["TRITON_INTERPRET"] == "1"


def _has_git() -> bool:
    return shutil.which("git") is not None and (ROOT / ".git").exists()


def _has_hooked_transformer() -> bool:
    import transformer_lens

    return hasattr(transformer_lens, "HookedTransformer")


# marker: (what a test needs, why it is skipped without); no test skips itself in another way
SKIPS: dict[str, tuple[Callable[[], bool], str]] = {
    "cuda": (_has_cuda, "needs a CUDA device"),
    "interpreter": (
        _has_interpreter,
        "needs Triton's interpreter (without a GPU, or TRITON_INTERPRET=1): kernels on a CPU's tensors",
    ),
    "triton": (_has_triton, "needs Triton, which there is for Linux only"),
    "git": (_has_git, "needs a git checkout, to know which files are part of the project"),
    "hooked_transformer": (
        _has_hooked_transformer,
        "needs HookedTransformer, which transformer-lens 4 dropped",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (is_there, reason) in SKIPS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session", name="make_hf_model")
def make_hf_model_fixture() -> Callable[..., Any]:
    """:func:`tiny_models.make_hf_model`: a fresh random model of a family at every call."""
    return make_hf_model


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn."""
    return request.param
