"""Made-up results of dictionaries: recovery of features, absorption, geometry, probes and perturbations."""

from __future__ import annotations

from typing import Any

import torch

from interp.results import Estimate, Provenance
from interp.results.absorption import Absorption
from interp.results.feature_geometry import FeatureGeometry
from interp.results.feature_recovery import FeatureRecovery, RecoveryFigure, RecoveryTable
from interp.results.perturbation import ProbePerturbation, ShortcutRemoval
from interp.results.probing import MATCH_SOURCES, AttributeMatch, SparseProbing

TARGETS = ("sentiment=positive", "topic=food", "topic=<sea> & $co", "tense=past")


def provenance(**changes: Any) -> Provenance:
    """As every figure's tests expect it."""
    known: dict[str, Any] = dict(model="mix<4>l & co", family="gpt2", task="ioi", n_prompts=32)
    return Provenance(**known | changes)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform between 0 and 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def with_ends(values: torch.Tensor, half: float = 0.05) -> torch.Tensor:
    """Value, low, high."""
    return torch.stack([values, values - half, values + half], dim=-1)


def make_feature_recovery(latents: int = 24, features: int = 16, **changes: Any) -> FeatureRecovery:
    """Most features have a latent each, in shuffled order."""
    cosines = 0.4 * draw(latents, features) - 0.2
    found = torch.randperm(latents, generator=torch.Generator().manual_seed(1))[: features * 3 // 4]
    cosines[found, torch.arange(len(found))] = 0.8 + 0.2 * draw(len(found), seed=2)
    known: dict[str, Any] = dict(
        cosines=cosines,
        correlations=0.9 * cosines,
        detector=cosines.argmax(0),
        threshold=draw(features),
        per_feature_f1=draw(features, seed=3),
        per_feature_precision=draw(features, seed=4),
        per_feature_recall=draw(features, seed=5),
        firing=0.001 + 0.3 * draw(features, seed=6) ** 2,
        fvu=0.13,
        l0=4.2,
        provenance=provenance(),
    )
    return FeatureRecovery(**known | changes)


def make_recovery_table(
    architectures: tuple[str, ...] = ("standard", "topk", "batch-topk", "jumprelu<1>"),
    figures: tuple[str, ...] = ("mcc", "mmcs", "uniqueness", "f1", "fvu", "l0"),
    seeds: int = 5,
    **changes: Any,
) -> RecoveryTable:
    """Random figures; the random dictionaries' are lower."""
    rows = []
    for i, name in enumerate((*architectures, "random")):
        for j, figure in enumerate(figures):
            level = 0.25 if name == "random" else 0.6 + 0.08 * i
            values = tuple(float(v) for v in level + 0.05 * draw(seeds, seed=10 * i + j))
            mean = sum(values) / seeds
            nan = float("nan")
            ends = (mean - 0.03, mean + 0.03) if seeds > 1 else (nan, nan)
            rows.append(RecoveryFigure(name, figure, values, Estimate(mean, *ends)))
    known: dict[str, Any] = dict(
        rows=tuple(rows), random="random", interval="t", confidence=0.95, provenance=provenance()
    )
    return RecoveryTable(**known | changes)


def make_absorption(parents: int = 8, children: int = 4, **changes: Any) -> Absorption:
    """The first parent is whole, the second lost, the others more and more absorbed."""
    n = parents * children
    active = torch.full((parents,), 400)
    silent = torch.arange(parents) * 300 // max(parents - 1, 1)
    latents = torch.arange(parents)
    n_latents = torch.ones(parents, dtype=torch.long)
    if parents > 2:
        latents[1], n_latents[1], n_latents[2] = -1, 0, 3
    absorbed = silent * 3 // 4
    known: dict[str, Any] = dict(
        parents=torch.arange(parents),
        latents=latents,
        cosines=draw(parents),
        n_latents=n_latents,
        n_active=active,
        n_silent=silent,
        n_absorbed=absorbed,
        children=parents + torch.arange(n),
        child_parent=torch.arange(parents).repeat_interleave(children),
        child_cosines=0.8 * draw(n, seed=3) - 0.1,
        child_active=torch.full((n,), 80),
        child_absorbed=(absorbed // (4 * children) * 2).repeat_interleave(children),
        least_cosine=0.5,
        carries=0.2,
        provenance=provenance(),
    )
    return Absorption(**known | changes)


def make_geometry(latents: int = 200, rank: int = 32, *, top: int = 24, **changes: Any) -> FeatureGeometry:
    """A few duplicates and dead latents."""
    spectrum = torch.linspace(2, 0.1, rank)
    firing = 10 ** (-3 * draw(latents, seed=4))
    firing[:5] = 0
    chosen = firing.argsort(descending=True)[:top]
    phi = draw(top, top, seed=5) - 0.3
    known: dict[str, Any] = dict(
        nearest_cosine=torch.cat([torch.full((6,), 0.97), 0.6 * draw(latents - 6, seed=6)]),
        nearest=(torch.arange(latents) + 1) % latents,
        random_cosine=(0.35 + 0.1 * draw(latents, seed=7)).sort().values,
        spectrum=spectrum / spectrum.sum(),
        firing=firing,
        top=chosen,
        phi=(phi + phi.T) / 2,
        jaccard=(phi.abs() + phi.abs().T) / 2,
        duplicate_cosine=0.95,
        provenance=provenance(),
    )
    return FeatureGeometry(**known | changes)


def make_probing(
    targets: tuple[str, ...] = TARGETS, ks: tuple[int, ...] = (1, 2, 5, 10, 20), **changes: Any
) -> SparseProbing:
    """Accuracy rises with k towards the dense probe's."""
    rise = torch.linspace(0.6, 0.85, len(ks))[None, :, None] + 0.08 * draw(len(targets), len(ks), 3)
    known: dict[str, Any] = dict(
        targets=targets,
        ks=ks,
        latents=with_ends(rise),
        random=with_ends(rise - 0.15),
        dense=with_ends(torch.full((len(targets), 3), 0.94)),
        constant=torch.full((len(targets), 3), 0.5),
        chosen=torch.arange(len(targets) * ks[-1]).view(len(targets), -1),
        confidence=0.95,
        provenance=provenance(),
    )
    return SparseProbing(**known | changes)


def make_match(targets: tuple[str, ...] = TARGETS, **changes: Any) -> AttributeMatch:
    """Latents are best."""
    n = len(targets)
    level = torch.tensor([0.8, 0.4, 0.55, 0.6])[:, None] + 0.1 * draw(4, n)
    sign = torch.ones(4, n)
    sign[2:, 0] = -1
    known: dict[str, Any] = dict(
        targets=targets,
        f1=with_ends(level),
        unit=torch.arange(4 * n).view(4, n),
        threshold=draw(4, n),
        sign=sign,
        always=0.3 + 0.3 * draw(n),
        confidence=0.95,
        provenance=provenance(),
    )
    assert len(MATCH_SOURCES) == 4
    return AttributeMatch(**known | changes)


def make_perturbation(
    targets: tuple[str, ...] = TARGETS, ks: tuple[int, ...] = (1, 2, 5, 10), **changes: Any
) -> ProbePerturbation:
    """Own probes lose most."""
    n = len(targets)
    base = 0.85 + 0.1 * draw(n)
    drop = (
        0.03 * draw(len(ks), n, n, seed=2)
        + 0.25 * torch.eye(n) * torch.linspace(0.4, 1, len(ks))[:, None, None]
    )
    named = [target.partition("=")[0] for target in targets]
    known: dict[str, Any] = dict(
        targets=targets,
        ks=ks,
        base=base,
        after=base - drop,
        random=base - 0.02 * draw(len(ks), 3, n),
        related=torch.tensor([[a == b for b in named] for a in named]),
        chosen=torch.arange(n * ks[-1]).view(n, -1),
        scores=with_ends(torch.linspace(0.1, 0.24, len(ks)), 0.03),
        random_scores=with_ends(torch.zeros(len(ks)), 0.01),
        confidence=0.95,
        provenance=provenance(),
    )
    return ProbePerturbation(**known | changes)


def make_shortcuts(pairs: int = 3, ks: tuple[int, ...] = (1, 2, 5, 10), **changes: Any) -> ShortcutRemoval:
    """Half of what the bias cost is regained."""
    after = torch.linspace(0.65, 0.78, len(ks)) + 0.02 * draw(pairs, len(ks))
    known: dict[str, Any] = dict(
        pairs=tuple((TARGETS[i % 4], TARGETS[(i + 1 + i // 4) % 4]) for i in range(pairs)),
        ks=ks,
        biased=torch.full((pairs,), 0.62),
        oracle=torch.full((pairs,), 0.9),
        on_shortcut=torch.full((pairs,), 0.8),
        after=with_ends(after, 0.04),
        random=torch.full((pairs, len(ks)), 0.63),
        chosen=torch.arange(pairs * ks[-1]).view(pairs, -1),
        confidence=0.95,
        provenance=provenance(),
    )
    return ShortcutRemoval(**known | changes)


def ground_truth_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    many = tuple(f"attribute{i // 3}=value{i}" for i in range(13))
    return {
        "feature recovery": make_feature_recovery(),
        "feature recovery many": make_feature_recovery(256, 128),
        "feature recovery few latents": make_feature_recovery(5, 16),
        "feature recovery of one": make_feature_recovery(1, 1),
        "recovery table": make_recovery_table(),
        "recovery table one seed": make_recovery_table(("topk",), ("mcc",), 1),
        "absorption": make_absorption(),
        "absorption one": make_absorption(1, 1),
        "absorption many": make_absorption(40, 3),
        "geometry": make_geometry(),
        "geometry without activations": make_geometry(firing=None, top=0),
        "geometry nan": make_geometry(top=3, phi=torch.full((3, 3), float("nan"))),
        "probing": make_probing(),
        "probing many": make_probing(many, (1, 3, 10, 30, 100)),
        "probing one": make_probing(TARGETS[:1], (1,)),
        "attribute match": make_match(),
        "attribute match many": make_match(many),
        "probe perturbation": make_perturbation(),
        "probe perturbation many": make_perturbation(many, (2,)),
        "shortcuts": make_shortcuts(),
        "shortcuts many": make_shortcuts(12, (5,)),
    }
