"""The loop that learned steerings share: steps of an optimiser, a log, and what is left when it is interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.results.steering_training import SteeringLog
from interp.steering.steering import Steering


class FitInterrupted(KeyboardInterrupt):
    """Fitting was stopped by Ctrl-C; ``steering`` is what there is of it, and can be used."""

    def __init__(self, message: str, steering: Steering) -> None:
        super().__init__(message)
        self.steering = steering


def cosine_rate(step: int, steps: int) -> float:
    """Factor of the learning rate at a step: a half cosine from 1 down to 0 behind the last step."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def run_steps(
    parameters: Sequence[Float[Tensor, "..."]],
    loss_parts: Callable[[int], Mapping[str, Float[Tensor, ""]]],
    step: Callable[[float], None],
    steps: int,
    *,
    finish: Callable[[int], Steering],
    log: SteeringLog | None = None,
    measures: Callable[[], Mapping[str, float]] = dict,
    progress: bool = False,
    name: str = "fit",
) -> Steering:
    """Descend on the mean of ``loss_parts`` for ``steps`` steps, and ``finish`` with the number that were done.

    ``loss_parts`` gets the step's number; ``step`` gets the learning rate's factor once the parameters have
    their gradients. The log gets every part and the ``measures`` before each step, and after the last one.
    Raises :class:`SteeringError` for a loss that is not finite, :class:`FitInterrupted` on Ctrl-C.
    """
    from tqdm.auto import tqdm

    done = 0
    try:
        with torch.enable_grad(), tqdm(total=steps, disable=not progress, desc=name) as bar:
            for number in range(steps):
                parts = loss_parts(number)
                loss = torch.stack(list(parts.values())).mean()
                _check(loss.detach(), number, log, parts, measures)
                shown = float(loss.detach())
                found = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter.grad = gradient
                step(cosine_rate(number, steps))
                done += 1
                bar.update()
                if bar.n % 10 == 0:
                    bar.set_postfix(loss=f"{shown:.4g}", refresh=False)
        with torch.no_grad():
            parts = loss_parts(steps)
            _check(torch.stack(list(parts.values())).mean(), steps, log, parts, measures)
    except KeyboardInterrupt as error:
        raise FitInterrupted(
            f"{name} was stopped after {done} of {steps} steps; .steering holds it as it is.", finish(done)
        ) from error
    return finish(done)


def _check(
    loss: Tensor,
    number: int,
    log: SteeringLog | None,
    parts: Mapping[str, Tensor],
    measures: Callable[[], Mapping[str, float]],
) -> None:
    if not math.isfinite(float(loss)):
        raise SteeringError(
            f"the loss is {float(loss)} at step {number}; take a smaller learning rate, or fewer sites."
        )
    if log is not None:
        log.append(number, {name: float(part.detach()) for name, part in parts.items()}, measures())
