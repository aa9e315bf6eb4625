"""Histories of learned steerings, made of falling curves, for their figure."""

from __future__ import annotations

import torch

from interp.results import Provenance, SteeringTraining

PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32, method="lineas", seed=3)


def make_training(
    n_steps: int = 60,
    parts: tuple[str, ...] = ("resid_post[0]", "resid_post[1]", "resid_post[2]", "resid_post[3]@<s> & co"),
    measures: tuple[str, ...] = ("kept share",),
    loss_name: str = "squared distance, share of the <unsteered> one",
    seed: int = 0,
) -> SteeringTraining:
    """Losses that fall from 1, each at its own pace."""
    draw = torch.Generator().manual_seed(seed)
    steps = torch.arange(n_steps)
    pace = 0.02 + 0.1 * torch.rand(len(parts), generator=draw)
    losses = torch.exp(-steps[:, None] * pace) * 0.9 + 0.1
    losses = losses * (1 + 0.02 * torch.randn(losses.shape, generator=draw))
    return SteeringTraining(
        steps=steps,
        losses=losses.double(),
        parts=parts,
        loss_name=loss_name,
        provenance=PROVENANCE,
        measures={name: torch.exp(-0.05 * steps).double() for name in measures},
    )


def steering_maps_gallery() -> dict[str, SteeringTraining]:
    """A history of every size that breaks a layout."""
    return {
        "steering training": make_training(),
        "steering training many": make_training(300, tuple(f"resid_post[{i}]" for i in range(32))),
        "steering training one": make_training(1, ("completions",), (), "loss, nats a token"),
        "steering training plain": make_training(40, ("completions",), (), "loss, nats a token"),
    }
