"""What a coder is: a frozen description that refuses options it does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar, get_args

from interp.coders.choices import Activation, Architecture
from interp.errors import CoderError, suggest_names, unknown_name

T = TypeVar("T")

_PARTS = ("transcoder", "skip-transcoder", "cross-layer-transcoder", "crosscoder")
_TOP = ("topk", "batch-topk", "matryoshka", "gradient")


@dataclass(frozen=True)
class CoderConfig:
    """Architecture and size of a sparse coder; the same that a TOML file gives.

    Example::

        interp.CoderConfig(architecture="topk", d_sae=4096, k=32)
        interp.CoderConfig(architecture="skip-transcoder", activation="batch-topk", d_sae=4096, k=32)

    Raises :class:`CoderError` for unknown names and for sizes that do not fit each other.
    """

    architecture: Architecture
    """``standard`` (ReLU with L1), ``gated``, ``topk``, ``batch-topk``, ``jumprelu``, ``matryoshka``
    (batch-top-k with nested losses), ``gradient`` (g-SAE), ``discrete``; ``transcoder``, ``skip-transcoder``,
    ``cross-layer-transcoder``, ``crosscoder``."""
    d_sae: int
    """Latents (of each layer, in a cross-layer transcoder)."""
    k: int | None = None
    """Latents that fire in a row (on average, with batch-top-k); needed by the top-k kinds and no other."""
    activation: Activation | None = None
    """How latents are chosen in transcoders and crosscoders: ``topk`` by default; fixed in the others."""
    sparsity: float | None = None
    """Coefficient of the sparsity penalty: L1 (standard, gated, discrete) or L0 (jumprelu), on inputs
    scaled to a mean norm of ``sqrt(d_in)``. By default 0.5 for L1 of a standard coder (see the encoders)."""
    widths: tuple[int, ...] = ()
    """Matryoshka: sizes of the nested coders, rising, the last ``d_sae``; by default ``d_sae`` halved four times."""
    multi_k: bool = False
    """Top-k: a second loss with ``4 k`` latents, weighted 1/8 (Gao et al. 2024, section 4.2)."""
    preselect: int = 4
    """Gradient: latents that are weighed, as a multiple of k, chosen by activation; 0 weighs all."""
    bandwidth: float = 0.5
    """JumpReLU: width of the window in which a threshold gets a gradient, in units of pre-activations."""
    initial_threshold: float = 0.5
    """JumpReLU."""
    unit_decoder: bool = True
    """Keep every decoder row at length 1."""
    tied_start: bool = True
    """Begin with the encoder equal to the decoder, where input and output have one width."""

    def __post_init__(self) -> None:
        if isinstance(self.widths, str) or not all(isinstance(width, int) for width in self.widths):
            raise CoderError(f"widths are integers, such as (64, 256, 1024); got {self.widths!r}.")
        # TOML has lists
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.architecture not in get_args(Architecture):
            raise CoderError(unknown_name("architecture", str(self.architecture), get_args(Architecture)))
        self._check_activation()
        for name in ("d_sae", "preselect"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < (name == "d_sae"):
                raise CoderError(f"{name} must be a positive integer; got {value!r}.")
        self._check_k()
        self._check_numbers()
        self._check_widths()

    def _check_activation(self) -> None:
        if self.activation is None:
            return
        if self.architecture not in _PARTS:
            raise CoderError(
                f"activation is chosen for {', '.join(_PARTS)} only; {self.architecture!r} has its own. "
                f"Got activation={self.activation!r}."
            )
        if self.activation not in get_args(Activation):
            raise CoderError(unknown_name("activation", str(self.activation), get_args(Activation)))

    def _check_k(self) -> None:
        needs = self.firing in _TOP
        if needs and (
            not isinstance(self.k, int) or isinstance(self.k, bool) or not 0 < self.k <= self.d_sae
        ):
            raise CoderError(
                f"a {self.firing} coder fires k latents a row: k must be an integer in 1..{self.d_sae}; "
                f"got {self.k!r}."
            )
        if not needs and self.k is not None:
            raise CoderError(
                f"k belongs to {', '.join(_TOP)}; a {self.firing} coder has none (its sparsity is set by "
                f"sparsity=...). Got k={self.k}."
            )
        if needs and self.sparsity is not None:
            raise CoderError(f"a {self.firing} coder has no sparsity penalty; its k says how sparse it is.")
        if self.multi_k and self.firing != "topk":
            raise CoderError(f"multi_k belongs to topk; got it for {self.firing}.")

    def _check_numbers(self) -> None:
        for name in ("sparsity", "bandwidth", "initial_threshold"):
            value = getattr(self, name)
            if value is None:
                continue
            low = "not negative" if name == "sparsity" else "positive"
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise CoderError(f"{name} must be a number, {low}; got {value!r}.")
            if value == 0 and name != "sparsity":
                raise CoderError(f"{name} must be a number, {low}; got {value!r}.")

    def _check_widths(self) -> None:
        if self.widths and self.architecture != "matryoshka":
            raise CoderError(f"widths belong to matryoshka; got {self.widths} for {self.architecture!r}.")
        rising = all(a < b for a, b in zip(self.widths, self.widths[1:], strict=False))
        if self.widths and (not rising or self.widths[0] < 1 or self.widths[-1] != self.d_sae):
            raise CoderError(f"widths must rise and end at d_sae={self.d_sae}; got {self.widths}.")

    @property
    def firing(self) -> str:
        """The rule by which latents are chosen."""
        if self.architecture in _PARTS:
            return self.activation or "topk"
        return {"discrete": "standard"}.get(self.architecture, self.architecture)

    @property
    def nested_widths(self) -> tuple[int, ...]:
        """``widths``, or their default."""
        if self.widths or self.architecture != "matryoshka":
            return self.widths
        return tuple(sorted({max(1, self.d_sae >> i) for i in range(5)}))

    @property
    def reads_another_site(self) -> bool:
        """Whether it predicts another activation than the one it reads."""
        return self.architecture.endswith("transcoder")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values. Raises :class:`CoderError` for a name that is no option."""
        return read_config(cls, values)


def read_config(kind: type[T], values: Mapping[str, Any]) -> T:
    """A frozen config from plain values. Raises :class:`CoderError` for names that it has not, or lacks."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        near = suggest_names(unknown[0], known) or "."
        raise CoderError(
            f"unknown option {unknown[0]!r} of {kind.__name__}{near} Known: {', '.join(sorted(known))}."
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise CoderError(f"{kind.__name__} cannot be made of {dict(values)}: {error}.") from error
