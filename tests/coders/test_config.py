"""Configs of coders: what is refused, and what comes back from plain values."""

from __future__ import annotations

from typing import Any

import pytest

from interp.coders import CoderConfig, CoderShape, TrainingConfig, make_coder
from interp.coders.shape import check_shape
from interp.errors import CoderError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "top-k", "k": 4}, "did you mean 'topk'"),
    ({"architecture": "topk"}, r"k must be an integer in 1..64; got None"),
    ({"architecture": "topk", "k": 65}, r"k must be an integer in 1..64; got 65"),
    ({"architecture": "topk", "k": True}, "k must be an integer"),
    ({"architecture": "standard", "k": 4}, "a standard coder has none"),
    ({"architecture": "transcoder", "activation": "jumprelu", "k": 4}, "a jumprelu coder has none"),
    ({"architecture": "topk", "k": 4, "sparsity": 1.0}, "no sparsity penalty"),
    ({"architecture": "topk", "k": 4, "activation": "topk"}, "'topk' has its own"),
    ({"architecture": "crosscoder", "activation": "matryoshka", "k": 4}, "unknown activation 'matryoshka'"),
    ({"architecture": "batch-topk", "k": 4, "multi_k": True}, "multi_k belongs to topk"),
    ({"architecture": "topk", "k": 4, "widths": (8, 64)}, "widths belong to matryoshka"),
    ({"architecture": "matryoshka", "k": 4, "widths": (64, 8)}, "must rise and end at d_sae=64"),
    ({"architecture": "matryoshka", "k": 4, "widths": (8, 32)}, "must rise and end at d_sae=64"),
    ({"architecture": "matryoshka", "k": 4, "widths": "8"}, "widths are integers"),
    ({"architecture": "standard", "sparsity": -1.0}, "sparsity must be a number, not negative"),
    ({"architecture": "jumprelu", "bandwidth": 0}, "bandwidth must be a number, positive"),
    ({"architecture": "gradient", "k": 4, "preselect": -1}, "preselect must be"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CoderError, match=message):
        CoderConfig(d_sae=64, **options)


@pytest.mark.parametrize("d_sae", [0, -1, 64.0, "64", True])
def test_sizes_are_positive_integers(d_sae: Any) -> None:
    with pytest.raises(CoderError, match="d_sae must be a positive integer"):
        CoderConfig("standard", d_sae=d_sae)


def test_plain_values_come_back() -> None:
    config = CoderConfig("matryoshka", d_sae=64, k=4, widths=(8, 64))
    assert CoderConfig.from_dict(config.to_dict()) == config
    training = TrainingConfig(tokens=100, betas=(0.5, 0.9), revival="ghost")
    assert TrainingConfig.from_dict(training.to_dict()) == training
    with pytest.raises(CoderError, match="unknown option 'd_sea' of CoderConfig; did you mean 'd_sae'"):
        CoderConfig.from_dict({"architecture": "topk", "d_sea": 4})
    with pytest.raises(CoderError, match="d_sae"):
        CoderConfig.from_dict({"architecture": "topk"})


def test_widths_of_matryoshka_are_halves_by_default() -> None:
    assert CoderConfig("matryoshka", d_sae=64, k=4).nested_widths == (4, 8, 16, 32, 64)
    assert CoderConfig("matryoshka", d_sae=3, k=1).nested_widths == (1, 3)


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("topk", CoderShape(4, 5), "rebuilds its input"),
        ("topk", CoderShape(4, 4, 2, 2), "reads and predicts one site"),
        ("transcoder", CoderShape(4, 5, 2, 2), "reads and predicts one site"),
        ("crosscoder", CoderShape(4, 4), "several sites of one width"),
        ("crosscoder", CoderShape(4, 5, 2, 2), "several sites of one width"),
        ("cross-layer-transcoder", CoderShape(4, 4), r"x and target \[row, layer, d\]"),
        ("cross-layer-transcoder", CoderShape(4, 4, 2, 3), r"x and target \[row, layer, d\]"),
    ],
)
def test_shapes_that_an_architecture_cannot_have(architecture: Any, shape: CoderShape, message: str) -> None:
    with pytest.raises(CoderError, match=message):
        check_shape(CoderConfig(architecture, d_sae=8, k=2), shape)


def test_the_start_is_drawn_from_the_seed() -> None:
    config = CoderConfig("topk", d_sae=8, k=2)
    a, b, c = (make_coder(config, CoderShape(4, 4), seed=seed) for seed in (1, 1, 2))
    assert a.W_dec.equal(b.W_dec) and not a.W_dec.equal(c.W_dec)
    assert a.W_enc.equal(a.W_dec)
    lengths = a.W_dec.norm(dim=1)
    assert bool(((lengths - 1).abs() < 1e-6).all())
