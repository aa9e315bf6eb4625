"""Fixtures that make results of the older kinds, with tokens that plotly would take for markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from interp.results import (
    AblationCheck,
    AttentionPatterns,
    Conservation,
    Estimate,
    HeadRole,
    HeadScores,
    LogitAttribution,
    LogitLens,
    MaskingCheck,
    MethodAgreement,
    MethodComparison,
    MethodCost,
    MethodRow,
    PatchScores,
    Provenance,
    SetScores,
    SiteScores,
    SubspaceReport,
    TokenScores,
    TrainingHistory,
)
from interp.types import parse_site

WORDS = ("<s>", " When", " John", " &", " <b>store</b>", " $5", " and", " $6", "\n", " John", "", " %{x}")


def tokens(n: int) -> tuple[str, ...]:
    return tuple((WORDS * (n // len(WORDS) + 1))[:n])


def numbered(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(n))


def provenance(**changes: Any) -> Provenance:
    known = dict(
        model="mix<4>l & co", task="ioi", n_prompts=32, metric="logit difference", direction="denoise"
    )
    return Provenance(**known | dict(method="exact", backend="hooked") | changes)


@pytest.fixture(scope="session")
def make_site() -> Callable[..., SiteScores]:
    def make(
        site: str, axes: Sequence[str], sizes: Sequence[int], seed: int = 0, prompts: int = 0, **changes: Any
    ) -> SiteScores:
        generator = torch.Generator().manual_seed(seed)
        raw = torch.randn(tuple(sizes), generator=generator) - 0.4
        labels = {
            a: tokens(n) if a.endswith("pos") else numbered(n) for a, n in zip(axes, sizes, strict=True)
        }
        known = dict(clean=3.3, corrupted=-0.4, raw=raw, labels=labels, component=parse_site(site).component)
        if prompts:
            known["per_prompt"] = raw[..., None] + torch.randn(*sizes, prompts, generator=generator)
        return SiteScores(site=site, axes=tuple(axes), **known | changes)

    return make


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., PatchScores]:
    def make(*sites: SiteScores, **changes: Any) -> PatchScores:
        return PatchScores({site.site: site for site in sites}, provenance(**changes))

    return make


@pytest.fixture(scope="session")
def make_patterns() -> Callable[..., AttentionPatterns]:
    def make(
        n_layers: int = 3, n_heads: int = 4, n: int = 7, layers: tuple[int, ...] | None = None
    ) -> AttentionPatterns:
        generator = torch.Generator().manual_seed(n)
        scores = torch.randn(n_layers, n_heads, n, n, generator=generator) * 3
        causal = scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf)
        layers = layers or tuple(range(n_layers))
        return AttentionPatterns(
            causal.softmax(-1), tokens(n), layers, provenance(method=None, direction=None)
        )

    return make


@pytest.fixture(scope="session")
def make_lens() -> Callable[..., LogitLens]:
    def make(
        n_layers: int = 4, n: int = 6, batch: int = 3, targets: bool = True, **changes: Any
    ) -> LogitLens:
        generator = torch.Generator().manual_seed(5)
        logits = torch.randn(n_layers + 1, batch, n, len(WORDS), generator=generator) * 3
        probs, top = logits.softmax(-1), logits.topk(4)
        fields: dict[str, Any] = dict(
            layers=("embed", *(f"resid_post {i}" for i in range(n_layers))),
            tokens=tuple(tokens(n - row) for row in range(batch)),
            top_ids=top.indices,
            top_logits=top.values,
            top_probs=probs.gather(-1, top.indices),
            vocabulary=dict(enumerate(WORDS)),
            provenance=provenance(method=None, direction=None),
        )
        if targets:
            ids = torch.randint(0, len(WORDS), (batch, n), generator=generator)
            ids[0, 1] = -1
            at = ids.clamp(min=0)[None, :, :, None].expand(n_layers + 1, batch, n, 1)
            asked = logits.gather(-1, at)
            fields |= dict(
                target_ids=ids,
                target_logits=asked[..., 0],
                target_probs=probs.gather(-1, at)[..., 0],
                target_ranks=(logits > asked).sum(-1),
            )
        return LogitLens(**fields | changes)

    return make


@pytest.fixture(scope="session")
def make_attribution() -> Callable[..., LogitAttribution]:
    def make(n_layers: int = 4, n_heads: int = 4, batch: int = 5, **changes: Any) -> LogitAttribution:
        generator = torch.Generator().manual_seed(6)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, batch, generator=generator)

        names = ("embed", *(f"{kind} {i}" for i in range(n_layers) for kind in ("attn", "mlp")), "bias")
        by_component = draw(len(names))
        known: dict[str, Any] = dict(
            components=names,
            by_component=by_component,
            actual=by_component.sum(0),
            provenance=provenance(method=None, direction=None),
            by_head=draw(n_layers, n_heads),
            neurons=tuple(f"L{i} n{i * 7}" for i in range(6)),
            by_neuron=draw(6),
        )
        return LogitAttribution(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_roles() -> Callable[..., HeadScores]:
    def make(n_layers: int = 3, n_heads: int = 5) -> HeadScores:
        generator = torch.Generator().manual_seed(7)
        roles = {
            "previous token": HeadRole("mean weight on the token before", "mean attention weight"),
            "induction": HeadRole(
                "mean weight on the token after the last occurrence", "mean attention weight"
            ),
            "name mover": HeadRole(
                "written into the answer's logit <difference>", "logit difference", signed=True
            ),
        }
        shape = (n_layers, n_heads)
        values = {
            name: torch.randn(shape, generator=generator)
            if role.signed
            else torch.rand(shape, generator=generator)
            for name, role in roles.items()
        }
        return HeadScores(values, roles, tuple(range(2, 2 + n_layers)), provenance(direction=None))

    return make


@pytest.fixture(scope="session")
def make_report() -> Callable[..., SubspaceReport]:
    def make(full: float = 0.1, **changes: Any) -> SubspaceReport:
        raw = -1.0 + 4.0 * torch.tensor([0.75, 0.1, 0.2, full])
        fields: dict[str, Any] = dict(
            site="mlp_out[8]@END",
            readout="W_out of layer 8",
            dimensions=1,
            raw=raw,
            clean=3.0,
            corrupted=-1.0,
            separability=torch.tensor([0.93, 0.61, 0.9, float("nan")]),
            row_space_share=0.32,
            readout_z=4.2,
            provenance=provenance(),
        )
        return SubspaceReport(**fields | changes)

    return make


@pytest.fixture(scope="session")
def make_ablation() -> Callable[..., AblationCheck]:
    def make(sets: int = 20, **changes: Any) -> AblationCheck:
        random = torch.randn(sets, generator=torch.Generator().manual_seed(8)) + 3
        known: dict[str, Any] = dict(
            names=("L2H1", "L3H0"),
            clean=3.5,
            corrupted=-0.5,
            ablated=-0.1,
            random=random,
            random_names=tuple((f"L0H{i}", "L1H<1>") for i in range(sets)),
            provenance=provenance(ablation="mean", direction=None),
        )
        return AblationCheck(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_agreement() -> Callable[..., MethodAgreement]:
    def make(n: int = 30, chosen: bool = True) -> MethodAgreement:
        generator = torch.Generator().manual_seed(9)
        exact = torch.randn(n, generator=generator)
        approximate = exact + 0.2 * torch.randn(n, generator=generator)
        return MethodAgreement(
            tuple(f"resid_pre L{i} @ <s>" for i in range(n)),
            exact,
            approximate,
            Estimate(0.97, 0.95, 0.99),
            Estimate(0.9, 0.8, 0.96),
            Estimate(0.93, 0.83, 1.0),
            0.95,
            provenance(method="attribution"),
            tuple("top" if i < 10 else "random" for i in range(n)) if chosen else (),
            top_overlap=Estimate(0.8, 0.6, 1.0),
            k=10,
            n_sites=168,
        )

    return make


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., TokenScores]:
    """Contributions of the tokens of prompts of so many tokens each; one in the first prompt is missing."""

    def make(lengths: Sequence[int] = (12, 1, 40), hole: bool = True, **changes: Any) -> TokenScores:
        generator = torch.Generator().manual_seed(11)
        values = torch.randn(len(lengths), max(lengths) + 1, generator=generator)
        for row, length in enumerate(lengths):
            values[row, length:] = float("nan")
        if hole:
            values[0, 3] = float("nan")
        known: dict[str, Any] = dict(
            tokens=tuple(tokens(n) for n in lengths),
            values=values,
            metric=torch.linspace(-1.0, 4.0, len(lengths)),
            run="clean",
            provenance=provenance(method="relevance", direction=None, ablation="zero", backend=None),
        )
        return TokenScores(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_masking() -> Callable[..., MaskingCheck]:
    """Masking checks; the ranking of the last share does not tell first from last."""

    def make(
        fractions: Sequence[float] = (0.1, 0.25, 0.5), prompts: int = 6, draws: int = 4, **changes: Any
    ) -> MaskingCheck:
        generator = torch.Generator().manual_seed(12)
        n = len(fractions)
        gaps = [Estimate(2.0 - i, 1.5 - i, 2.75 - i) for i in range(n)]
        known: dict[str, Any] = dict(
            what="tokens",
            fractions=tuple(fractions),
            most=torch.rand(n, prompts, generator=generator) + 2,
            least=torch.rand(n, prompts, generator=generator),
            random=torch.rand(n, draws, prompts, generator=generator) + 1,
            gaps=tuple(gaps),
            confidence=0.95,
            provenance=provenance(method="relevance", direction="noise", ablation="zero"),
        )
        return MaskingCheck(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_conservation() -> Callable[..., Conservation]:
    """An account that adds up to 3 but for ``gap`` at the first cut."""

    def make(n_layers: int = 4, gap: float = 0.0, **changes: Any) -> Conservation:
        generator = torch.Generator().manual_seed(13)
        biases, attention = torch.randn(2, n_layers + 1, generator=generator).double()
        relevance = 3.0 - biases + attention
        relevance[0] += gap
        known: dict[str, Any] = dict(
            cuts=(*(f"resid_pre[{i}]" for i in range(n_layers)), f"resid_post[{n_layers - 1}]"),
            relevance=relevance,
            biases=biases,
            attention=attention,
            output=3.0,
            provenance=provenance(method="relevance:relp", direction=None, backend=None),
            run="clean",
        )
        return Conservation(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_comparison() -> Callable[..., MethodComparison]:
    """Every method at every site of every case, with random agreement."""

    def make(
        cases: Sequence[tuple[str, str]] = (("mix<4>l & co", "ioi"),),
        methods: Sequence[str] = ("attribution", "attribution*", "ig", "relevance"),
        sites: Sequence[str] = ("resid_pre", "z"),
        memory: bool = True,
        **changes: Any,
    ) -> MethodComparison:
        generator = torch.Generator().manual_seed(14)

        def estimate() -> Estimate:
            value = 0.9 * float(torch.rand((), generator=generator))
            return Estimate(value, value - 0.05, value + 0.1)

        rows = tuple(
            MethodRow(model, task, site, method, 16, estimate(), estimate(), estimate(), estimate())
            for model, task in cases
            for method in methods
            for site in sites
        )
        costs = tuple(
            MethodCost(model, task, method, 0.1 * (i + 1), (i + 1) * 2**20 if memory else None)
            for model, task in cases
            for i, method in enumerate(("exact", *methods))
        )
        known: dict[str, Any] = dict(
            rows=rows, costs=costs, confidence=0.95, provenance=provenance(method="comparison")
        )
        return MethodComparison(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_history() -> Callable[..., TrainingHistory]:
    def make(n: int = 50, held_out: bool = True) -> TrainingHistory:
        steps = torch.arange(1, n + 1) * 20
        loss = torch.linspace(6, 1, n)
        sparse = torch.full((n,), float("nan"))
        sparse[::10] = torch.linspace(0, 0.95, len(sparse[::10]))
        curves = {"loss": sparse * 0 + 1.5, "IOI <accuracy>": sparse} if held_out else {}
        return TrainingHistory(steps, loss, Provenance(model="mix-4l", seed=3, seconds=600.0), curves)

    return make


@pytest.fixture(scope="session")
def make_sets() -> Callable[..., SetScores]:
    """Every set of ``size`` members, with random scores."""

    def make(
        n: int = 6, size: int = 2, direction: str = "denoise", sets: Any = None, **changes: Any
    ) -> SetScores:
        generator = torch.Generator().manual_seed(10 + n)
        sets = torch.combinations(torch.arange(n), size) if sets is None else torch.tensor(sets)
        single = 1.2 * torch.randn(n, generator=generator) - 0.4
        raw = single[sets.clamp(min=0)].sum(1) + torch.randn(len(sets), generator=generator)
        known: dict[str, Any] = dict(
            members=tuple(f"L{i // 12}H{i % 12}" for i in range(n)),
            sets=sets,
            raw=raw,
            single_raw=single,
            clean=3.3,
            corrupted=-0.4,
            provenance=provenance(direction=direction),
        )
        return SetScores(**known | changes)

    return make


@pytest.fixture(scope="session")
def make_path(make_sets) -> Callable[..., SetScores]:
    """A greedy search for three of five members, the last of which is named like markup."""

    def make(**changes: Any) -> SetScores:
        tried = [[2, i, -1] for i in (0, 1, 3, 4)] + [[2, 4, i] for i in (0, 1, 3)]
        names = ("L0H0", "mlp_out L0", "resid_pre L1 @ <s>", "L1H<1>", "z & $q")
        known: dict[str, Any] = dict(members=names, path=torch.tensor([0, 4, 6]))
        return make_sets(5, sets=[[2, -1, -1], *tried], **known | changes)

    return make
