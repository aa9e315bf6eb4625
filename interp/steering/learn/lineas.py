"""LinEAS: one affine map a neuron at several sites, fitted together through the frozen model (arXiv 2503.10679).

``h' = w * h + b``, identity at the start. Activations of source prompts, under all maps, are pooled over tokens
and compared with those of target prompts, neuron by neuron, as sorted samples: the squared 2-Wasserstein
distance. The prompts are unpaired, and a few dozen a side are enough. Maps of lower layers learn what those of
higher ones will get, which layer-wise maps do not.

Known shortcomings: only the means over a prompt's tokens are compared, and each neuron apart; what a token and a
joint distribution are is left to the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.models.text_digest import describe_data
from interp.results.provenance import Provenance
from interp.results.steering_training import SteeringLog
from interp.steering.learn.pooled import Map, PromptRows, pooled_under, read_rows, sites_of_layers
from interp.steering.learn.sparsity import GROUPS, Group, kept_neurons, shrink
from interp.steering.learn.training import run_steps
from interp.steering.learn.transport import sorted_distance
from interp.steering.operations import AffineMap
from interp.steering.steering import Steering, Step
from interp.types import Site, SiteLike

Optimizer = Literal["adam", "sgd"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
_RATES: Mapping[str, float] = {"adam": 0.01, "sgd": 0.05}
LOSS = "squared 2-Wasserstein distance, share of the unsteered one"


@dataclass(frozen=True)
class LinEASConfig:
    """How maps are fitted. Raises :class:`SteeringError` for values that cannot be."""

    steps: int = 500
    learning_rate: float | None = None
    """At the start of a cosine that falls to 0; 0.01 for Adam and 0.05 for SGD if left out. SGD's rate is a share of
    each parameter's own curvature: 1 would solve for it alone in one step, but they act together."""
    optimizer: Optimizer = "adam"
    """With a penalty take ``"sgd"``: Adam scales every gradient to one size, so that a proximal step keeps all
    numbers or none."""
    sparsity: float = 0.0
    """Lambda of the penalty on ``w - 1`` and ``b``, kept by proximal steps."""
    group: Group = "number"
    """What the penalty takes together: each number (l1), a neuron's two, all of a site."""
    equal_sites: bool = True
    """Divide each site's distance by what it is without maps, so that all sites count alike. Activations of the
    last layers are often larger by orders, and would be all that counts."""
    batch_size: int | None = None
    """Source prompts a step, drawn at random; all if left out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise SteeringError(unknown_name("optimizer", self.optimizer, OPTIMIZERS))
        if self.group not in GROUPS:
            raise SteeringError(unknown_name("group of a penalty", self.group, GROUPS))
        rate = self.rate
        if self.steps < 1 or not 0 < rate < math.inf or not 0 <= self.sparsity < math.inf:
            raise SteeringError(
                f"steps are at least 1, the learning rate above 0 and the sparsity not below; got {self.steps}, {rate} "
                f"and {self.sparsity}."
            )
        if self.batch_size is not None and self.batch_size < 2:
            raise SteeringError(f"a batch has at least two prompts; got {self.batch_size}.")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return _RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


def fit_lineas(
    model: Model,
    source: Prompts,
    target: Prompts,
    sites: SiteLike | Iterable[SiteLike] = "resid_post",
    config: LinEASConfig | None = None,
    *,
    log: SteeringLog | None = None,
    progress: bool = False,
) -> Steering:
    """Maps that carry activations of ``source`` prompts to those of ``target`` prompts, trained end to end.

    A site without a layer has a map in all; positions bound what is pooled and where the map acts. The model
    stays as it is. Prompts need no pairs and no equal number: 32 a side are usual. ``log`` gets the loss of every
    site at every step. ``figures`` of the result hold the loss at both ends and the share of neurons kept.
    The dose is not calibrated; strength 1 is the map as it was fitted.

    Example::

        steering = interp.fit_lineas(model, informal, formal, "resid_post").calibrate(model)
        with steering.apply(model, strength=1.0):
            tokens = model.generate("Hey, the baker")

    Raises :class:`SteeringError` for fewer than two prompts, sites that cannot be mapped and a loss that runs
    away; :class:`FitInterrupted`, with what there is, on Ctrl-C.
    """
    config = config or LinEASConfig()
    rows, goal = read_rows(model, source, "source"), read_rows(model, target, "target")
    places = sites_of_layers(model, sites)
    with torch.no_grad():
        wanted = pooled_under(model, dict.fromkeys(places), *goal.batch())
        start = pooled_under(model, dict.fromkeys(places), *rows.batch())
    fit = _Fit(model, config, rows, start, wanted)
    provenance = _provenance(model, rows, goal, config)
    if log is not None:
        log.begin(LOSS if config.equal_sites else LOSS.partition(",")[0], provenance)
    data = f"source: {describe_data(source)}; target: {describe_data(target)}"

    def finish(done: int) -> Steering:
        return Steering(
            tuple(Step(site, one) for site, one in fit.maps().items()),
            "lineas",
            model_digest=digest_weights(model),
            data=data,
            figures={**fit.ends(), "steps": float(done), **fit.kept()},
            provenance=provenance,
        )

    return run_steps(
        list(fit.offsets.values()),
        fit.losses,
        fit.step,
        config.steps,
        finish=finish,
        log=log,
        measures=fit.kept,
        progress=progress,
        name="LinEAS",
    )


def _provenance(model: Model, rows: PromptRows, goal: PromptRows, config: LinEASConfig) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="source to target",
        n_prompts=len(rows.rows) + len(goal.rows),
        seed=config.seed,
        method="lineas",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


class _Fit:
    """Maps as offsets from the identity: [2, d] a site, ``w - 1`` and ``b``."""

    def __init__(
        self,
        model: Model,
        config: LinEASConfig,
        rows: PromptRows,
        start: Mapping[Site, Tensor],
        wanted: Mapping[Site, Tensor],
    ) -> None:
        self.model, self.config, self.rows, self.wanted = model, config, rows, wanted
        self.offsets = {
            site: torch.zeros(2, value.shape[1], dtype=value.dtype, device=value.device, requires_grad=True)
            for site, value in start.items()
        }
        self.unsteered = {site: sorted_distance(start[site], wanted[site]).sum() for site in start}
        same = [str(site) for site, distance in self.unsteered.items() if not float(distance) > 0]
        if same:
            raise SteeringError(f"source and target prompts have the same activations at {', '.join(same)}.")
        self.curvatures = {site: self._curvature(site, value) for site, value in start.items()}
        self.adam = torch.optim.Adam(list(self.offsets.values()), lr=config.rate)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.last: float | None = None

    def _share(self, site: Site) -> float:
        return 1.0 / float(self.unsteered[site]) if self.config.equal_sites else 1.0

    def _curvature(self, site: Site, value: Tensor) -> Float[Tensor, "kind d"]:
        """Second derivatives of the loss in ``w`` and ``b``, the other maps left out."""
        squares = torch.stack([value.pow(2).mean(0), torch.ones_like(value[0])])
        return 2 * self._share(site) * squares / len(self.offsets)

    def batch(self, number: int) -> tuple[Tensor, Tensor | None]:
        size = self.config.batch_size
        # the loss after the last step is of all prompts
        if size is None or size >= len(self.rows.rows) or number >= self.config.steps:
            return self.rows.batch()
        return self.rows.batch(torch.randperm(len(self.rows.rows), generator=self.generator)[:size].tolist())

    def losses(self, number: int) -> dict[str, Tensor]:
        """Loss of every site under the maps as they are."""
        maps: dict[Site, Map | None] = {
            site: lambda h, o=offset: (1 + o[0]) * h + o[1]  # type: ignore[misc]
            for site, offset in self.offsets.items()
        }
        pooled = pooled_under(self.model, maps, *self.batch(number))
        parts = {
            str(site): self._share(site) * sorted_distance(pooled[site], self.wanted[site]).sum()
            for site in self.offsets
        }
        self.last = float(torch.stack([part.detach() for part in parts.values()]).mean())
        return parts

    def step(self, factor: float) -> None:
        """One step of the optimiser, and the proximal one after it."""
        config = self.config
        rate = config.rate * factor
        if config.optimizer == "adam":
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
        with torch.no_grad():
            for site, offset in self.offsets.items():
                steps = torch.full_like(offset, rate)
                if config.optimizer == "sgd":
                    assert offset.grad is not None
                    steps = rate / self.curvatures[site].clamp(min=1e-12)
                    offset -= steps * offset.grad
                if config.sparsity:
                    offset.copy_(shrink(offset, steps * config.sparsity, config.group))

    def maps(self) -> dict[Site, AffineMap]:
        """The maps as operations."""
        detached = {site: offset.detach().clone() for site, offset in self.offsets.items()}
        return {site: AffineMap(1 + offset[0], offset[1]) for site, offset in detached.items()}

    def ends(self) -> dict[str, float]:
        """Loss of all source prompts at the start and at the end; where interrupted, that of the last batch."""
        if self.last is None:
            return {}
        start = sum(self._share(site) * float(distance) for site, distance in self.unsteered.items())
        return {"loss at start": start / len(self.unsteered), "loss": self.last}

    def kept(self) -> dict[str, float]:
        """Share of all neurons whose map is not the identity."""
        offsets = [offset.detach() for offset in self.offsets.values()]
        return {"kept share": sum(map(kept_neurons, offsets)) / sum(offset.shape[1] for offset in offsets)}
