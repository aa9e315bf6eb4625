"""Maps fitted in closed form, one site after another: what end-to-end training is compared with.

Independent maps are each fitted to the unsteered model; when all act, a map gets activations that those below it
have already moved, and they compound. Sequential maps are fitted in the order of the forward, each to what it
gets under the earlier ones (Rodriguez et al. 2024, arXiv 2410.23054, do so).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.models.text_digest import describe_data
from interp.results.provenance import Provenance
from interp.steering.learn.pooled import Map, pooled_under, read_rows, sites_of_layers
from interp.steering.learn.transport import fit_gaussian, fit_scale, fit_sorted_line
from interp.steering.operations import AffineMap
from interp.steering.steering import Steering, Step
from interp.types import Site, SiteLike

MapKind = Literal["shift", "sorted-line", "scale", "gaussian"]


def _shift(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    return AffineMap(torch.ones_like(source[0]), target.mean(0) - source.mean(0))


MAP_KINDS: Mapping[str, Callable[[Tensor, Tensor, float], AffineMap]] = MappingProxyType(
    {
        "shift": lambda source, target, shrinkage: _shift(source, target),
        "sorted-line": lambda source, target, shrinkage: fit_sorted_line(source, target),
        "scale": lambda source, target, shrinkage: fit_scale(source, target),
        "gaussian": fit_gaussian,
    }
)
"""Kind of map -> what fits it to source and target rows: the mean difference, a line through sorted samples a
neuron (Linear-AcT), mean and spread a neuron, mean and covariance of all neurons together."""


def fit_layerwise_maps(
    model: Model,
    source: Prompts,
    target: Prompts,
    sites: SiteLike | Iterable[SiteLike] = "resid_post",
    kind: MapKind = "sorted-line",
    *,
    sequential: bool = True,
    shrinkage: float = 0.5,
    progress: bool = False,
) -> Steering:
    """Maps that carry pooled activations of ``source`` to those of ``target`` prompts, each site on its own.

    ``kind`` is one of :data:`MAP_KINDS`. With ``sequential`` each is fitted under the earlier ones, else to
    the unsteered model. ``shrinkage`` is of the covariances of ``"gaussian"`` (:func:`fit_gaussian`).
    Prompts, sites and dose are as for :func:`interp.fit_lineas`.

    Raises :class:`SteeringError` for fewer than two prompts, an unknown kind and sites that cannot be mapped.
    """
    from tqdm.auto import tqdm

    if kind not in MAP_KINDS:
        raise SteeringError(unknown_name("kind of map", kind, MAP_KINDS))
    rows, goal = read_rows(model, source, "source"), read_rows(model, target, "target")
    places = sites_of_layers(model, sites)
    maps: dict[Site, Map | None] = dict.fromkeys(places)
    found: dict[Site, AffineMap] = {}
    with torch.no_grad():
        wanted = pooled_under(model, maps, *goal.batch())
        here = pooled_under(model, maps, *rows.batch())
        for site in tqdm(wanted, disable=not progress, desc="maps"):
            if sequential and found:
                here = pooled_under(model, maps, *rows.batch())
            found[site] = MAP_KINDS[kind](here[site], wanted[site], shrinkage)
            maps[site] = _whole(found[site])
    return Steering(
        tuple(Step(site, one) for site, one in found.items()),
        f"layer-wise {kind}, {'sequential' if sequential else 'independent'}",
        model_digest=digest_weights(model),
        data=f"source: {describe_data(source)}; target: {describe_data(target)}",
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task="source to target",
            n_prompts=len(rows.rows) + len(goal.rows),
            method=f"layer-wise {kind}",
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
        ),
    )


def _whole(operation: AffineMap) -> Map:
    return lambda h: operation.change(h, 1.0)
