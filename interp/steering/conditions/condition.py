"""Conditions: yes or no for every prompt, and their combination by and, or, not.

Conditional activation steering (CAST), Lee et al. 2024, "Programming Refusal with Conditional Activation
Steering", section 3. Their condition is the cosine between h and its projection onto c (through a tanh), which but
for the tanh is |cos(h, c)|: a prompt that points away from c passes like one that points along it. Here the cosine
keeps its sign.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.steering.gated.scored import ScoredGate, check_reading, last_chosen, read_site
from interp.steering.gates import Gate, Reading
from interp.types import Site, parse_site

Pooling = Literal["mean", "max", "last"]
"""Similarity of the mean activation of the chosen tokens, the largest of any token, or that of the last one."""
Similarity = Literal["cosine", "dot"]
"""Cosine with the direction, or the coordinate along it."""


class BooleanGate(Gate):
    """A gate that is open (1) or closed (0), with ``&``, ``|`` and ``~``."""

    @abstractmethod
    def __invert__(self) -> BooleanGate: ...

    def __and__(self, other: BooleanGate) -> Combination:
        return Combination((self, other), "all") if isinstance(other, BooleanGate) else NotImplemented

    def __or__(self, other: BooleanGate) -> Combination:
        return Combination((self, other), "any") if isinstance(other, BooleanGate) else NotImplemented


@dataclass(frozen=True, eq=False)
class Condition(BooleanGate, ScoredGate):
    """Open where a prompt's similarity with a direction is above a threshold.

    :func:`interp.fit_condition` finds direction and threshold. Conditions combine: ``music & past``,
    ``music | sea``, ``~music``. Raises :class:`SteeringError` for a direction that is no finite vector, a
    threshold that is not finite, and a site that no gate can read.
    """

    kind: ClassVar[str] = "condition"
    site: Site
    """One layer, with positions of the prompt; all its tokens without any."""
    direction: Float[Tensor, " d"]
    """Of any length."""
    threshold: float
    pooling: Pooling = "mean"
    similarity: Similarity = "cosine"
    above: bool = True
    """Open above the threshold; else at it and below."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", read_site(self.site))
        for kind, got, known in (
            ("pooling", self.pooling, get_args(Pooling)),
            ("similarity", self.similarity, get_args(Similarity)),
        ):
            if got not in known:
                raise SteeringError(unknown_name(kind, got, known))
        direction = self.direction
        if direction.ndim != 1 or not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
            raise SteeringError(
                f"a condition takes a finite direction [d] that is not zero; got shape {list(direction.shape)}."
            )
        if not bool(torch.isfinite(torch.tensor(float(self.threshold)))):
            raise SteeringError(f"the threshold of a condition is finite; got {self.threshold}.")

    def __repr__(self) -> str:
        return (
            f"Condition({self.pooling} {self.similarity} at {self.site} {'>' if self.above else '<='} "
            f"{self.threshold:.4g})"
        )

    @property
    def sites(self) -> Sequence[Site]:
        return (self.site,)

    def similarities(self, readings: Mapping[Site, Reading]) -> Float[Tensor, " batch"]:
        """Pooled similarity of every prompt, in single precision."""
        reading = readings[self.site]
        check_reading(self.site, reading, len(self.direction))
        values = reading.values.float()
        if self.pooling == "mean":
            return self._compare(Reading(values, reading.chosen).mean())
        if self.pooling == "last":
            return self._compare(last_chosen(Reading(values, reading.chosen)))
        return self._compare(values).masked_fill(~reading.chosen, -torch.inf).amax(1)

    def _compare(self, values: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
        direction = self.direction.to(values)
        along = values @ (direction / direction.norm())
        if self.similarity == "dot":
            return along
        return along / values.norm(dim=-1).clamp(min=1e-12)

    def score(self, readings: Mapping[Site, Reading]) -> Float[Tensor, " batch"]:
        found = self.similarities(readings)
        return found if self.above else -found

    def decide(self, readings: Mapping[Site, Reading]) -> Float[Tensor, "batch channel"]:
        passed = self.similarities(readings) > self.threshold
        return (passed == self.above).float()[:, None]

    def at_threshold(self, threshold: float) -> Self:
        if self.above:
            return replace(self, threshold=threshold)
        # at the threshold itself an inverted condition is open
        return replace(self, threshold=float(np.nextafter(np.float32(-threshold), np.float32(-np.inf))))

    def __invert__(self) -> Condition:
        return replace(self, above=not self.above)

    def tensors(self) -> dict[str, Tensor]:
        return {"direction": self.direction}

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "site": str(self.site),
            "threshold": self.threshold,
            "pooling": self.pooling,
            "similarity": self.similarity,
            "above": self.above,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Condition:
        return cls(
            parse_site(data["site"]),
            tensors["direction"],
            data["threshold"],
            data["pooling"],
            data["similarity"],
            data["above"],
        )


@dataclass(frozen=True, eq=False)
class Combination(BooleanGate):
    """Open where all of its conditions are, or where any is. Raises :class:`SteeringError` for other gates."""

    kind: ClassVar[str] = "combination"
    parts: tuple[BooleanGate, ...]
    how: Literal["all", "any"]

    def __post_init__(self) -> None:
        if self.how not in ("all", "any"):
            raise SteeringError(unknown_name("combination", self.how, ("all", "any")))
        strangers = [type(part).__name__ for part in self.parts if not isinstance(part, BooleanGate)]
        if strangers or not self.parts:
            raise SteeringError(
                f"a combination is of conditions, at least one; got {', '.join(strangers) or 'none'}."
            )

    def __repr__(self) -> str:
        return "(" + (" & " if self.how == "all" else " | ").join(map(repr, self.parts)) + ")"

    @property
    def sites(self) -> Sequence[Site]:
        return tuple(dict.fromkeys(site for part in self.parts for site in part.sites))

    def decide(self, readings: Mapping[Site, Reading]) -> Float[Tensor, "batch channel"]:
        found = [part.decide(readings) for part in self.parts]
        # parts may lie on several devices, as layers do
        factors = torch.stack([factor.to(found[0].device) for factor in found])
        return factors.amin(0) if self.how == "all" else factors.amax(0)

    def __invert__(self) -> Combination:
        return Combination(tuple(~part for part in self.parts), "any" if self.how == "all" else "all")

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}_{name}": value
            for number, part in enumerate(self.parts)
            for name, value in part.tensors().items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "how": self.how, "parts": [part.to_dict() for part in self.parts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Combination:
        parts = []
        for number, part in enumerate(data["parts"]):
            if part["kind"] not in BOOLEAN_GATES:
                raise SteeringError(unknown_name("condition", str(part["kind"]), BOOLEAN_GATES))
            prefix = f"{number}_"
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            parts.append(cast(BooleanGate, BOOLEAN_GATES[part["kind"]].from_dict(part, own)))
        return cls(tuple(parts), data["how"])


BOOLEAN_GATES: Mapping[str, type[Gate]] = {one.kind: one for one in (Condition, Combination)}
