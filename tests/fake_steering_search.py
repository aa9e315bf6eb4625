"""Records of searches for where to steer, and of detectors, made of random numbers."""

from __future__ import annotations

from typing import Any

import torch

from interp.results import Estimate, Provenance
from interp.results.detector import DetectorReport, GuardReport
from interp.results.steering_search import SearchComparison, SteeringSearch, direction_key

PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32)


def fake_search(
    n_sites: int = 4,
    positions: tuple[str, ...] = ("all", "-1"),
    doses: tuple[float, ...] = (0.1, 0.3),
    method: str = "brute-force",
    **fields: Any,
) -> SteeringSearch:
    """Effects that grow with the dose and have their best in a middle layer."""
    draw = torch.Generator().manual_seed(0)
    sites = tuple(f"resid_post[{i}]" for i in range(n_sites))
    shape = (n_sites, len(positions), len(doses))
    scores = torch.rand(shape, generator=draw).double() * torch.tensor(doses).sqrt()
    made = {
        "method": method,
        "sites": sites,
        "positions": positions,
        "doses": doses,
        "scores": scores,
        "strengths": 1 + torch.rand(shape, generator=draw),
        "passed": torch.ones(shape[:2], dtype=torch.bool),
        "score": "measured rise of the objective",
        "directions": {direction_key(s, p): torch.randn(8, generator=draw) for s in sites for p in positions},
        "acts_at": None,
        "extraction": "mean-difference",
        "forwards": 1312,
        "backwards": 0,
        "provenance": PROVENANCE,
    }
    return SteeringSearch(**made | fields)


def fake_comparison(
    n_sites: int = 4,
    positions: tuple[str, ...] = ("all", "-1"),
    methods: tuple[str, ...] = ("js", "gradient", "kl-filter", "brute-force"),
    none_passes: bool = False,
    prompts: int = 16,
) -> SearchComparison:
    """Scores that agree with the judged effects the better the later a method stands."""
    draw = torch.Generator().manual_seed(1)
    shape = (n_sites, len(positions))
    judged = torch.rand(*shape, 1, generator=draw) * 5 + 0.2 * torch.randn(*shape, prompts, generator=draw)
    noise = torch.randn(len(methods), *shape, generator=draw)
    share = torch.linspace(0, 1, len(methods))[:, None, None]
    passed = torch.rand(len(methods), *shape, generator=draw) < 0.7
    passed[[i for i, name in enumerate(methods) if name != "kl-filter"]] = True
    if none_passes:
        passed[-1] = False
    n = len(methods)
    regret = [
        Estimate(0.8 * (1 - i / n), 0.8 * (1 - i / n) - 0.05, 0.8 * (1 - i / n) + 0.06) for i in range(n)
    ]
    if none_passes:
        regret[-1] = Estimate(*[float("nan")] * 3)
    return SearchComparison(
        methods=methods,
        sites=tuple(f"resid_post[{i}]" for i in range(n_sites)),
        positions=positions,
        dose=0.3,
        scores=(1 - share) * noise + share * judged.mean(-1),
        passed=passed,
        judged=judged,
        spearman=tuple(Estimate(i / n, i / n - 0.1, i / n + 0.1) for i in range(n)),
        regret=tuple(regret),
        top_overlap=tuple(Estimate(i / n, i / n - 0.1, i / n + 0.1) for i in range(n)),
        any_regret=Estimate(0.53, 0.5, 0.56),
        k=3,
        forwards=tuple(range(n)),
        backwards=(0,) * n,
        seconds=(1.0,) * n,
        confidence=0.95,
        provenance=PROVENANCE,
    )


def fake_report(
    n: int = 60, apart: float = 2.0, threshold: float | None = 1.6, **fields: Any
) -> DetectorReport:
    """Normal scores of both sides, ``apart`` standard deviations apart."""
    draw = torch.Generator().manual_seed(2)
    made = {
        "name": "sentiment=positive",
        "positive": torch.randn(n, generator=draw) + apart,
        "negative": torch.randn(n, generator=draw),
        "threshold": threshold,
        "wanted_rate": None if threshold is None else 0.05,
        "n_calibration": None if threshold is None else 50,
        "auc": Estimate(0.92, 0.87, 0.96),
        "true_rate": None if threshold is None else Estimate(0.65, 0.5, 0.78),
        "false_rate": None if threshold is None else Estimate(0.05, 0.01, 0.14),
        "confidence": 0.95,
        "provenance": PROVENANCE,
    }
    return DetectorReport(**made | fields)


def fake_guard_report(cells: tuple[int, ...] = (0, 1, 2, 3), n: int = 20) -> GuardReport:
    """Prompts of some cells, a few of them misjudged."""
    draw = torch.Generator().manual_seed(3)
    truth = torch.tensor(cells).repeat_interleave(n)
    content = (truth // 2) * 0.8 + 0.25 * torch.randn(len(truth), generator=draw)
    behaviour = (truth % 2) * 0.8 + 0.25 * torch.randn(len(truth), generator=draw)
    decided = 2 * (content > 0.45).long() + (behaviour > 0.4).long()
    return GuardReport(content, behaviour, truth, decided, (0.45, 0.4), PROVENANCE)


def steering_search_gallery() -> dict[str, Any]:
    """A record of every kind of figure, in the sizes that break layouts."""
    names = ("all", "-1", "2:5", "$x$ & <b>")
    few = fake_search(3, ("all", "-1", "0,-1"))
    ruled = fake_search(
        4,
        doses=(0.3,),
        method="kl-filter",
        scores=torch.randn(4, 2, 1, generator=torch.Generator().manual_seed(4)),
        strengths=torch.full((4, 2, 1), torch.nan),
        passed=torch.tensor([[True, False], [True, True], [False, False], [False, False]]),
        acts_at="-1",
    )
    hole = few.scores.clone()
    hole[1, 2, 1] = torch.nan
    return {
        "steering search": fake_search(),
        "steering search ruled out": ruled,
        "steering search unreached": fake_search(3, ("all", "-1", "0,-1"), scores=hole, acts_at="read"),
        "steering search many": fake_search(48, tuple(str(i) for i in range(30)), (0.1, 0.3, 1.0)),
        "steering search one": fake_search(1, ("all",), (0.3,), scores=torch.zeros(1, 1, 1)),
        "steering search of any dose": fake_search(
            4,
            method="js",
            strengths=torch.full((4, 2, 2), torch.nan),
            scores=torch.arange(8.0).reshape(4, 2, 1).repeat(1, 1, 2),
        ),
        "search comparison": fake_comparison(),
        "search comparison many": fake_comparison(32, names, ("js", "gradient", "<b>$m$</b>", "brute-force")),
        "search comparison none passed": fake_comparison(2, ("all",), ("brute-force", "kl-filter"), True),
        "detector": fake_report(),
        "detector parted": fake_report(12, 9.0, name="x" * 80),
        "detector without threshold": fake_report(400, 0.0, None, name="<b>$d$</b> & co"),
        "detector constant": fake_report(
            3, positive=torch.ones(3), negative=torch.ones(2), threshold=1.0, auc=Estimate(0.5, 0.5, 0.5)
        ),
        "guard": fake_guard_report(),
        "guard of two cells": fake_guard_report((0, 3), 5),
    }
