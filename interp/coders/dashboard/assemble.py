"""From counts and kept examples to records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.dashboard.examples import NO_TOKEN, Collector, KeptExamples
from interp.coders.dashboard.logits import top_logits
from interp.coders.dashboard.neighbours import cosine_neighbours, firing_neighbours
from interp.coders.dashboard.prompts import Encoder
from interp.coders.dashboard.survey import Survey
from interp.models.model import Model
from interp.results import Provenance
from interp.results.coder_profile import CoderProfile
from interp.results.feature import TOP, LatentExamples, LatentProfile
from interp.types import parse_site


@dataclass(frozen=True)
class Places:
    """Where a coder reads, and what it predicts."""

    sites: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def site(self) -> str:
        """As records name it."""
        return " + ".join(self.sites)

    @property
    def target_site(self) -> str:
        """As records name it."""
        return " + ".join(self.targets)

    @property
    def is_reconstruction(self) -> bool:
        """Whether the coder predicts what it reads."""
        return self.sites == self.targets


def assemble_profile(
    model: Model,
    coder: Encoder,
    places: Places,
    survey: Survey,
    collector: Collector,
    shares: Sequence[float],
    *,
    n_near: int,
    n_logits: int,
    made: Provenance,
) -> CoderProfile:
    """The record of a coder, with a profile of every chosen latent."""
    chosen = collector.chosen
    near = cosine_neighbours(coder.W_dec, chosen, n_near)
    firing = firing_neighbours(collector.together, survey.fired, chosen, survey.n_tokens, n_near)
    logits = top_logits(model, coder, places.targets, chosen, n_logits)
    heads = _head_shares(model, coder, places.targets, chosen)
    alignment = _alignment(coder) if places.is_reconstruction else None
    mean = (survey.total / survey.fired).float().cpu()
    maximum = survey.maximum.where(survey.fired > 0, torch.nan).cpu()
    profiles = [
        LatentProfile(
            site=places.site,
            latent=latent,
            density=int(survey.fired[latent]) / survey.n_tokens,
            n_tokens=survey.n_tokens,
            mean=float(mean[latent]),
            maximum=float(maximum[latent]),
            counts=collector.counts[i].cpu(),
            edges=torch.linspace(0.0, float(survey.maximum[latent]) or 1.0, collector.counts.shape[1] + 1),
            examples=_examples(model, collector, i, shares),
            neighbours=near[i],
            coactive=firing[i],
            alignment=math.nan if alignment is None else float(alignment[latent]),
            provenance=made,
            logits=logits[i],
            head_shares=None if heads is None else heads[i],
        )
        for i, latent in enumerate(chosen.tolist())
    ]
    return CoderProfile(
        site=places.site,
        target_site=places.target_site,
        architecture=str(getattr(getattr(coder, "config", None), "architecture", type(coder).__name__)),
        d_in=int(getattr(coder, "d_in", coder.W_dec.shape[-1])),
        density=(survey.fired.double() / survey.n_tokens).float().cpu(),
        mean=mean,
        maximum=maximum,
        l0_counts=survey.l0_counts.cpu(),
        latents=tuple(profiles),
        provenance=made,
        alignment=alignment,
    )


def _examples(
    model: Model, collector: Collector, i: int, shares: Sequence[float]
) -> tuple[LatentExamples, ...]:
    """The largest, then the intervals from the highest down; those in which nothing fired are left out."""
    bounds = [float(bound) for bound in collector.bounds[i]]
    within = collector.within[i].tolist()
    fired = sum(within)
    if not fired:
        return ()
    found = [_group(model, collector.largest, i, TOP, 0.0, bounds[-1], 1.0)]
    for interval in reversed(range(len(within))):
        if within[interval]:
            name = f"{100 * shares[interval]:g}–{100 * shares[interval + 1]:g} %"
            low, high = bounds[interval], bounds[interval + 1]
            group = collector.random[interval]
            found.append(_group(model, group, i, name, low, high, within[interval] / fired))
    return tuple(found)


def _group(
    model: Model, kept: KeptExamples, i: int, name: str, low: float, high: float, share: float
) -> LatentExamples:
    real = kept.keys[i].isfinite()
    tokens, activations = kept.tokens[i][real].cpu(), kept.activations[i][real].cpu()
    there = tokens != NO_TOKEN
    start = there.int().argmax(1)
    lengths = there.sum(1)
    width = int(lengths.max())
    columns = start[:, None] + torch.arange(width)
    windows = activations.gather(1, columns.clamp(max=activations.shape[1] - 1))
    windows[torch.arange(width) >= lengths[:, None]] = torch.nan
    order = windows[torch.arange(len(windows)), kept.window - start].argsort(descending=True, stable=True)
    texts = [tuple(model.to_str_tokens(row[keep])) for row, keep in zip(tokens, there, strict=True)]
    return LatentExamples(
        name=name,
        low=low,
        high=high,
        share=share,
        tokens=tuple(texts[j] for j in order.tolist()),
        activations=windows[order],
        peaks=(kept.window - start)[order],
        prompts=kept.prompts[i][real].cpu()[order],
        positions=kept.positions[i][real].cpu()[order],
    )


@torch.no_grad()
def _alignment(coder: Encoder) -> Float[Tensor, " d_sae"] | None:
    """Cosine of each latent's two directions; ``None`` for a coder whose encoder has no such rows."""
    W_enc = getattr(coder, "W_enc", None)
    if W_enc is None or W_enc.shape != coder.W_dec.shape:
        return None
    flat = W_enc.detach().flatten(1).float(), coder.W_dec.detach().flatten(1).float()
    return torch.nn.functional.cosine_similarity(*flat, dim=1).cpu()


def _head_shares(
    model: Model, coder: Encoder, targets: Sequence[str], chosen: Int[Tensor, " n"]
) -> Float[Tensor, "n head"] | None:
    """Shares of the squared decoder norm by head, for a coder of all heads of one layer's ``z``."""
    site = parse_site(targets[0])
    if len(targets) > 1 or site.component != "z" or site.head is not None:
        return None
    parts = coder.W_dec.detach()[chosen].float().unflatten(1, (model.traits.n_heads, -1)).square().sum(2)
    return (parts / parts.sum(1, keepdim=True)).cpu()
