"""The controller: activations of the prompt to one gate in (0, 1) and a weight for every step.

Hegazy et al. 2025, "Guiding Giants: Lightweight Controllers for Weighted Activation Steering in LLMs". There the
gate is unbounded, and the loss is of labels on the gate alone, so that layer weights get no gradient of the task.
Here the gate is a sigmoid, the weights a softmax scaled to be 1 on average, and :func:`interp.fit_controller`
trains both by what the steered model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.gated.scored import ScoredGate, check_reading, read_site
from interp.steering.gates import Reading
from interp.types import Site, parse_site


@dataclass(frozen=True, eq=False)
class Controller(ScoredGate):
    """``gate * weights`` of a network with one hidden layer on mean activations at several sites.

    At a site each prompt is the mean over the site's positions, all its tokens without any. Raises
    :class:`SteeringError` for tensors that do not fit together.
    """

    kind: ClassVar[str] = "controller"
    read: tuple[Site, ...]
    """Whose activations stand side by side in the input."""
    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, " d_in"]
    """The input less ``mean``, by ``scale``."""
    W_in: Float[Tensor, "hidden d_in"]
    b_in: Float[Tensor, " hidden"]
    W_out: Float[Tensor, "out hidden"]
    """The gate's row, then one for every channel."""
    b_out: Float[Tensor, " out"]
    threshold: float | None = None
    """The gate is closed at it and below, and as it is above; ``None`` leaves it as it is."""
    n_channels: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", tuple(read_site(site) for site in self.read))
        object.__setattr__(self, "n_channels", len(self.b_out) - 1)
        shapes = [list(tensor.shape) for tensor in self.tensors().values()]
        (hidden, d_in), out = self.W_in.shape, len(self.b_out)
        if shapes != [[d_in], [d_in], [hidden, d_in], [hidden], [out, hidden], [out]] or out < 2:
            raise SteeringError(
                "a controller has mean and scale [d_in], W_in [hidden, d_in], b_in [hidden], W_out [1 + channel, "
                f"hidden] and b_out [1 + channel]; got {shapes}."
            )
        if not self.read:
            raise SteeringError("a controller reads at least one site; got none.")

    def __repr__(self) -> str:
        limit = "" if self.threshold is None else f", open above {self.threshold:.4g}"
        return f"Controller({', '.join(map(str, self.read))} -> {self.n_channels} channels{limit})"

    @property
    def sites(self) -> Sequence[Site]:
        return self.read

    def features(self, readings: Mapping[Site, Reading]) -> Float[Tensor, "batch d_in"]:
        """The network's input before it is standardised."""
        found = pool_readings(self.read, readings, self.mean.device)
        if found.shape[1] != len(self.mean):
            raise SteeringError(
                f"the controller takes {len(self.mean)} entries of {', '.join(map(str, self.read))}; there are "
                f"{found.shape[1]}. Was it made for another model?"
            )
        return found

    def outputs(
        self, features: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch channel"]]:
        """Log odds of the gate, and weights that are 1 on average over the channels."""
        self_ = self.to(features)
        x = (features - self_.mean) / self_.scale
        out = torch.tanh(x @ self_.W_in.T + self_.b_in) @ self_.W_out.T + self_.b_out
        return out[:, 0], self.n_channels * out[:, 1:].softmax(1)

    def score(self, readings: Mapping[Site, Reading]) -> Float[Tensor, " batch"]:
        return self.outputs(self.features(readings))[0].sigmoid()

    def decide(self, readings: Mapping[Site, Reading]) -> Float[Tensor, "batch channel"]:
        odds, weights = self.outputs(self.features(readings))
        gate = odds.sigmoid()
        if self.threshold is not None:
            gate = torch.where(gate > self.threshold, gate, 0)
        return gate[:, None] * weights

    def at_threshold(self, threshold: float | None) -> Self:
        return self._with(threshold=threshold)

    def detached(self) -> Self:
        """The same without gradients, in memory of its own."""
        return self._with(**{name: value.detach().clone() for name, value in self.tensors().items()})

    def to(self, like: Tensor) -> Self:
        """The same on the device of ``like``, in its precision."""
        return self._with(**{name: value.to(like) for name, value in self.tensors().items()})

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("mean", "scale", "W_in", "b_in", "W_out", "b_out")}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "read": [str(site) for site in self.read], "threshold": self.threshold}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Controller:
        return cls(tuple(map(parse_site, data["read"])), **tensors, threshold=data["threshold"])


def pool_readings(
    sites: Sequence[Site], readings: Mapping[Site, Reading], device: torch.device
) -> Float[Tensor, "batch d_in"]:
    """Means over the chosen tokens at every site, side by side, in single precision."""
    pooled = []
    for site in sites:
        reading = readings[site]
        check_reading(site, reading, reading.values.shape[-1])
        pooled.append(Reading(reading.values.float(), reading.chosen).mean().to(device))
    return torch.cat(pooled, dim=1)
