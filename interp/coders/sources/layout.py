"""What a source of activations is: its layout, and how rows are asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from interp.coders.batch import CoderBatch
from interp.errors import CoderError

ChunkT = TypeVar("ChunkT")
ChunkT_co = TypeVar("ChunkT_co", covariant=True)


@dataclass(frozen=True)
class SourceLayout:
    """Sizes and origin of the rows of a source. Raises :class:`CoderError` for sizes that cannot be."""

    d_in: int
    d_out: int
    n_inputs: int = 0
    """0: ``x`` is [row, d_in]; n: it is [row, n, d_in]."""
    n_outputs: int = 0
    """The same of ``target`` and ``d_out``."""
    sites: tuple[str, ...] = ()
    """Where ``x`` is read, as ``"mlp_out[2]"``; empty where it is not known."""
    target_sites: tuple[str, ...] = ()
    has_grad: bool = False
    model: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: the model's revision, the data, and every option that changes a row."""

    def __post_init__(self) -> None:
        if min(self.d_in, self.d_out) < 1 or min(self.n_inputs, self.n_outputs) < 0:
            raise CoderError(f"the sizes of a source must be positive; got {self.describe()}.")
        for names, n in ((self.sites, self.n_inputs), (self.target_sites, self.n_outputs)):
            if names and len(names) != max(n, 1):
                raise CoderError(f"{len(names)} sites {list(names)} do not fit {self.describe()}.")

    @property
    def is_reconstruction(self) -> bool:
        """Whether the target is the input itself, as far as the sites tell."""
        return (self.sites, self.d_in, self.n_inputs) == (self.target_sites, self.d_out, self.n_outputs)

    def describe(self) -> str:
        """One line: sites and sizes of input and target."""
        x = _describe_side(self.sites, self.n_inputs, self.d_in)
        y = _describe_side(self.target_sites, self.n_outputs, self.d_out)
        return (x if x == y else f"{x} -> {y}") + (" with gradients" if self.has_grad else "")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self) | {"sites": list(self.sites), "target_sites": list(self.target_sites)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote. Raises :class:`CoderError` for unknown or missing fields."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise CoderError(f"unknown fields {unknown} of a source's layout.")
        try:
            sites = {name: tuple(data[name]) for name in ("sites", "target_sites")}
            return cls(**{**data, **sites})
        except (KeyError, TypeError) as error:
            raise CoderError(f"the layout of a source is incomplete: {error}.") from error


def _describe_side(sites: tuple[str, ...], n: int, d: int) -> str:
    return (", ".join(sites) + " " if sites else "") + (f"[row, {n}, {d}]" if n else f"[row, {d}]")


def list_differences(there: Any, here: Any, path: str = "") -> str:
    """What differs between two JSON-ready values: ``"dtype: 'fp16' there, 'fp32' here"``, joined by ``;``."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = list(dict.fromkeys([*there, *here]))
        parts = (list_differences(there.get(key), here.get(key), f"{path}.{key}".strip(".")) for key in keys)
        return "; ".join(part for part in parts if part)
    return "" if there == here else f"{path}: {there!r} there, {here!r} here"


class ChunkSource(Protocol[ChunkT_co]):
    """Rows in the order of the data, a chunk at a time, from any place that was passed.

    A source that knows its length has ``n_rows``, the rows of one epoch: training then knows its steps.
    """

    def next_chunk(self) -> ChunkT_co | None:
        """The next rows in data order; ``None`` at the end."""

    def state(self) -> dict[str, Any]:
        """Where the source stands: JSON-ready values, and tensors."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where :meth:`state` was taken: further rows are equal to the bit.

        Raises :class:`CoderError` for the state of another source, or where the data has changed.
        """

    def restart(self) -> None:
        """Stand before the first row again. Raises :class:`CoderError` where that cannot be."""


@runtime_checkable
class ActivationSource(ChunkSource[CoderBatch], Protocol):
    """A source of the rows of one coder."""

    @property
    def layout(self) -> SourceLayout:
        """What its rows are."""


@runtime_checkable
class JointSource(ChunkSource[dict[str, CoderBatch]], Protocol):
    """A source of the rows of several coders at once, by name: the same tokens in the same order."""

    @property
    def layouts(self) -> Mapping[str, SourceLayout]:
        """What each coder's rows are."""
