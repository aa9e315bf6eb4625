"""A sparse coder as a whole, with profiles of some of its latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.feature import LatentProfile
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DENSE = 0.1
"""A latent that fires on more tokens than this share is called dense."""


@dataclass(frozen=True, eq=False)
class CoderProfile(Record):
    """How often every latent fires, how many fire on a token, and what some of them are.

    ``profile[17]`` is the profile of latent 17, ``for latent in profile`` goes through all there are. Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "density": ("d_sae",),
        "mean": ("d_sae",),
        "maximum": ("d_sae",),
        "alignment": ("d_sae",),
        "l0_counts": ("l0",),
    }

    site: str
    target_site: str
    """What the coder predicts; the same as ``site`` for an autoencoder."""
    architecture: str
    d_in: int
    density: Float[Tensor, " d_sae"]
    """Share of tokens on which each latent fires."""
    mean: Float[Tensor, " d_sae"]
    """Of each latent's activations where it fires; NaN where it never does. ``maximum`` likewise."""
    maximum: Float[Tensor, " d_sae"]
    l0_counts: Int[Tensor, " l0"]
    """Tokens on which exactly 0, 1, 2 ... latents fire."""
    latents: tuple[LatentProfile, ...]
    provenance: Provenance
    alignment: Float[Tensor, " d_sae"] | None = None
    """Cosine of each latent's encoder and decoder directions; ``None`` where they lie in different spaces."""

    def __post_init__(self) -> None:
        self._check_axes()
        numbers = [latent.latent for latent in self.latents]
        if len(set(numbers)) < len(numbers) or any(not 0 <= i < self.d_sae for i in numbers):
            raise RecordError(
                f"a coder of {self.d_sae} latents has profiles of each at most once; got latents {numbers}."
            )
        if self.n_tokens == 0:
            raise RecordError("a coder's profile needs at least one token; l0_counts adds up to 0.")

    def __len__(self) -> int:
        return len(self.latents)

    def __iter__(self) -> Iterator[LatentProfile]:
        return iter(self.latents)

    def __getitem__(self, latent: int) -> LatentProfile:
        for profile in self.latents:
            if profile.latent == latent:
                return profile
        known = [profile.latent for profile in self.latents]
        raise RecordError(f"latent {latent} has no profile here; there are {len(known)}: {known[:20]}.")

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.density)

    @property
    def n_tokens(self) -> int:
        """Tokens that the coder was looked at on."""
        return int(self.l0_counts.sum())

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a token."""
        return float((self.l0_counts.double() * torch.arange(len(self.l0_counts))).sum() / self.n_tokens)

    @property
    def dead(self) -> Int[Tensor, " dead"]:
        """Latents that fired on no token."""
        return torch.nonzero(self.density == 0).flatten()

    @property
    def dead_frac(self) -> float:
        """Their share."""
        return len(self.dead) / self.d_sae

    def l0_quantile(self, share: float) -> int:
        """The smallest number of latents that is not exceeded on at least ``share`` of the tokens."""
        reached = self.l0_counts.cumsum(0).double() >= share * self.n_tokens
        return int(reached.int().argmax())

    def annotate(
        self, labels: Mapping[int, str] | None = None, f1: Mapping[int, Mapping[str, float]] | None = None
    ) -> Self:
        """The same with meanings of latents and their F1 on known attributes; others stay as they are.

        Raises :class:`RecordError` for a latent that has no profile here.
        """
        labels, f1 = dict(labels or {}), dict(f1 or {})
        for latent in {*labels, *f1}:
            self[latent]
        return replace(
            self,
            latents=tuple(
                replace(
                    profile,
                    label=labels.get(profile.latent, profile.label),
                    f1=dict(f1.get(profile.latent, profile.f1)),
                )
                for profile in self.latents
            ),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a latent of the coder: density, mean, maximum, alignment."""
        import pandas as pd

        columns = {
            "latent": range(self.d_sae),
            "density": self.density.tolist(),
            "mean": self.mean.tolist(),
            "maximum": self.maximum.tolist(),
        }
        if self.alignment is not None:
            columns["alignment"] = self.alignment.tolist()
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """The coder in a few lines."""
        where = self.site if self.site == self.target_site else f"{self.site} → {self.target_site}"
        densities = self.density[self.density > 0].double()
        alive = "no latent fires"
        if len(densities):
            low, middle, high = densities.log10().quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
            alive = (
                f"density of the others: half below {10**middle:.2%}, 80 % from {10**low:.2%} to {10**high:.2%}; "
                f"{int((densities > DENSE).sum())} above {DENSE:.0%}"
            )
        quantiles = [self.l0_quantile(share) for share in (0.05, 0.5, 0.95)]
        return "\n".join(
            [
                f"{self.architecture} at {where} of {self.provenance.model}: {self.d_in} → {self.d_sae:,} latents, "
                f"on {self.n_tokens:,} tokens",
                f"L0 {self.l0:.1f} (5 %, 50 %, 95 % of tokens: {quantiles[0]}, {quantiles[1]}, {quantiles[2]})",
                f"dead {len(self.dead):,} of {self.d_sae:,} ({self.dead_frac:.1%}); {alive}",
            ]
        )

    def to_text(self, latents: int = 10) -> str:
        """A report for the terminal: the summary, then so many of the profiles."""
        shown = self.latents[:latents]
        parts = [self.summary(), *(profile.summary() for profile in shown)]
        if len(shown) < len(self):
            parts.append(f"... and {len(self) - len(shown)} more profiles")
        return "\n\n".join(parts)

    def plot(self) -> go.Figure:
        """Densities, L0 and alignment (``interp.plots.plot_coder_profile``)."""
        return draw("plot_coder_profile", self)

    def write_dashboard(self, path: str | Path, title: str | None = None) -> Path:
        """One HTML page to leaf through the latents (``interp.reports.write_dashboard``)."""
        import importlib

        written: Path = importlib.import_module("interp.reports").write_dashboard(self, path, title=title)
        return written
