"""Records of reuse, repair and training checkpoints with made-up numbers, and names that look like markup."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from interp.results import (
    AttentionMove,
    CircuitOverlap,
    CrossTaskAblation,
    Estimate,
    HeadDevelopment,
    Provenance,
    Repair,
)

NAMES = ("ioi", "<b>gt</b> & co", "a$b", "sva", "docstring " * 4, "t5", "t6", "t7")


def provenance(**changes: Any) -> Provenance:
    known = dict(model="mix<4>l & co", task="ioi", n_prompts=32, metric="logit difference", direction="noise")
    return Provenance(**known | dict(method="eap", backend=None) | changes)


def make_overlap(n: int = 3, cuts: Sequence[float] = (0.01, 0.05, 0.2), **changes: Any) -> CircuitOverlap:
    """Circuits that share more the more edges they have; chance shares a third to two thirds of that."""
    pairs = len(list(itertools.combinations(range(n), 2)))
    shares = [0.1 if math.isnan(cut) else cut for cut in cuts]
    sizes = torch.tensor([[round(900 * share) + 20 + i for i in range(n)] for share in shares])
    shared = torch.tensor([[round(100 * share) + pair for pair in range(pairs)] for share in shares])
    null = torch.stack([shared, shared + 1])
    known: dict[str, Any] = dict(
        names=NAMES[:n],
        level="edges",
        n_items=1000,
        cuts=tuple(cuts),
        cut_by="fraction",
        sizes=sizes,
        shared=shared,
        null_low=null // 3,
        null_median=null // 2,
        null_high=2 * null // 3,
        p_values=torch.linspace(0, 1, null.numel()).view(null.shape),
        confidence=0.95,
        provenance=provenance(),
    )
    return CircuitOverlap(**known | changes)


def make_cross(circuits: int = 3, tasks: int = 3, draws: int = 5, **changes: Any) -> CrossTaskAblation:
    """Performance from -0.2 to 1.2."""
    performance = torch.linspace(-0.2, 1.2, 2 * circuits * tasks).view(2, circuits, tasks)
    generator = torch.Generator().manual_seed(4)
    known: dict[str, Any] = dict(
        circuits=NAMES[:circuits],
        tasks=NAMES[:tasks],
        level="edges",
        sizes=tuple(10 + i for i in range(circuits)),
        n_items=500,
        performance=performance,
        low=performance - 0.1,
        high=performance + 0.2,
        random=torch.rand(2, circuits, tasks, draws, generator=generator),
        full=torch.linspace(2, 3, tasks),
        empty=torch.linspace(-1, 0, tasks),
        metrics=("logit difference",) * tasks,
        n_prompts=(32,) * tasks,
        confidence=0.95,
        provenance=provenance(),
        scores={name: torch.zeros(2, circuits, 4) for name in NAMES[:tasks]},
    )
    return CrossTaskAblation(**known | changes)


def make_repair(
    metrics: Sequence[str] = ("logit <diff>", "accuracy"), draws: int = 4, moves: int = 3, **changes: Any
) -> Repair:
    """Every metric rises from 0 by a half to one and a half; controls stay below."""
    n, prompts = len(metrics), 6
    before = torch.linspace(-1, 1, prompts).expand(n, -1).clone()
    gain = torch.linspace(0.5, 1.5, prompts)
    controls = torch.linspace(-0.4, 0.4, draws)[None, :, None] + before[:, None]
    known: dict[str, Any] = dict(
        moves=tuple(AttentionMove(f"L{i // 4}H{i % 4}", "END", f"S<{i}>", 0.1, 0.9) for i in range(moves)),
        metrics=tuple(metrics),
        higher_is_clean=(True,) * n,
        before=before,
        after=before + gain,
        random_heads=controls,
        random_tokens=controls + 1.2,
        gains=(Estimate(1.0, 0.75, 1.25),) * n,
        confidence=0.95,
        provenance=provenance(method="repair", metric=None, direction=None),
    )
    return Repair(**known | changes)


def make_development(
    steps: Sequence[int] = (100, 200, 400), layers: int = 2, heads: int = 4, roles: int = 2, **changes: Any
) -> HeadDevelopment:
    """Effects that rise from 0, the more the later the head, but for the first, which falls below 0."""
    n = len(steps)
    rise = torch.linspace(0, 1, n)[:, None, None] * torch.linspace(0.01, 0.8, layers * heads).view(
        layers, heads
    )
    rise[:, 0, 0] = torch.linspace(0.3, -0.2, n)
    names = [f"role <{i}>" for i in range(roles)]
    known: dict[str, Any] = dict(
        steps=torch.tensor(steps),
        clean=torch.linspace(0, 10, n),
        corrupted=torch.linspace(0, -1, n),
        accuracy=torch.linspace(0, 1, n),
        scores={"effect": rise, **{name: rise.abs() / (i + 1) for i, name in enumerate(names)}},
        errors=torch.full((n, layers, heads), 0.02),
        thresholds={"effect": 0.1, **dict.fromkeys(names, 0.3)},
        gap=11.0,
        provenance=provenance(method="exact", backend="wavefront"),
        roles=dict.fromkeys(names, "a made-up role"),
    )
    return HeadDevelopment(**known | changes)


def reuse_gallery() -> dict[str, Any]:
    """A record of every kind, in the sizes that break layouts."""
    return {
        "overlap": make_overlap(),
        "overlap many": make_overlap(8, level="nodes"),
        "overlap given": make_overlap(3, (float("nan"),), cut_by="circuit"),
        "cross ablation": make_cross(),
        "cross ablation many": make_cross(8, 7, draws=0, level="heads"),
        "repair": make_repair(),
        "repair many": make_repair(("logit <diff>", "b$", "c", "d & e"), moves=40),
        "repair without controls": make_repair(("x",), draws=0, moves=1),
        "development": make_development(),
        "development many": make_development((1, 8, 64, 512, 4096), 8, 12, 3),
        "development of effects": make_development((0, 1), 1, 1, 0),
    }
