"""Made-up directions, planted recoveries, value vectors and relation neurons, for their figures."""

from __future__ import annotations

from typing import Any

import torch

from interp.results import PlantedRecovery, Provenance, RelationNeurons, SteeringDirections, ValueVectors

METHODS = ("mean-difference", "pca", "centred-pca", "lat", "logistic", "lda")
PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32, method="extraction")


def ends(values: torch.Tensor, width: float = 0.1) -> torch.Tensor:
    """Value, low and high."""
    return torch.stack([values, values - width, (values + width / 2).clamp(max=1)], dim=-1)


def make_directions(
    methods: tuple[str, ...] = METHODS,
    sites: tuple[str, ...] = ("resid_post[1]",),
    seed: int = 0,
    **changes: Any,
) -> SteeringDirections:
    """Every method at every site; ``mlp_post`` is a space of its own."""
    draw = torch.Generator().manual_seed(seed)
    named = [(method, site) for site in sites for method in methods]
    found = [torch.randn(7 if "mlp_post" in site else 5, generator=draw) for _, site in named]
    cosines = torch.tensor(
        [
            [float(a @ b / a.norm() / b.norm()) if len(a) == len(b) else torch.nan for b in found]
            for a in found
        ]
    )
    fields = dict(
        methods=tuple(method for method, _ in named),
        sites=tuple(site for _, site in named),
        directions=tuple(found),
        auc=ends(0.5 + 0.5 * torch.rand(len(named), generator=draw)),
        stability=ends(0.3 + 0.7 * torch.rand(len(named), generator=draw), 0.3),
        cosines=cosines,
        n_bootstrap=50,
        confidence=0.95,
        model_digest="abc",
        data="positive: 16 texts; negative: 16 texts",
        provenance=PROVENANCE,
    )
    return SteeringDirections(**fields | changes)


def make_planted(
    methods: tuple[str, ...] = METHODS, strengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0), seeds: int = 5
) -> PlantedRecovery:
    """Cosines that rise with the strength, but those of ``centred-pca``."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor(strengths)[:, None]
    rising = size / (1 + size)
    found = [
        (0.1 if name == "centred-pca" else rising)
        * (0.8 + 0.2 * torch.rand(len(strengths), seeds, generator=draw))
        for name in methods
    ]
    return PlantedRecovery(
        methods, torch.tensor(strengths), torch.stack(found), "noise <sd> & co", 0.95, PROVENANCE
    )


def make_values(
    n: int = 8, target: tuple[str, ...] = (" good", " <b>", "$x$"), **changes: Any
) -> ValueVectors:
    """Neurons with tokens that plotly would take for markup, spaces and line breaks."""
    draw = torch.Generator().manual_seed(0)
    words = (" good", " <b>", "$x$", "\n", " a&b", " antidisestablishmentarianism", "…", " great")
    fields = dict(
        layer=torch.arange(n) % 4,
        neuron=torch.randint(512, (n,), generator=draw),
        score=(3 * torch.rand(n, generator=draw)).sort(descending=True).values - 0.2,
        norm=torch.rand(n, generator=draw),
        token_ids=torch.arange(8).repeat(n, 1),
        token_scores=torch.linspace(4, 1, 8).repeat(n, 1),
        tokens=tuple(words[i % 8 :] + words[: i % 8] for i in range(n)),
        target=target,
        d_mlp=512,
        provenance=PROVENANCE,
    )
    return ValueVectors(**fields | changes)


def make_relations(
    relations: tuple[str, ...] = ("capital of", "<born> & $in$", "plays for", "speaks"),
    ks: tuple[int, ...] = (4, 16, 64),
    draws: int = 5,
) -> RelationNeurons:
    """Each relation loses more with its own neurons gone than with those of another."""
    draw = torch.Generator().manual_seed(0)
    n, most = len(relations), ks[-1]
    base = 0.8 + 0.2 * torch.rand(n, generator=draw)
    share = torch.tensor(ks).float()[:, None, None] / most
    lost = share * (0.6 * torch.eye(n) + 0.05 * torch.rand(n, n, generator=draw))
    random = base - share * 0.03 * torch.rand(n, n, generator=draw)
    return RelationNeurons(
        relations=relations,
        ks=ks,
        base=base,
        accuracy=base - lost,
        random=torch.stack([random, random - 0.02, random + 0.02], dim=-1),
        layer=torch.randint(4, (n, most), generator=draw),
        neuron=torch.randint(512, (n, most), generator=draw),
        precision=torch.rand(n, most, generator=draw).sort(descending=True).values,
        n_judged=torch.full((n,), 16),
        draws=draws,
        confidence=0.95,
        provenance=PROVENANCE,
    )


def steering_directions_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    sites = ("resid_post[0]", "resid_post[1]", "mlp_post[1]", "resid_post[2]")
    undefined = torch.full((2, 3), torch.nan)
    return {
        "directions": make_directions(),
        "directions many": make_directions((*METHODS, "coder <b> & $co$"), sites),
        "directions one": make_directions(("pca",)),
        "directions unjudged": make_directions(("pca", "x" * 60), auc=undefined),
        "planted": make_planted(),
        "planted one": make_planted(("pca",), (4.0,), 1),
        "planted many": make_planted(tuple(f"coder <{i}> & co" for i in range(14))),
        "value vectors": make_values(against=(" bad",)),
        "value vectors many": make_values(70, tuple(f" <w{i}>" for i in range(40))),
        "value vectors one": make_values(1),
        "relations": make_relations(),
        "relations many": make_relations(tuple(f"relation <{i}> & {'long ' * 8}" for i in range(24))),
        "relations few": make_relations(("a", "b"), (1,), 2),
    }
