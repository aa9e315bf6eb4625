"""Names that options of coders may have."""

from __future__ import annotations

from typing import Literal

Architecture = Literal[
    "standard",
    "gated",
    "topk",
    "batch-topk",
    "jumprelu",
    "matryoshka",
    "gradient",
    "discrete",
    "transcoder",
    "skip-transcoder",
    "cross-layer-transcoder",
    "crosscoder",
]
"""Kinds of sparse coders."""

Activation = Literal["standard", "gated", "topk", "batch-topk", "jumprelu"]
"""How latents are chosen from pre-activations."""
