"""What steering does to an activation: add, project out, clamp, rotate, map, or set neurons.

Every operation takes a ``strength`` that a dose is turned into: at 0 it leaves the activation as it is, and it
is continuous in between. Activations of heads are taken as one vector, [head * d_head].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name

_ORTHONORMAL = 1e-4


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One change to an activation, apart from where and how strongly."""

    kind: ClassVar[str]
    full_strength: ClassVar[float | None] = None
    """The strength at which it has done all it does; ``None`` where there is always more."""

    @property
    @abstractmethod
    def d(self) -> int:
        """Entries of the activation that it acts on."""

    @abstractmethod
    def change(
        self, h: Float[Tensor, "*rest d"], strength: Float[Tensor, "*#rest 1"] | float
    ) -> Float[Tensor, "*rest d"]:
        """``h`` as it is after the operation, with as much of it as ``strength`` says."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors it is made of, by field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def numbers(self) -> dict[str, float]:
        """The numbers it is made of, by field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}

    def to(self, like: Tensor) -> Self:
        """The same with floating tensors on the device of ``like``, at least in single precision."""
        wide = torch.promote_types(like.dtype, torch.float32)
        moved = {
            name: value.to(like.device, wide if value.is_floating_point() else None)
            for name, value in self.tensors().items()
        }
        return type(self)(**moved, **self.numbers())


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.norm()


def _check_finite(operation: Operation) -> None:
    bad = [name for name, value in operation.tensors().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise SteeringError(f"{operation.kind} got NaN or infinite entries in its {', '.join(bad)}.")


def _check_vector(kind: str, vector: Tensor) -> None:
    if vector.ndim != 1 or not vector.is_floating_point() or not bool(torch.isfinite(vector).all()):
        raise SteeringError(
            f"{kind} takes one finite direction [d]; got {vector.dtype} of shape {list(vector.shape)}"
            f"{'' if torch.isfinite(vector).all() else ' with NaN or infinite entries'}."
        )
    if not bool(vector.any()):
        raise SteeringError(f"{kind} got a direction that is zero; it would change nothing.")


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """``h + strength * vector``."""

    kind: ClassVar[str] = "add"
    vector: Float[Tensor, " d"]

    def __post_init__(self) -> None:
        _check_vector(self.kind, self.vector)

    @property
    def d(self) -> int:
        return len(self.vector)

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        return h + strength * self.vector


@dataclass(frozen=True, eq=False)
class ProjectOut(Operation):
    """Take the span of orthonormal ``directions`` out: ``h - strength * (h V^T) V``. At 2 it is mirrored."""

    kind: ClassVar[str] = "project-out"
    full_strength: ClassVar[float | None] = 1.0
    directions: Float[Tensor, "k d"]

    def __post_init__(self) -> None:
        _check_orthonormal(self.kind, self.directions)

    @classmethod
    def span(cls, directions: Float[Tensor, "*k d"]) -> ProjectOut:
        """Of one direction or several, orthonormalised. Raises :class:`SiteError` for dependent ones."""
        return cls(span_of(directions))

    @property
    def d(self) -> int:
        return self.directions.shape[1]

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        return h - strength * ((h @ self.directions.T) @ self.directions)


@dataclass(frozen=True, eq=False)
class Clamp(Operation):
    """Bring the coordinate along ``direction`` to ``value``: at strength 1 it is ``value`` exactly."""

    kind: ClassVar[str] = "clamp"
    full_strength: ClassVar[float | None] = 1.0
    direction: Float[Tensor, " d"]
    """Any length; the coordinate is along the unit vector."""
    value: float

    def __post_init__(self) -> None:
        _check_vector(self.kind, self.direction)
        if not math.isfinite(self.value):
            raise SteeringError(f"clamp takes a finite value; got {self.value}.")

    @property
    def d(self) -> int:
        return len(self.direction)

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        unit = _unit(self.direction)
        missing = self.value - (h @ unit)[..., None]
        return h + strength * missing * unit


@dataclass(frozen=True, eq=False)
class Rotate(Operation):
    """Turn ``h`` towards ``direction`` by ``strength`` radians and no further, its length kept.

    The turn is in the plane that the two span; a negative strength turns away, up to the opposite direction.
    Where they are parallel there is no such plane, and ``h`` stays.
    """

    kind: ClassVar[str] = "rotate"
    full_strength: ClassVar[float | None] = torch.pi
    direction: Float[Tensor, " d"]

    def __post_init__(self) -> None:
        _check_vector(self.kind, self.direction)

    @property
    def d(self) -> int:
        return len(self.direction)

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        unit = _unit(self.direction)
        along = (h @ unit)[..., None]
        across = h - along * unit
        length, width = h.norm(dim=-1, keepdim=True), across.norm(dim=-1, keepdim=True)
        has_plane = width > 1e-6 * length.clamp(min=1e-30)
        side = across / torch.where(has_plane, width, 1.0)
        angle = torch.atan2(width, along)
        turned = (angle - strength).clamp(0.0, torch.pi)
        new = length * (turned.cos() * unit + turned.sin() * side)
        return torch.where(has_plane, new, h)


@dataclass(frozen=True, eq=False)
class AffineMap(Operation):
    """``h + strength * (weight h + bias - h)``; ``weight`` [d] acts on each entry, [d, d] as a matrix."""

    kind: ClassVar[str] = "affine"
    weight: Float[Tensor, "d *d_in"]
    """A matrix maps ``h`` to ``h @ weight.T``."""
    bias: Float[Tensor, " d"]

    def __post_init__(self) -> None:
        d = len(self.bias)
        if list(self.weight.shape) not in ([d], [d, d]):
            raise SteeringError(
                f"an affine map with a bias of {d} entries takes a weight [{d}] or [{d}, {d}]; got "
                f"{list(self.weight.shape)}."
            )
        _check_finite(self)

    @property
    def d(self) -> int:
        return len(self.bias)

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        mapped = h * self.weight if self.weight.ndim == 1 else h @ self.weight.T
        return h + strength * (mapped + self.bias - h)


@dataclass(frozen=True, eq=False)
class LowRank(Operation):
    """``h + strength * R^T (W h + b - R h)``, with orthonormal rows R: LoReFT (Wu et al. 2024, eq. 2)."""

    kind: ClassVar[str] = "low-rank"
    rotation: Float[Tensor, "r d"]
    """R: orthonormal rows that span the subspace."""
    weight: Float[Tensor, "r d"]
    bias: Float[Tensor, " r"]

    def __post_init__(self) -> None:
        _check_orthonormal(self.kind, self.rotation)
        if self.weight.shape != self.rotation.shape or self.bias.shape != self.rotation.shape[:1]:
            raise SteeringError(
                f"a low-rank map with R {list(self.rotation.shape)} takes W of the same shape and one b a row; got W "
                f"{list(self.weight.shape)} and b {list(self.bias.shape)}."
            )
        _check_finite(self)

    @property
    def d(self) -> int:
        return self.rotation.shape[1]

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        wanted = h @ self.weight.T + self.bias
        return h + strength * ((wanted - h @ self.rotation.T) @ self.rotation)


@dataclass(frozen=True, eq=False)
class SetNeurons(Operation):
    """Bring chosen entries to given values: ``h[i] + strength * (value[i] - h[i])``."""

    kind: ClassVar[str] = "set-neurons"
    full_strength: ClassVar[float | None] = 1.0
    neurons: Int[Tensor, " k"]
    values: Float[Tensor, " k"]
    width: int
    """Entries of the whole activation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", int(self.width))
        n = self.neurons
        if n.ndim != 1 or not len(n) or n.is_floating_point() or self.values.shape != n.shape:
            raise SteeringError(
                f"set-neurons takes neurons [k] and a value for each, at least one; got {list(n.shape)} and "
                f"{list(self.values.shape)}."
            )
        if int(n.min()) < 0 or int(n.max()) >= self.width or len(n.unique()) < len(n):
            raise SteeringError(
                f"neurons must be different numbers in 0..{self.width - 1}; got {n.tolist()[:20]}."
            )
        _check_finite(self)

    @property
    def d(self) -> int:
        return self.width

    def change(self, h: Tensor, strength: Tensor | float) -> Tensor:
        part = h[..., self.neurons]
        new = part + strength * (self.values - part)
        return h.index_copy(-1, self.neurons, new.to(h.dtype))


OPERATIONS: Mapping[str, type[Operation]] = {
    one.kind: one for one in (Add, ProjectOut, Clamp, Rotate, AffineMap, LowRank, SetNeurons)
}


def make_operation(kind: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Operation:
    """An operation from its kind, as files hold it. Raises :class:`SteeringError` for an unknown kind or fields."""
    if kind not in OPERATIONS:
        raise SteeringError(unknown_name("operation", kind, OPERATIONS))
    found = OPERATIONS[kind]
    expected = {field.name for field in fields(found)}
    if expected != {*tensors, *numbers}:
        raise SteeringError(
            f"operation {kind!r} has the fields {sorted(expected)}; got {sorted([*tensors, *numbers])}."
        )
    return found(**tensors, **numbers)


def span_of(directions: Float[Tensor, "*k d"]) -> Float[Tensor, "k d"]:
    """Orthonormal rows that span ``directions``. Raises :class:`SiteError` for zero or dependent ones."""
    from interp.types import Site

    basis = Site("resid_pre").within(directions).subspace
    assert basis is not None
    return basis


def _check_orthonormal(kind: str, rows: Tensor) -> None:
    if rows.ndim != 2 or not rows.numel():
        raise SteeringError(f"{kind} takes directions [k, d]; got shape {list(rows.shape)}.")
    gram = rows.detach().double() @ rows.detach().double().T
    off = float((gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).abs().max())
    if not off <= _ORTHONORMAL:
        raise SteeringError(
            f"{kind} takes orthonormal directions (off by at most {_ORTHONORMAL}); these are off by {off:.2g}. "
            "Orthonormalise them first: interp.steering.operations.span_of(directions)."
        )
