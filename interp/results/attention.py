"""Where heads look, and which part each of them plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Record):
    """Attention weights of one prompt, padding left out: row ``dest_pos`` sums to 1 over ``src_pos``.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"patterns": ("layer", "head", "dest_pos", "src_pos")}

    patterns: Float[Tensor, "layer head dest_pos src_pos"]
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    """The model's layer of each entry of the layer axis."""
    provenance: Provenance
    prompt: int = 0
    """Which prompt of the task or batch this is."""

    def __post_init__(self) -> None:
        n = len(self.tokens)
        self._check_axes(layer=len(self.layers), dest_pos=n, src_pos=n)
        if self.patterns.numel() == 0:
            raise RecordError(f"no attention patterns were given: shape {list(self.patterns.shape)}.")

    def at(self, layer: int, head: int) -> Float[Tensor, "dest_pos src_pos"]:
        """The pattern of one head. Raises :class:`RecordError` for a layer or head that is not here."""
        n_heads = self.patterns.shape[1]
        if layer not in self.layers or not 0 <= head < n_heads:
            raise RecordError(
                f"no pattern of L{layer}H{head} here; there are layers {list(self.layers)} and heads 0 to "
                f"{n_heads - 1}."
            )
        return self.patterns[self.layers.index(layer), head]

    def plot(self, layer: int | None = None, head: int | None = None) -> go.Figure:
        """All heads as thumbnails, one of them enlarged (``interp.plots.plot_attention``)."""
        return draw("plot_attention", self, layer=layer, head=head)


@dataclass(frozen=True)
class HeadRole:
    """What a head score measures."""

    definition: str
    """One sentence a reader can check: what is averaged over what."""
    units: str
    """E.g. ``"mean attention weight"``, ``"logit difference"``."""
    signed: bool = False
    """Whether the score can be negative by its nature."""


@dataclass(frozen=True)
class RankedHead:
    """One row of :meth:`HeadScores.top`."""

    name: str
    layer: int
    head: int
    value: float


@dataclass(frozen=True, eq=False)
class HeadScores(Record):
    """How strongly every head plays each role (previous token, induction, name mover ...).

    Raises :class:`RecordError` when the fields do not agree.
    """

    values: dict[str, Float[Tensor, "layer head"]]
    """One table a role, in that role's units."""
    roles: dict[str, HeadRole]
    layers: tuple[int, ...]
    """The model's layer of each entry of the layer axis."""
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.values or set(self.values) != set(self.roles):
            raise RecordError(
                f"HeadScores needs values and a definition of at least one role; got values of "
                f"{sorted(self.values)} and definitions of {sorted(self.roles)}."
            )
        shapes = {role: tuple(table.shape) for role, table in self.values.items()}
        if len(set(shapes.values())) > 1 or any(
            len(s) != 2 or s[0] != len(self.layers) for s in shapes.values()
        ):
            raise RecordError(
                f"every role needs scores [layer={len(self.layers)}, head]; got shapes {shapes}."
            )

    def __getitem__(self, role: str) -> Float[Tensor, "layer head"]:
        if role not in self.values:
            raise RecordError(unknown_name("head role", role, self.values))
        return self.values[role]

    def top(self, role: str, k: int = 10) -> list[RankedHead]:
        """The ``k`` heads that score highest at ``role``, by magnitude for a signed role; NaN last."""
        table = self[role]
        order = table.abs() if self.roles[role].signed else table
        order = torch.where(order.isnan(), -torch.inf, order).flatten()
        found = []
        for flat in order.argsort(descending=True, stable=True)[:k].tolist():
            row, head = divmod(flat, table.shape[1])
            layer = self.layers[row]
            found.append(RankedHead(f"L{layer}H{head}", layer, head, float(table[row, head])))
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row a head, one column a role."""
        import pandas as pd

        n_heads = next(iter(self.values.values())).shape[1]
        heads = [(layer, head) for layer in self.layers for head in range(n_heads)]
        columns = {role: table.flatten().tolist() for role, table in self.values.items()}
        return pd.DataFrame(
            {
                "name": [f"L{layer}H{head}" for layer, head in heads],
                "layer": [layer for layer, _ in heads],
                "head": [head for _, head in heads],
                **columns,
            }
        )

    def plot(self, role: str | None = None) -> go.Figure:
        """Layer x head, one facet a role (``interp.plots.plot_head_scores``)."""
        return draw("plot_head_scores", self, role=role)
