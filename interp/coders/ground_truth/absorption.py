"""Absorption and splitting in a planted hierarchy.

Chanin et al. 2024, "A is for Absorption" (arXiv 2409.14507): where a feature always comes with a more
general one, a sparse dictionary saves a latent by writing both with the specific one's latent, and the
general one's latent falls silent there. The paper finds such rows by probes; here the features are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary, reconstruct, unit_rows
from interp.coders.ground_truth.planted import PlantedFeatures
from interp.coders.ground_truth.transcoder import PlantedTranscoder
from interp.errors import CoderError
from interp.results.absorption import Absorption
from interp.results.feature_recovery import match_one_to_one
from interp.results.provenance import Provenance


def measure_absorption(
    dictionary: Dictionary,
    planted: PlantedFeatures | PlantedTranscoder,
    *,
    n: int = 8192,
    seed: int = 0,
    least_cosine: float = 0.5,
    carries: float = 0.2,
    name: str | None = None,
) -> Absorption:
    """How often latents of parent features are silent because a child's latent carries the parent.

    *Latents of a feature.* Latents and features are matched one-to-one by cosine (Hungarian, signed); a
    match below ``least_cosine`` counts as none. The match is the feature's main latent. A parent may have
    further ones: unmatched latents that are nearer to the parent than to any other feature, with a cosine of
    at least ``least_cosine``. A parent with more than one latent is *split*, one without is *lost*.

    *Absorbed.* On a row where parent p is active, p is absorbed if (1) none of p's latents fires, and (2) of
    all latents that fire, the one that writes most along p's direction (value times ``W_dec . d_p``) is the
    main latent of a child of p, (3) which is active, and (4) has a cosine of at least ``carries`` with
    ``d_p``: the paper's ablation effect and its threshold on the cosine, on known directions.

    A parent's rate is absorbed rows over all rows where it is active. Raises :class:`CoderError` for
    features without a hierarchy, and for cosines outside [0, 1].
    """
    parents = planted.parents.unique()
    parents = parents[parents >= 0]
    if not len(parents):
        raise CoderError(
            f"{planted.name} has no parents and children; give a hierarchy, such as load_suite('hierarchy')."
        )
    if not 0 <= least_cosine <= 1 or not 0 <= carries <= 1:
        raise CoderError(f"cosines lie in [0, 1]; got least_cosine={least_cosine}, carries={carries}.")
    rows = planted.draw(n, torch.Generator().manual_seed(seed))
    decoder = dictionary.W_dec.detach()
    latents = reconstruct(dictionary, rows.x.to(decoder))[0].cpu().float()
    cosines = unit_rows(decoder.cpu().float()) @ unit_rows(planted.written).T
    matched = match_one_to_one(cosines)
    near = cosines.gather(0, matched.clamp(min=0)[None])[0] >= least_cosine
    matched = torch.where(near & (matched >= 0), matched, -1)
    run = _Run(
        latents, rows.activations > 0, decoder.cpu().float() @ unit_rows(planted.written).T, cosines, matched
    )
    found = [run.absorb(int(p), planted.parents, least_cosine, carries) for p in parents]
    children = (planted.parents >= 0).nonzero()[:, 0]
    own = planted.parents[children]
    there = matched[children]
    child_cosines = cosines[there.clamp(min=0), own].where(there >= 0, 0.0)
    return Absorption(
        parents=parents,
        latents=matched[parents],
        cosines=cosines[matched[parents].clamp(min=0), parents].where(matched[parents] >= 0, 0.0),
        n_latents=torch.tensor([len(one.latents) for one in found]),
        n_active=run.firing[:, parents].sum(0),
        n_silent=torch.tensor([int(one.silent.sum()) for one in found]),
        n_absorbed=torch.tensor([int((one.by >= 0).sum()) for one in found]),
        children=children,
        child_parent=own,
        child_cosines=child_cosines,
        child_active=run.firing[:, children].sum(0),
        child_absorbed=torch.stack([(one.by[:, None] == children).sum(0) for one in found]).sum(0),
        least_cosine=least_cosine,
        carries=carries,
        provenance=Provenance(
            model=name or type(dictionary).__name__, task=planted.name, n_prompts=n, seed=seed
        ),
    )


@dataclass(frozen=True)
class _Parent:
    latents: list[int]
    silent: Bool[Tensor, " row"]
    """The parent is active, its latents are not."""
    by: Int[Tensor, " row"]
    """The child whose latent absorbs the parent; -1 elsewhere."""


@dataclass(frozen=True)
class _Run:
    """Everything about some rows that does not depend on the parent."""

    values: Float[Tensor, "row latent"]
    firing: Bool[Tensor, "row feature"]
    writes: Float[Tensor, "latent feature"]
    """What a latent of 1 writes along each direction."""
    cosines: Float[Tensor, "latent feature"]
    matched: Int[Tensor, " feature"]

    def absorb(self, parent: int, parents: Tensor, least_cosine: float, carries: float) -> _Parent:
        own = self._latents_of(parent, least_cosine)
        silent = self.firing[:, parent] & ~(self.values[:, own] > 0).any(1)
        children = (parents == parent).nonzero()[:, 0]
        written = self.values * self.writes[:, parent]
        most, carrier = written.max(1)
        by = torch.full((len(silent),), -1)
        for child in children.tolist():
            latent = int(self.matched[child])
            if latent < 0 or float(self.cosines[latent, parent]) < carries:
                continue
            absorbed = silent & self.firing[:, child] & (carrier == latent) & (most > 0)
            by[absorbed] = child
        if not own:
            by[:] = -1
        return _Parent(own, silent, by)

    def _latents_of(self, parent: int, least_cosine: float) -> list[int]:
        nearest = self.cosines.argmax(1) == parent
        free = torch.ones(len(nearest), dtype=torch.bool)
        free[self.matched[self.matched >= 0]] = False
        more = nearest & free & (self.cosines[:, parent] >= least_cosine)
        main = int(self.matched[parent])
        return ([main] if main >= 0 else []) + more.nonzero()[:, 0].tolist()
