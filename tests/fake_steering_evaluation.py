"""Evaluations of steerings made of random numbers, for their figures and reports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.results import OffTarget, Provenance, SteeringEvaluation
from interp.results.steering_evaluation import MEASURES

PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32)
WORLD = tuple(MEASURES)
ANY_MODEL = ("log odds", "loss", "kl", "entropy")


def fake_evaluation(
    methods: tuple[str, ...] = ("mean-difference", "pca & $co", "<b>lda"),
    controls: tuple[str, ...] = ("random direction", "shuffled labels"),
    doses: tuple[float, ...] = (0.1, 0.3, 1.0),
    measures: tuple[str, ...] = WORLD,
    unreached: bool = False,
    seed: int = 0,
) -> SteeringEvaluation:
    """Effects of methods that grow with the dose, controls that do nothing, losses that grow for all."""
    draw = torch.Generator().manual_seed(seed)
    names = (*methods, *controls)
    shape = (len(names), len(doses), len(measures))
    height = torch.tensor(doses).sqrt()[None, :, None] * torch.rand(
        len(names), 1, len(measures), generator=draw
    )
    height[len(methods) :] *= 0.1
    value = (0.1 + 0.8 * height).clamp(max=1.0).double()
    for number, name in enumerate(measures):
        if name in ("loss", "kl", "entropy"):
            value[..., number] = torch.tensor(doses) * (1 + 0.1 * torch.rand(shape[:2], generator=draw))

    def ends(middle: Tensor, width: float = 0.05) -> Tensor:
        return torch.stack([middle, middle - width, middle + width], dim=-1)

    over = ends(value - value[len(methods) :].mean(0)) if controls else torch.full((*shape, 3), torch.nan)
    over = over.double().clone()
    over[len(methods) :] = torch.nan
    strengths = torch.tensor(doses, dtype=torch.float64).sqrt().expand(shape[:2]).clone()
    arrays = dict(values=ends(value), shifts=ends(value - 0.1), over_controls=over)
    if unreached:
        for part in (*arrays.values(), strengths):
            part[0, -1] = torch.nan
    return SteeringEvaluation(
        target="sentiment=<positive> & co",
        conditions=names,
        kinds=("method",) * len(methods) + ("random",) * len(controls),
        places=("add(resid_post[1])",) * len(names),
        draws=(1,) * len(methods) + (4,) * len(controls),
        doses=doses,
        measures=measures,
        unsteered=ends(torch.full((len(measures),), 0.1, dtype=torch.float64)),
        strengths=strengths,
        confidence=0.95,
        text="generated text",
        provenance=PROVENANCE,
        **arrays,
    )


def fake_off_target(steerings: int = 4, values: int = 11, seed: int = 0, hole: bool = False) -> OffTarget:
    """Shifts that are large on the diagonal; the last row is a control."""
    draw = torch.Generator().manual_seed(seed)
    names = tuple(f"a{i // 2}<b>=v{i}" for i in range(values))
    shift = 0.05 * torch.randn(steerings, values, generator=draw).double()
    for i in range(min(steerings - 1, values)):
        shift[i, i] += 0.6
    if hole:
        shift[0] = torch.nan
    rows = (*(names[i % values] for i in range(steerings - 1)), "random direction")
    return OffTarget(
        steerings=rows,
        values=names,
        shifts=torch.stack([shift, shift - 0.03, shift + 0.03], dim=-1),
        unsteered=torch.rand(values, generator=draw),
        controls=("random direction",),
        dose=0.3,
        confidence=0.95,
        provenance=PROVENANCE,
    )


def steering_evaluation_gallery() -> dict[str, Any]:
    """In the sizes that break layouts."""
    return {
        "steering evaluation": fake_evaluation(),
        "steering evaluation many": fake_evaluation(
            tuple(f"a method with a long name {i}" for i in range(13)), doses=(0.03, 0.1, 0.2, 0.3, 1.0, 2.0)
        ),
        "steering evaluation one dose": fake_evaluation(("mean-difference",), doses=(0.3,)),
        "steering evaluation without controls": fake_evaluation(controls=(), measures=ANY_MODEL),
        "steering evaluation unreached": fake_evaluation(unreached=True),
        "off target": fake_off_target(),
        "off target one": fake_off_target(1, 2),
        "off target many": fake_off_target(23, 11, hole=True),
    }
