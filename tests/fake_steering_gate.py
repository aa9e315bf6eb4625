"""Records of gated steering, made of random numbers, for their figures."""

from __future__ import annotations

from typing import Any

import torch

from interp.results import ConditionReport, ControllerHistory, Estimate, GatedEffects, Provenance

PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32, seed=3)


def fake_condition(n: int = 60, sites: int = 4, apart: float = 2.0, seed: int = 0) -> ConditionReport:
    """Scores of two normal distributions, ``apart`` standard deviations apart."""
    draw = torch.Generator().manual_seed(seed)
    yes, no = torch.randn(n, generator=draw) + apart, torch.randn(2 * n, generator=draw)
    auc = 0.5 + 0.1 * torch.arange(sites).float().clamp(max=4)
    return ConditionReport(
        yes=yes,
        no=no,
        threshold=1.5,
        auc=Estimate(0.92, 0.88, 0.96),
        tpr=_near(float((yes > 1.5).float().mean())),
        fpr=_near(float((no > 1.5).float().mean())),
        target="false-positive rate 0.05",
        sites=tuple(f"resid_post[{i}]" for i in range(sites)),
        chosen=sites - 1,
        site_auc=torch.stack([auc, auc - 0.04, (auc + 0.03).clamp(max=1)], dim=1),
        choosing_auc=(auc + 0.01).clamp(max=1),
        confidence=0.95,
        provenance=PROVENANCE,
    )


def _near(value: float) -> Estimate:
    return Estimate(value, max(0.0, value - 0.05), min(1.0, value + 0.08))


def fake_effects(
    arms: tuple[str, ...] = ("always on", "condition", "controller <soft> & $5", "random direction"),
    n: int = 40,
    seed: int = 0,
) -> GatedEffects:
    """The first arm acts everywhere, the others mostly where they should."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(arms), n)
    act = (torch.rand(shape, generator=draw) < 0.9).float()
    leave = (torch.rand(len(arms), 2 * n, generator=draw) < 0.1).float()
    act[0], leave[0] = 1.0, 1.0
    noise = [torch.rand(x.shape, generator=draw) for x in (act, leave, act, leave)]
    return GatedEffects(
        arms=arms,
        act_effect=act * (4 + 2 * noise[0]),
        leave_effect=leave * (4 + 2 * noise[1]),
        act_kl=act * (0.2 + 0.2 * noise[2]),
        leave_kl=leave * (0.2 + 0.2 * noise[3]),
        act_gate=act,
        leave_gate=leave,
        behaviour="log odds of <formal> words & others, nats",
        strength=1.5,
        confidence=0.95,
        provenance=PROVENANCE,
    )


def fake_controller(
    n: int = 100, channels: int = 3, objective: str = "both", seed: int = 0
) -> ControllerHistory:
    """Curves that settle, with noise."""
    draw = torch.Generator().manual_seed(seed)
    fall = torch.exp(-torch.arange(n) / max(1, n / 6))

    def curve(start: float, end: float) -> torch.Tensor:
        return end + (start - end) * fall + 0.02 * torch.randn(n, generator=draw)

    measured = objective != "labels"
    missing = torch.full((n,), torch.nan)
    weights = torch.stack([curve(1.0, 2.0 * i / max(1, channels - 1)) for i in range(channels)], dim=1)
    return ControllerHistory(
        steps=torch.arange(1, n + 1),
        loss=curve(1.0, -4.0),
        effect=curve(2.0, 5.0) if measured else missing,
        act_kl=curve(0.1, 0.3).clamp(min=0) if measured else missing,
        leave_kl=curve(0.1, 0.0).clamp(min=0) if measured else missing,
        act_gate=curve(0.5, 0.95).clamp(0, 1),
        leave_gate=curve(0.5, 0.03).clamp(0, 1),
        weights=weights if channels > 1 else torch.ones(n, 1),
        channels=tuple(f"add(resid_post[{i % 10}])" for i in range(channels)),
        objective=objective,
        provenance=PROVENANCE,
    )


def steering_gate_gallery() -> dict[str, Any]:
    """Records of gated steering, in the sizes that break layouts."""
    return {
        "condition": fake_condition(),
        "condition one site": fake_condition(sites=1, apart=9.0),
        "condition many": fake_condition(n=1, sites=30),
        "gated effects": fake_effects(),
        "gated effects many": fake_effects(tuple(f"arm number {i} & <b>" * (1 + i % 3) for i in range(14))),
        "gated effects one": fake_effects(("always on",), n=1),
        "controller": fake_controller(),
        "controller labels": fake_controller(objective="labels"),
        "controller one step": fake_controller(n=1, channels=1),
        "controller many": fake_controller(n=30, channels=26),
    }
