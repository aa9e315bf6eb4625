"""What steering should bring about, as a number of every token that a model would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError


@dataclass(frozen=True, eq=False)
class Behaviour:
    """A differentiable measure of logits, larger where there is more of what is wanted."""

    measure: Callable[[Float[Tensor, "batch new d_vocab"]], Float[Tensor, "batch new"]]
    name: str
    """What it is and its unit."""


def raise_words(
    up: Int[Tensor, " n"] | Sequence[int],
    down: Int[Tensor, " m"] | Sequence[int] | None = None,
    name: str = "log odds of the wanted words",
) -> Behaviour:
    """Log odds of any token of ``up`` against any of ``down`` (against all others if left out), in nats.

    Raises :class:`SteeringError` for no tokens, for tokens on both sides, and for ids outside the vocabulary.
    """
    sides = [torch.as_tensor(ids) for ids in (up, down) if ids is not None]
    if any(side.ndim != 1 or side.is_floating_point() for side in sides):
        raise SteeringError(f"tokens of a behaviour are lists of ids; got {up!r} and {down!r}.")
    up, down = sides[0], sides[1] if len(sides) > 1 else None
    if not len(up) or (down is not None and not len(down)):
        raise SteeringError("a behaviour needs tokens to raise, and tokens to lower where these are given.")
    if int(up.min()) < 0 or (down is not None and int(down.min()) < 0):
        raise SteeringError("tokens of a behaviour are ids of a vocabulary, 0 or more.")
    if down is not None and set(up.tolist()) & set(down.tolist()):
        raise SteeringError("some tokens are to be raised and lowered at once; give each to one side.")

    def measure(logits: Tensor) -> Tensor:
        wide = logits.float()
        last = max(int(ids.max()) for ids in (up, down) if ids is not None)
        if last >= wide.shape[-1]:
            raise SteeringError(f"the behaviour is of token {last}; the model has 0..{wide.shape[-1] - 1}.")
        wanted = wide[..., up.to(wide.device)].logsumexp(-1)
        if down is not None:
            return wanted - wide[..., down.to(wide.device)].logsumexp(-1)
        others = torch.ones(wide.shape[-1], dtype=torch.bool, device=wide.device)
        others[up.to(wide.device)] = False
        return wanted - wide[..., others].logsumexp(-1)

    return Behaviour(measure, f"{name}, nats")
