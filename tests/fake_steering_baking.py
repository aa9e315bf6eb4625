"""Made-up results of baking: reports of bakings, and abstentions over settings."""

from __future__ import annotations

from typing import Any

import torch
from fake_ground_truth import draw, provenance, with_ends

from interp.results.baking import AbstentionReport, BakeReport


def make_bake_report(n: int = 4, exact: int = 2, **changes: Any) -> BakeReport:
    """The first ``exact`` bakings are equal to rounding, the others far off."""
    names = (
        "bias",
        "orthogonal <W_O> & co",
        "spectrum",
        "casal",
        *(f"casal $L{i}$ " + "x" * 40 for i in range(n)),
    )
    near = torch.arange(n) < exact
    largest = torch.where(near, 1e-5 * (1 + draw(n)), 3 * (1 + draw(n)))
    kl = torch.stack([torch.where(near, 1e-12, 0.4), 0.5 + 0 * draw(n), 0.45 + 0.1 * draw(n)], dim=1)
    known: dict[str, Any] = dict(
        names=names[:n],
        exact=tuple(near.tolist()),
        largest=largest,
        mean=largest / 9,
        agreement=torch.where(near, 1.0, 0.7),
        kl=torch.stack([kl, 0.8 * kl, 1.3 * kl], dim=-1),
        confidence=0.95,
        n_tokens=4096,
        text="generated text",
        provenance=provenance(),
    )
    return BakeReport(**known | changes)


GROUPS = ("always on", "CASAL", "random <v> & $w")


def make_abstention(per_group: int = 4, groups: tuple[str, ...] = GROUPS, **changes: Any) -> AbstentionReport:
    """A reference, then so many settings of every group."""
    names = ["untouched", *(f"{group} {i}" for group in groups for i in range(per_group))]
    n = len(names)
    known: dict[str, Any] = dict(
        names=tuple(names),
        groups=("untouched", *(group for group in groups for _ in range(per_group))),
        made_up=with_ends(0.05 + 0.9 * draw(n)),
        known=with_ends(0.05 + 0.9 * draw(n, seed=1)),
        interval="95% t intervals over 3 seeds",
        provenance=provenance(),
    )
    return AbstentionReport(**known | changes)


def baking_gallery() -> dict[str, Any]:
    """Every figure of baking, in the sizes that break layouts."""
    return {
        "bake report": make_bake_report(),
        "bake report one": make_bake_report(1, largest=torch.zeros(1), mean=torch.zeros(1)),
        "bake report many": make_bake_report(14, exact=5),
        "abstention": make_abstention(),
        "abstention one": make_abstention(0, made_up=torch.tensor([[1.0, float("nan"), float("nan")]])),
        "abstention many": make_abstention(12, tuple(f"group {i}" + "y" * 30 * (i == 2) for i in range(5))),
    }
