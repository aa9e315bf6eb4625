"""Directions from the latents of a coder: decoder rows, chosen by how well their latents know the label.

Works for sparse autoencoders, transcoders and semi-NMF alike. A transcoder's rows are directions of the site that it
writes to; those of semi-NMF (:func:`interp.fit_semi_nmf` at ``mlp_post``) are groups of neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.files import AnyCoder
from interp.coders.semi_nmf.dictionary import SemiNMF
from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.steering.contrast import Contrast, ContrastRows, read_contrast
from interp.steering.extract.detection import roc_area
from interp.steering.extract.extract import build_steering, calibrate_on, keep_prompts
from interp.steering.neutral import NeutralText
from interp.steering.operations import Add
from interp.steering.prompt_reading import coder_sites
from interp.steering.steering import Steering, place_of
from interp.types import Position

LatentRank = Literal["auc", "difference"]
"""``auc``: how far a latent's AUC for the label is from one half. ``difference``: how much the means of what it
writes differ, ``|mean difference| * |W_dec|``."""
N_LATENTS = 10


@dataclass(frozen=True, eq=False)
class LatentChoice:
    """Latents chosen by label, the best first, and the direction that they write together."""

    latents: Int[Tensor, " k"]
    auc: Float[Tensor, " k"]
    """Chance that a positive prompt has more of the latent than a negative one; below 0.5 it is a sign of the
    negative side, and goes into the direction with a minus."""
    difference: Float[Tensor, " k"]
    """Mean latent of the positive prompts minus that of the negative ones."""
    direction: Float[Tensor, " d"]
    """``sum_k difference_k W_dec[k]``: what these latents add to the mean difference at the coder's output."""


def choose_latents(
    rows: ContrastRows, decoder: Float[Tensor, "d_sae d"], *, k: int = N_LATENTS, by: LatentRank = "auc"
) -> LatentChoice:
    """The ``k`` latents that know the label best, and the sum of their decoder rows.

    ``rows`` are latents [prompt, d_sae]. Each decoder row is weighted by its latent's mean difference, so that with
    every latent of a coder that rebuilds well the direction is the mean difference itself. Latents whose means are
    the same on both sides write nothing and are not chosen: there may be fewer than ``k``.

    Raises :class:`SteeringError` for ``k`` out of range, an unknown ranking, and where no latent differs.
    """
    if by not in get_args(LatentRank):
        raise SteeringError(unknown_name("ranking of latents", by, get_args(LatentRank)))
    d_sae = len(decoder)
    if not 1 <= k <= d_sae or rows.d != d_sae:
        raise SteeringError(
            f"k lies between 1 and {d_sae} latents, and rows have one entry each; got {k} and {rows.d}."
        )
    decoder = decoder.detach().to(rows.positive)
    x, labels = rows.stacked()
    area = roc_area(x, labels > 0).float()
    gap = rows.mean_difference
    size = (area - 0.5).abs() if by == "auc" else gap.abs() * decoder.norm(dim=1)
    size = size.masked_fill((gap == 0) | (decoder.norm(dim=1) == 0), -1.0)
    order = size.argsort(descending=True, stable=True)[:k]
    order = order[size[order] >= 0]
    if not len(order):
        raise SteeringError("no latent differs between positive and negative prompts; there is no direction.")
    return LatentChoice(order, area[order], gap[order], gap[order] @ decoder[order])


def latent_choice_of(
    contrast: Contrast, name: str, *, k: int = N_LATENTS, by: LatentRank = "auc"
) -> LatentChoice:
    """The choice from a contrast that was read with a coder of this name. Raises as :func:`choose_latents`."""
    rows = contrast.latents_of(name)
    return choose_latents(rows, contrast.coders[name].W_dec, k=k, by=by)


def method_of(coder: AnyCoder) -> str:
    """What a direction of this coder is called: ``"coder-latents"``, or ``"semi-nmf"``."""
    return "semi-nmf" if isinstance(coder, SemiNMF) else "coder-latents"


def extract_latents(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    coder: AnyCoder,
    *,
    k: int = N_LATENTS,
    by: LatentRank = "auc",
    at: Position | Sequence[Position] | None = None,
    operation: str = "add",
    neutral: Prompts | NeutralText | None = None,
    calibrate: bool = True,
    max_dose: float = 2.0,
    paired: bool | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Steering:
    """A steering along the decoder rows of those latents of ``coder`` that know the label best.

    It acts at the site that the coder writes to. ``k=1`` is a single latent; options as for
    :func:`choose_latents` and :func:`extract_steering`. Raises :class:`SteeringError` for a coder of several
    sites, and where no latent differs.
    """
    _, writes = coder_sites(coder)
    positive, negative = keep_prompts(positive), keep_prompts(negative)
    contrast = read_contrast(
        model, positive, negative, writes, coders={"coder": coder}, paired=paired, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    choice = latent_choice_of(contrast, "coder", k=k, by=by)
    steering = build_steering(
        contrast, {place_of(writes): Add(choice.direction)}, method_of(coder), at, operation
    )
    if not calibrate:
        return steering
    return calibrate_on(
        model, steering, positive, negative, neutral, max_dose=max_dose, seed=seed, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
