"""Every extraction from one pass over the prompts, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.files import AnyCoder
from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.agreement import Estimate
from interp.results.steering_directions import SteeringDirections
from interp.steering.contrast import Contrast, ContrastRows, read_contrast
from interp.steering.extract.directions import DIRECTIONS, find_direction
from interp.steering.extract.judge import DirectionQuality, Fit, judge_direction
from interp.steering.extract.latents import N_LATENTS, LatentRank, choose_latents
from interp.steering.operations import Add
from interp.steering.prompt_reading import coder_sites
from interp.steering.steering import Steering, Step, place_of
from interp.types import COMPONENT_AXES, Site, SiteLike, parse_site

STREAM = "residual stream"
"""The space of :func:`space_of` that all layers share."""


def extract_directions(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    sites: SiteLike | Iterable[SiteLike],
    *,
    coders: Mapping[str, AnyCoder] | None = None,
    paired: bool | None = None,
    batch_size: int = 32,
    progress: bool = False,
    methods: Sequence[str] = tuple(DIRECTIONS),
    n_latents: int = N_LATENTS,
    by: LatentRank = "auc",
    n_bootstrap: int = 50,
    test_share: float = 0.25,
    confidence: float = 0.95,
    seed: int = 0,
) -> SteeringDirections:
    """The directions of several methods at all sites, from one pass over the prompts.

    ``coders`` (a name of your own -> the coder) add the direction of their latents, at the sites that they write to;
    all methods are taken there too. The rest is as for :func:`read_contrast` and :func:`compare_directions`.

    Example::

        found = interp.extract_directions(model, positive, negative, "resid_post[1]")
        found.plot()
        vector = steering_from(found, "lda").calibrate(model)
    """
    contrast = read_contrast(
        model,
        positive,
        negative,
        sites,
        coders=coders,
        paired=paired,
        batch_size=batch_size,
        progress=progress,
    )
    return compare_directions(
        contrast,
        methods=methods,
        n_latents=n_latents,
        by=by,
        n_bootstrap=n_bootstrap,
        test_share=test_share,
        confidence=confidence,
        seed=seed,
        progress=progress,
    )


def compare_directions(
    contrast: Contrast,
    *,
    methods: Sequence[str] = tuple(DIRECTIONS),
    n_latents: int = N_LATENTS,
    by: LatentRank = "auc",
    n_bootstrap: int = 50,
    test_share: float = 0.25,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> SteeringDirections:
    """The directions of ``methods`` at every site of a contrast, and of the latents of its coders.

    A coder gives the direction of its ``n_latents`` latents that know the label best, ranked ``by``
    (:func:`choose_latents`). Each direction comes with its AUC on prompts held out and its stability under a
    bootstrap over prompts (:func:`judge_direction`), and with its cosines with all others of its space.

    Raises :class:`SteeringError` for unknown methods, coders named like methods, too few prompts to hold
    some out, and where a method finds nothing (leave it out then).
    """
    from tqdm.auto import tqdm

    tasks = [*_methods(contrast, methods, seed), *_coders(contrast, methods, n_latents, by)]
    found: list[Tensor] = []
    judged: list[DirectionQuality] = []
    for one in tqdm(tasks, disable=not progress, desc="directions"):
        try:
            found.append(one.fit(one.rows))
        except SteeringError as error:
            raise SteeringError(f"{one.method} at {one.site}: {error}") from error
        judged.append(
            judge_direction(
                one.rows, one.fit, read_on=contrast.rows[one.site], test_share=test_share,
                n_bootstrap=n_bootstrap, confidence=confidence, seed=seed,
            )
        )  # fmt: skip
    return SteeringDirections(
        methods=tuple(one.method for one in tasks),
        sites=tuple(str(one.site) for one in tasks),
        directions=tuple(found),
        auc=_stack([one.auc for one in judged]),
        stability=_stack([one.stability for one in judged]),
        cosines=compare_cosines(found, [space_of(one.site) for one in tasks]),
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        model_digest=contrast.model_digest,
        data=contrast.data,
        provenance=replace(contrast.provenance, method="extraction", seed=seed),
    )


def steering_from(found: SteeringDirections, method: str, site: SiteLike | None = None) -> Steering:
    """A steering that adds one of the directions where it was read; its dose is not calibrated.

    Raises :class:`RecordError` for a method and site that are not there, or are not the only ones.
    """
    row = found.row(method, None if site is None else str(place_of(parse_site(site))))
    figures = {"auc": float(found.auc[row, 0]), "stability": float(found.stability[row, 0])}
    return Steering(
        (Step(parse_site(found.sites[row]), Add(found.directions[row])),),
        method,
        model_digest=found.model_digest,
        data=found.data,
        figures=figures,
        provenance=found.provenance,
    )


def space_of(site: Site) -> str:
    """Sites whose directions mean the same: the residual stream with all that is added to it, or one layer's own.

    ``mlp_in`` is the stream after a norm, and its own space.
    """
    axes = COMPONENT_AXES[site.component]
    in_stream = axes == ("batch", "pos", "d_model") and site.component != "mlp_in"
    return STREAM if in_stream else str(place_of(site))


def compare_cosines(
    directions: Sequence[Float[Tensor, " _"]], spaces: Sequence[str]
) -> Float[Tensor, "row row"]:
    """Cosine of every two directions of one space; NaN between spaces."""
    found = torch.full((len(directions),) * 2, float("nan"))
    for space in dict.fromkeys(spaces):
        rows = [i for i, one in enumerate(spaces) if one == space]
        units = torch.stack([directions[i] / directions[i].norm() for i in rows])
        found[torch.tensor(rows)[:, None], torch.tensor(rows)] = (units @ units.T).clamp(-1, 1)
    return found


@dataclass(frozen=True, eq=False)
class _Task:
    """One direction to find and judge."""

    method: str
    site: Site
    rows: ContrastRows
    """What it is fitted on."""
    fit: Fit


def _methods(contrast: Contrast, methods: Sequence[str], seed: int) -> list[_Task]:
    for method in methods:
        if method not in DIRECTIONS:
            raise SteeringError(unknown_name("extraction method", method, DIRECTIONS))
    if len(set(methods)) < len(methods) or not (methods or contrast.coders):
        raise SteeringError(f"give methods or coders, each once; got methods {list(methods)}.")

    def fit(method: str) -> Fit:
        return lambda rows: find_direction(rows, method, seed)

    return [
        _Task(method, site, rows, fit(method)) for site, rows in contrast.rows.items() for method in methods
    ]


def _coders(contrast: Contrast, methods: Sequence[str], k: int, by: LatentRank) -> list[_Task]:
    taken = sorted(set(contrast.coders) & set(methods))
    if taken:
        raise SteeringError(f"coders are named {', '.join(taken)}, as methods are; call them otherwise.")

    def fit(coder: AnyCoder) -> Fit:
        return lambda rows: choose_latents(rows, coder.W_dec, k=k, by=by).direction

    return [
        _Task(name, place_of(coder_sites(coder)[1]), contrast.latents[name], fit(coder))
        for name, coder in contrast.coders.items()
    ]


def _stack(estimates: Sequence[Estimate]) -> Float[Tensor, "row end"]:
    return torch.tensor([[one.value, one.low, one.high] for one in estimates])
