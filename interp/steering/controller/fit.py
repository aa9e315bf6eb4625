"""Training a controller, interruptibly."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_gate import ControllerHistory
from interp.steering.controller.config import ControllerConfig
from interp.steering.controller.controller import Controller, pool_readings
from interp.steering.controller.losses import BehaviourLoss, LabelLoss, Loss, StepFigures
from interp.steering.gated.behaviour import Behaviour
from interp.steering.gated.rollouts import continue_prompts
from interp.steering.gated.scored import read_prompts, read_rows, read_site
from interp.steering.kl import kl_by_token
from interp.steering.learn.training import FitInterrupted, cosine_rate
from interp.steering.steering import Steering
from interp.types import Site, SiteLike, parse_sites

_READ_BATCH = 32


@dataclass(frozen=True, eq=False)
class ControllerFit:
    """A steering under its trained controller, and how the controller learned."""

    steering: Steering
    history: ControllerHistory

    @property
    def controller(self) -> Controller:
        gate = self.steering.steps[0].gate
        assert isinstance(gate, Controller)
        return gate


class ControllerInterrupted(FitInterrupted):
    """Training was stopped by Ctrl-C; ``fit`` is the controller after the last whole step."""

    def __init__(self, message: str, fit: ControllerFit) -> None:
        super().__init__(message, fit.steering)
        self.fit = fit


def fit_controller(
    model: Model,
    steering: Steering,
    act_prompts: Prompts,
    leave_prompts: Prompts,
    behaviour: Behaviour | None = None,
    *,
    dose: float | None = None,
    strength: float | None = None,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    n_tokens: int = 16,
    config: ControllerConfig | None = None,
    progress: bool = False,
) -> ControllerFit:
    """Train a controller that lets a steering act on prompts like the first and not on prompts like the second.

    It reads ``sites``, by default the residual stream after every layer up to where the steering begins, and has
    a channel for every step. With ``config.objective="behaviour"`` the loss is of the steered model on
    continuations of ``n_tokens``: ``behaviour`` is to rise where it should act, at no more KL than the steering
    costs there without a gate, and the KL is to stay at 0 where it should not. With ``"labels"`` the gate learns
    which prompts are which, and the weights of the steps nothing: they stay at 1. ``"both"`` adds up the two. The
    steering's calibration stays: that of the steering in full.

    Example::

        formal = raise_words(ids["formal"], ids["informal"])
        fit = interp.fit_controller(model, vector, about_music, others, formal, dose=0.3)
        with fit.steering.apply(model, dose=0.3):
            tokens = model.generate(["The band", "The cook"])

    Raises :class:`SteeringError` for a steering that has a gate already, for neither or both of dose and
    strength, no behaviour to train on, and sites that come after the first step. Ctrl-C raises
    :class:`ControllerInterrupted` with what there is.
    """
    config = config or ControllerConfig()
    if any(step.gate is not None for step in steering.steps):
        raise SteeringError("the steering has a gate already; take it off with steering.gated(None).")
    if (dose is None) == (strength is None):
        raise SteeringError(
            f"give dose=... or strength=..., one of both; got dose={dose}, strength={strength}."
        )
    if behaviour is not None and not isinstance(behaviour, Behaviour):
        raise SteeringError(
            f"a behaviour is what raise_words(up, down) makes, or Behaviour(measure, name); got {behaviour!r}."
        )
    full = float(strength if dose is None else steering.strength_for(dose))  # type: ignore[arg-type]
    read = [read_site(site) for site in (sites_before(steering) if sites is None else parse_sites(sites))]
    rows = [read_rows(model, side) for side in (act_prompts, leave_prompts)]
    features = [_read_features(model, read, side) for side in rows]
    controller = start_controller(read, torch.cat(features), len(steering.steps), config.hidden, config.seed)
    # a site that is read too late is refused here, whatever is trained on
    with torch.no_grad(), steering.gated(controller).apply(model, strength=full):
        model(rows[0][0][None])
    loss: Loss
    if config.objective == "labels":
        loss = LabelLoss(*features)
    elif behaviour is None:
        raise SteeringError(
            "a controller that is trained on behaviour needs one, for example raise_words(up, down); or train on "
            'labels alone: ControllerConfig(objective="labels").'
        )
    else:
        loss = _behaviour_loss(model, steering, full, behaviour, rows, n_tokens, config)
    return _train(model, steering, controller, loss, (len(rows[0]), len(rows[1])), config, progress)


def sites_before(steering: Steering) -> list[Site]:
    """The residual stream after every layer up to where the steering first acts, as it is before it acts.

    Raises :class:`SteeringError` for a steering of the embedding, before which there is nothing to read.
    """
    layers = [step.site.layer for step in steering.steps]
    if None in layers:
        raise SteeringError("the steering acts on the embedding, before which there is nothing to read.")
    first = min(layer for layer in layers if layer is not None)
    own = {step.site.component for step in steering.steps if step.site.layer == first}
    found = [Site("resid_post", layer) for layer in range(first)]
    found += [Site("resid_post", first)] if own == {"resid_post"} else []
    return found or [Site("resid_pre", 0)]


def _read_features(model: Model, read: Sequence[Site], rows: list[Tensor]) -> Float[Tensor, "n d_in"]:
    parts = [
        pool_readings(read, read_prompts(model, read, rows[start : start + _READ_BATCH]), torch.device("cpu"))
        for start in range(0, len(rows), _READ_BATCH)
    ]
    return torch.cat(parts)


def start_controller(
    read: Sequence[Site], features: Float[Tensor, "n d_in"], n_channels: int, hidden: int, seed: int
) -> Controller:
    """A controller whose gate is half open and whose weights are 1, on features of this spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = features.std(0, correction=0)
    d_in = features.shape[1]
    return Controller(
        tuple(read),
        mean=features.mean(0),
        # entries that never change would blow up
        scale=spread.clamp(min=1e-3 * float(spread.mean()) + 1e-12),
        W_in=torch.randn(hidden, d_in, generator=generator) / d_in**0.5,
        b_in=torch.zeros(hidden),
        W_out=torch.zeros(1 + n_channels, hidden),
        b_out=torch.zeros(1 + n_channels),
    )


def _behaviour_loss(
    model: Model,
    steering: Steering,
    strength: float,
    behaviour: Behaviour,
    rows: Sequence[list[Tensor]],
    n_tokens: int,
    config: ControllerConfig,
) -> BehaviourLoss:
    every = continue_prompts(model, rows[0] + rows[1], n_tokens=n_tokens, seed=config.seed)
    numbers = torch.arange(len(every))
    act, leave = (every.select(part) for part in numbers.split([len(rows[0]), len(rows[1])]))
    costs = []
    for batch in act.batches(_READ_BATCH):
        with torch.no_grad(), batch.continuing(model):
            base = batch.logits(model)
            with steering.apply(model, strength=strength):
                costs.append(batch.mean(kl_by_token(base, batch.logits(model))))
    return BehaviourLoss(
        model, steering, strength, behaviour, act, leave, float(torch.cat(costs).mean()), config
    )


def _train(
    model: Model,
    steering: Steering,
    controller: Controller,
    loss: Loss,
    sizes: tuple[int, int],
    config: ControllerConfig,
    progress: bool,
) -> ControllerFit:
    from tqdm.auto import tqdm

    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(config.seed)
    names = ("W_in", "b_in", "W_out", "b_out")
    learned = [getattr(controller, name).requires_grad_() for name in names]
    matrices = [p for p in learned if p.ndim == 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": [p for p in learned if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    whole, seen = controller.detached(), list[StepFigures]()

    def result() -> ControllerFit:
        history = _history(model, steering, seen, config, sum(sizes), time.perf_counter() - begun)
        return ControllerFit(steering.gated(whole), history)

    half = config.batch_size // 2
    try:
        for step in tqdm(range(config.n_steps), disable=not progress, desc="controller"):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * cosine_rate(step, config.n_steps)
            act, leave = (_draw(n, half, generator) for n in sizes)
            with torch.enable_grad():
                found = loss(controller, act, leave)
            if not bool(torch.isfinite(found.loss)):
                raise SteeringError(
                    f"the loss is {float(found.loss)} at step {step}; take a smaller learning rate or strength."
                )
            for p, gradient in zip(learned, torch.autograd.grad(found.loss, learned), strict=True):
                p.grad = gradient
            optimiser.step()
            if not all(bool(torch.isfinite(p).all()) for p in learned):
                raise SteeringError(
                    f"the controller is not finite after step {step}; take a smaller learning rate."
                )
            whole = controller.detached()
            seen.append(found.detached())
    except KeyboardInterrupt as error:
        if not seen:
            raise
        raise ControllerInterrupted(
            f"stopped after {len(seen)} steps of {config.n_steps}", result()
        ) from error
    return result()


def _draw(n: int, size: int, generator: torch.Generator) -> Int[Tensor, " size"]:
    return torch.randperm(n, generator=generator)[:size]


def _history(
    model: Model,
    steering: Steering,
    seen: Sequence[StepFigures],
    config: ControllerConfig,
    n_prompts: int,
    seconds: float,
) -> ControllerHistory:
    def column(name: str) -> Float[Tensor, " step"]:
        values = [getattr(figures, name) for figures in seen]
        return torch.tensor([math.nan if value is None else float(value) for value in values])

    curves = ("loss", "effect", "act_kl", "leave_kl", "act_gate", "leave_gate")
    return ControllerHistory(
        steps=torch.arange(1, len(seen) + 1),
        **{name: column(name) for name in curves},
        weights=torch.stack([figures.weights for figures in seen]),
        channels=tuple(map(str, steering.steps)),
        objective=config.objective,
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task="controller",
            n_prompts=n_prompts,
            seed=config.seed,
            method=steering.method,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            seconds=seconds,
        ),
    )
