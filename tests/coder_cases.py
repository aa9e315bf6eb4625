"""Coders of every kind with random weights, and what it means that two are the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape

D_IN, D_OUT, D_SAE, K = 7, 5, 23, 4
_TOP = ("topk", "batch-topk", "matryoshka", "gradient")

SHARED: dict[tuple[str, str | None], str] = {
    ("standard", None): "standard",
    ("discrete", None): "standard",
    ("gated", None): "gated",
    ("topk", None): "topk",
    ("gradient", None): "topk",
    ("jumprelu", None): "jumprelu",
    ("batch-topk", None): "jumprelu",
    ("matryoshka", None): "jumprelu",
    ("transcoder", "standard"): "transcoder",
    ("transcoder", "jumprelu"): "jumprelu_transcoder",
    ("transcoder", "batch-topk"): "jumprelu_transcoder",
    ("skip-transcoder", "standard"): "skip_transcoder",
    ("skip-transcoder", "jumprelu"): "jumprelu_skip_transcoder",
    ("skip-transcoder", "batch-topk"): "jumprelu_skip_transcoder",
}
"""Architecture and activation of coders that SAELens can read, and SAELens' name."""
OWN: list[tuple[str, str | None]] = [
    *((kind, rule) for kind in ("transcoder", "skip-transcoder") for rule in ("topk", "gated")),
    *(
        (kind, rule)
        for kind in ("cross-layer-transcoder", "crosscoder")
        for rule in ("standard", "gated", "topk", "batch-topk", "jumprelu")
    ),
]
"""Those that it cannot."""
KINDS = [*SHARED, *OWN]


def make_random(architecture: str, activation: str | None, sites: Sequence[str] = ("mlp_out[2]",)) -> Coder:
    """A coder in use, none of whose weights is zero, one, or of unit length."""
    k = K if (activation or architecture) in _TOP else None
    config = CoderConfig(architecture=architecture, activation=activation, d_sae=D_SAE, k=k)  # type: ignore[arg-type]
    n = 3 if architecture.startswith("cross") else 0
    shape = CoderShape(D_IN, D_OUT if config.reads_another_site else D_IN, n, n)
    targets = ["mlp_out[3]"] if config.reads_another_site else None
    coder = make_coder(config, shape, sites=sites, target_sites=targets, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, value in coder.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        one_threshold = name.endswith(".threshold")
        value.copy_(noise.abs() * 0.6 if one_threshold else value + 0.4 * noise)
    coder.metadata = {"model": "mix-4l", "tokens": 1_000, "final": {"fvu": 0.25}, "note": None}
    return coder.eval()


def assert_equal(first: Coder, second: Coder) -> None:
    """The same coder to the bit."""
    assert type(first) is type(second)
    assert (first.config, first.shape, first.metadata) == (second.config, second.shape, second.metadata)
    assert (first.sites, first.target_sites) == (second.sites, second.target_sites)
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
