"""Records of coders in a model, made of random numbers, for their figures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.results import CoderEvaluation, Estimate, HeadAttribution, InductionLatents, Provenance, SiteFit

PROVENANCE = Provenance("mix<4>l & co", task="ioi", n_prompts=32, ablation="mean")


def fake_fit(site: str, reads: str | None = None, d_sae: int = 200, seed: int = 0) -> SiteFit:
    """Latents whose firing spans four powers of ten, a tenth of them dead."""
    draw = torch.Generator().manual_seed(seed)
    density = 10 ** (-4 * torch.rand(d_sae, generator=draw))
    density[: d_sae // 10] = 0
    return SiteFit(site, reads or site, "topk", 4000, 8.0, 0.1, 0.91, 0.95, density)


def fake_evaluation(*fits: SiteFit, n: int = 12, seed: int = 0) -> CoderEvaluation:
    """Losses of some prompts: clean below substituted below ablated."""
    draw = torch.Generator().manual_seed(seed)

    def losses(mean: float) -> Tensor:
        return mean + 0.1 * torch.rand(n, generator=draw)

    return CoderEvaluation(
        fits=fits,
        n_predicted=torch.full((n,), 63),
        ce_clean=losses(1.5),
        ce_substituted=losses(1.6),
        ce_ablated=losses(2.4),
        kl_substituted=losses(0.05),
        kl_ablated=losses(0.9),
        ce_recovered=Estimate(0.889, 0.861, 0.913),
        kl_recovered=Estimate(0.944, 0.928, 0.957),
        confidence=0.95,
        provenance=PROVENANCE,
    )


def fake_heads(n_heads: int = 4, d_sae: int = 60, seed: int = 0) -> HeadAttribution:
    """Latents each of which one head drives; the first never fired."""
    draw = torch.Generator().manual_seed(seed)
    contribution = 0.1 * torch.randn(d_sae, n_heads, generator=draw)
    contribution[torch.arange(d_sae), torch.arange(d_sae) % n_heads] += 1.0
    contribution[0] = torch.nan
    counts = torch.randint(1, 500, (d_sae,), generator=draw)
    counts[0] = 0
    share = torch.rand(d_sae, n_heads, generator=draw)
    return HeadAttribution(
        site="z[1]",
        layer=1,
        contribution=contribution,
        decoder_share=share / share.sum(1, keepdim=True),
        n_fired=counts,
        n_tokens=4000,
        provenance=PROVENANCE,
    )


def fake_induction(d_sae: int = 80, seed: int = 0) -> InductionLatents:
    """A tenth of the latents fire where something repeats, the others anywhere."""
    draw = torch.Generator().manual_seed(seed)
    rate = torch.rand(d_sae, generator=draw) ** 3
    repeats = torch.arange(d_sae) % 10 == 0
    other = torch.where(repeats, 0.02, rate)
    return InductionLatents(
        site="z[1]",
        repeated_rate=rate,
        control_rate=other,
        repeated_mean=2 * rate,
        control_mean=2 * other,
        n_tokens=768,
        provenance=PROVENANCE,
    )


def coder_gallery() -> dict[str, Any]:
    """A record of each kind of figure."""
    return {
        "coder evaluation": fake_evaluation(fake_fit("mlp_out[2]")),
        "coder evaluation transcoders": fake_evaluation(
            *(fake_fit(f"mlp_out[{i}]", f"mlp_in[{i}]", seed=i) for i in range(4))
        ),
        "head attribution": fake_heads(),
        "induction latents": fake_induction(),
        "head attribution many": fake_heads(16, 2000),
    }
