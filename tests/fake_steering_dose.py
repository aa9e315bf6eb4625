"""Dose calibrations and steered texts made of numbers, for their figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fake_coders import PROVENANCE

from interp.results import DoseCalibration, SteeredText

WORDS = ("<s>", " the", " $x$", "\n", " &amp;", " cat", " <b>", " sat", "")


def fake_calibration(
    strengths: Sequence[float] = tuple(x / 2 for x in range(-8, 9)),
    kl: Sequence[float] | None = None,
    spread: float = 0.15,
) -> DoseCalibration:
    """A parabola that flattens, unless ``kl`` is given; the two sides differ."""
    x = torch.tensor(strengths, dtype=torch.float64)
    y = (
        2.5 * (1 - torch.exp(-(x**2) / (8 - x.sign())))
        if kl is None
        else torch.tensor(kl, dtype=torch.float64)
    )
    return DoseCalibration(
        strengths=x,
        kl=y,
        low=(1 - spread) * y,
        high=(1 + spread) * y,
        confidence=0.95,
        text="generated text, <seed> 0 & $more$ (64 rows, 4096 tokens, 0123456789abcdef)",
        n_tokens=4096,
        provenance=PROVENANCE,
    )


def fake_text(
    lengths: Sequence[tuple[int, int]] = ((6, 9), (3, 9), (8, 5)),
    unit: str = "dose",
    last: bool = True,
    scale: float = 1.3,
) -> SteeredText:
    """Rows of a prompt and a continuation of given lengths, the last word not read, the second row not steered."""
    width = max(a + b for a, b in lengths)
    strength = torch.full((len(lengths), width), torch.nan)
    draw = torch.Generator().manual_seed(0)
    for row, (n_prompt, n_new) in enumerate(lengths):
        n = n_prompt + n_new
        strength[row, :n] = scale * torch.randn(n, generator=draw)
        strength[row, : n_prompt - 1] = 0
        if row == 1:
            strength[row, :n] = 0
        if last:
            strength[row, n - 1] = torch.nan
    return SteeredText(
        tokens=tuple(
            tuple(WORDS[(row + i) % len(WORDS)] for i in range(a + b)) for row, (a, b) in enumerate(lengths)
        ),
        strength=strength,
        n_prompt=torch.tensor([a for a, _ in lengths]),
        asked=torch.tensor(
            [0.0 if row == 1 else 0.5 - row for row in range(len(lengths))], dtype=torch.float64
        ),
        unit=unit,
        steering=tuple("" if row == 1 else "add(resid_post[1]@-1,gen)" for row in range(len(lengths))),
        provenance=PROVENANCE,
    )


def steering_dose_gallery() -> dict[str, Any]:
    """In the sizes that break layouts."""
    fallen = (0.0, 0.4, 0.9, 1.2, 0.8, 1.4)
    return {
        "steering dose": fake_calibration(),
        "steering dose one side": fake_calibration((0.0, 1.0), (0.0, 0.03)),
        "steering dose falling": fake_calibration((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), fallen, 0.4),
        "steering dose large": fake_calibration((-9000.0, 0.0, 4000.0, 8000.0), (14.0, 0.0, 3.0, 9.0)),
        "steering dose nothing": fake_calibration((-1.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
        "steered text": fake_text(),
        "steered text long": fake_text(((90, 40), (5, 2)), unit="strength"),
        "steered text one": fake_text(((1, 0),), last=False),
        "steered text many": fake_text(((4, 6),) * 20, scale=900.0),
    }
