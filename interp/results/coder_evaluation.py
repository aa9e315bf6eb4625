"""What a model loses where coders stand in for its activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RUNS = ("ce_clean", "ce_substituted", "ce_ablated", "kl_substituted", "kl_ablated")
"""Losses of every prompt, cross-entropy and KL divergence from the unchanged model."""


@dataclass(frozen=True, eq=False)
class SiteFit:
    """How well one site is rebuilt from a coder's latents, over the tokens of the unchanged model."""

    site: str
    """What is rebuilt or predicted: ``"mlp_out[2]"``."""
    reads: str
    """What the latents are read from; the same as ``site`` for an autoencoder."""
    architecture: str
    n_tokens: int
    l0: float
    """Latents that fire on a token, on average."""
    fvu: float
    """Fraction of variance unexplained: sum over tokens of ``|x - out|^2`` by that of ``|x - mean(x)|^2``."""
    explained_variance: float
    """``1 - sum |e - mean(e)|^2 / sum |x - mean(x)|^2`` with ``e = x - out``: as 1 - FVU, a constant error forgiven."""
    cosine: float
    """Mean over tokens of the cosine of activation and output."""
    density: Float[Tensor, " d_sae"]
    """Share of tokens on which each latent fires."""

    @property
    def d_sae(self) -> int:
        """Latents."""
        return len(self.density)

    @property
    def dead_frac(self) -> float:
        """Share of latents that fire on no token."""
        return float((self.density == 0).double().mean())


@dataclass(frozen=True, eq=False)
class CoderEvaluation(Record):
    """Coders by themselves, and the model's loss with all of them in place, without error terms.

    Cross-entropy (nats) and KL divergence from the unchanged model are means over predicted tokens, of
    each prompt; the ablated run has the same sites replaced by what ``provenance.ablation`` says. Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(("n_predicted", *RUNS), ("prompt",))

    fits: tuple[SiteFit, ...]
    """One a site."""
    n_predicted: Int[Tensor, " prompt"]
    """Tokens of each prompt whose prediction counts."""
    ce_clean: Float[Tensor, " prompt"]
    ce_substituted: Float[Tensor, " prompt"]
    ce_ablated: Float[Tensor, " prompt"]
    kl_substituted: Float[Tensor, " prompt"]
    """``KL(clean || substituted)``."""
    kl_ablated: Float[Tensor, " prompt"]
    ce_recovered: Estimate
    """``(ablated - substituted) / (ablated - clean)`` of the cross-entropies: 0 is the ablation, 1 the model;
    with the percentile interval of prompts drawn again. NaN where ablating costs nothing."""
    kl_recovered: Estimate
    """``1 - kl_substituted / kl_ablated``, likewise."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if not self.fits or not len(self.n_predicted):
            raise RecordError(
                f"CoderEvaluation needs a site and a prompt; got {len(self.fits)} sites and "
                f"{len(self.n_predicted)} prompts."
            )

    def __getitem__(self, site: str) -> SiteFit:
        for fit in self.fits:
            if fit.site == site:
                return fit
        known = ", ".join(fit.site for fit in self.fits)
        raise RecordError(f"no coder was evaluated at {site!r}; there are {known}.")

    def mean(self, name: str) -> float:
        """Mean over all predicted tokens of ``"ce_clean"``, ``"kl_substituted"`` ..."""
        weights = self.n_predicted.double()
        return float((getattr(self, name).double() * weights).sum() / weights.sum())

    def summary(self) -> str:
        """A few lines to read."""
        lines = [f"{self.provenance.summary()}; {int(self.n_predicted.sum()):,} predicted tokens"]
        lines += [
            f"{_place(fit)}: L0 {fit.l0:.1f}, FVU {fit.fvu:.4f}, cosine {fit.cosine:.3f}, "
            f"{fit.dead_frac:.1%} of {fit.d_sae} latents dead"
            for fit in self.fits
        ]
        loss = ", ".join(f"{self.mean(f'ce_{run}'):.4f} {run}" for run in ("clean", "substituted", "ablated"))
        lines.append(f"cross-entropy {loss}; recovered {_show(self.ce_recovered)}")
        lines.append(
            f"KL from the model {self.mean('kl_substituted'):.4f} substituted, {self.mean('kl_ablated'):.4f} ablated; "
            f"recovered {_show(self.kl_recovered)}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CoderEvaluation({self.summary()})"

    def to_frame(self) -> pd.DataFrame:
        """One row a site; what belongs to the whole run stands in every row."""
        import pandas as pd

        whole: dict[str, float] = {name: self.mean(name) for name in RUNS}
        for name in ("ce_recovered", "kl_recovered"):
            found = getattr(self, name)
            whole |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        own = (
            "site",
            "reads",
            "architecture",
            "d_sae",
            "n_tokens",
            "l0",
            "fvu",
            "explained_variance",
            "cosine",
        )
        rows = [
            {name: getattr(fit, name) for name in own} | {"dead_frac": fit.dead_frac} | whole
            for fit in self.fits
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Losses as bars, and the densities of latents (``interp.plots.plot_coder_evaluation``)."""
        return draw("plot_coder_evaluation", self)


def _place(fit: SiteFit) -> str:
    return fit.site if fit.site == fit.reads else f"{fit.reads} -> {fit.site}"


def _show(found: Estimate) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def density_histogram(
    density: Float[Tensor, " d_sae"], per_decade: int = 4
) -> tuple[Float[Tensor, " edge"], Int[Tensor, " bin"]]:
    """Latents that fire by the power of ten of their density: edges of the bins, and counts. Dead ones are left out."""
    logs = density[density > 0].double().log10()
    # 1e-5 in fp32 is a little less, and still belongs above that edge
    low = math.floor(float(logs.min()) + 1e-6) if len(logs) else -1
    edges = torch.linspace(min(low, -1), 0, per_decade * -min(low, -1) + 1, dtype=torch.float64)
    place = torch.bucketize(logs, edges[1:-1], right=True)
    return edges, torch.bincount(place, minlength=len(edges) - 1)
