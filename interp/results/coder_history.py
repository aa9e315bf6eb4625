"""How the training of sparse coders went, and how coders trade sparsity for fidelity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PART = "loss:"
"""Curves of the parts of a loss begin so: ``loss:reconstruction``, ``loss:auxk``."""


@dataclass(frozen=True, eq=False)
class CoderHistory(Record):
    """Figures of one or several coders, trained on the same activations, over the tokens seen.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"tokens": ("row",)}

    tokens: Int[Tensor, " row"]
    """Tokens seen when a row was written, rising."""
    names: tuple[str, ...]
    """Of the coders."""
    curves: dict[str, Float[Tensor, "row coder"]]
    """``loss`` and its parts (``loss:auxk``), ``l0``, ``fvu``, ``dead_frac``, ``learning_rate``, ``tokens_per_second``,
    ``k``, ``sparsity_coefficient`` and whatever else was measured; NaN where one was not."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        n = len(self.tokens)
        if bool((self.tokens.diff() <= 0).any()):
            raise RecordError("the rows of a CoderHistory must be at rising numbers of tokens.")
        if not self.names or len(set(self.names)) < len(self.names):
            raise RecordError(f"CoderHistory needs a different name for every coder; got {self.names}.")
        wanted = (n, len(self.names))
        wrong = {name: tuple(c.shape) for name, c in self.curves.items() if tuple(c.shape) != wanted}
        if wrong:
            raise RecordError(f"every curve must be [row={n}, coder={len(self.names)}]; got {wrong}.")

    def __len__(self) -> int:
        return len(self.tokens)

    def curve(self, measure: str, coder: str | None = None) -> Float[Tensor, " row"]:
        """One measure of one coder; ``coder`` may be left out where there is one.

        Raises :class:`RecordError` for an unknown measure or coder.
        """
        if measure not in self.curves:
            raise RecordError(unknown_name("measure", measure, self.curves))
        if coder is None and len(self.names) > 1:
            raise RecordError(f"several coders were trained; name one of {', '.join(self.names)}.")
        coder = self.names[0] if coder is None else coder
        if coder not in self.names:
            raise RecordError(unknown_name("coder", coder, self.names))
        return self.curves[measure][:, self.names.index(coder)]

    def last(self, coder: str | None = None) -> dict[str, float]:
        """The last value of every measure that the coder has.

        Raises :class:`RecordError` for an unknown coder.
        """
        found = {name: self.curve(name, coder) for name in self.curves}
        measured = {name: curve[curve.isfinite()] for name, curve in found.items()}
        return {name: float(curve[-1]) for name, curve in measured.items() if len(curve)}

    def to_frame(self) -> pd.DataFrame:
        """One row a coder and row: coder, tokens, every measure."""
        import pandas as pd

        frames = [
            pd.DataFrame(
                {
                    "coder": coder,
                    "tokens": self.tokens.tolist(),
                    **{name: curve[:, i].tolist() for name, curve in self.curves.items()},
                }
            )
            for i, coder in enumerate(self.names)
        ]
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> str:
        """One line a coder: the last figures."""
        if not len(self):
            return f"{', '.join(self.names)}: nothing measured yet"
        shown = ("loss", "l0", "fvu", "dead_frac")
        lines = []
        for coder in self.names:
            last = self.last(coder)
            figures = ", ".join(f"{name} {last[name]:.4g}" for name in shown if name in last)
            lines.append(f"{coder}: {int(self.tokens[-1]):,} tokens, {figures}")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Curves over tokens (``interp.plots.plot_coder_history``)."""
        return draw("plot_coder_history", self)


class CoderLog:
    """Rows of a training run as they come; :meth:`record` makes the record of what there is so far.

    ::

        log = CoderLog(["k 32", "k 64"])
        log.append(4096, {"k 32": {"loss": 1.2, "l0": 32.0}, "k 64": {"loss": 1.0, "l0": 64.0}})
        history = log.record(Provenance("gpt2"))
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names or len(set(names)) < len(names):
            raise RecordError(f"a log needs a different name for every coder; got {list(names)}.")
        self.names = tuple(names)
        self._tokens: list[int] = []
        self._rows: list[dict[str, dict[str, float]]] = []

    @classmethod
    def resume(cls, history: CoderHistory, tokens: int | None = None) -> CoderLog:
        """Go on where ``history`` ends, or at ``tokens``: rows after it are left out."""
        log = cls(history.names)
        for row, seen in enumerate(history.tokens.tolist()):
            if tokens is None or seen <= tokens:
                values = {
                    coder: {name: float(curve[row, i]) for name, curve in history.curves.items()}
                    for i, coder in enumerate(history.names)
                }
                log.append(seen, values)
        return log

    def __len__(self) -> int:
        return len(self._tokens)

    def append(self, tokens: int, row: Mapping[str, Mapping[str, float]]) -> None:
        """Figures of every coder after ``tokens`` tokens, by coder and measure.

        A measure that one row has and another lacks is NaN there. Raises :class:`RecordError` for other coders
        than the log's, and for tokens that did not rise.
        """
        if set(row) != set(self.names):
            raise RecordError(f"a row must have figures of {list(self.names)}; got {list(row)}.")
        if self._tokens and tokens <= self._tokens[-1]:
            raise RecordError(f"tokens must rise from row to row; got {tokens} after {self._tokens[-1]}.")
        self._tokens.append(int(tokens))
        self._rows.append({coder: {k: float(v) for k, v in row[coder].items()} for coder in self.names})

    def record(self, provenance: Provenance) -> CoderHistory:
        """What was appended so far, as a record."""
        measures = dict.fromkeys(m for row in self._rows for figures in row.values() for m in figures)
        curves = {
            measure: torch.tensor(
                [[row[coder].get(measure, math.nan) for coder in self.names] for row in self._rows],
                dtype=torch.float64,
            )
            for measure in measures
        }
        return CoderHistory(torch.tensor(self._tokens, dtype=torch.long), self.names, curves, provenance)


@dataclass(frozen=True, eq=False)
class CoderPareto(Record):
    """Sparsity against fidelity: a point a trained coder. Raises :class:`RecordError` when fields do not agree."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "seeds": ("point",),
        "l0": ("point",),
        "fvu": ("point",),
        "ce_recovered": ("point",),
    }

    names: tuple[str, ...]
    """Of the points; coders that differ in nothing but the seed share one (``topk k=32``)."""
    architectures: tuple[str, ...]
    seeds: Int[Tensor, " point"]
    l0: Float[Tensor, " point"]
    """Mean number of latents that fire on a token."""
    fvu: Float[Tensor, " point"]
    """Fraction of variance unexplained: 0 is perfect, 1 as good as the mean."""
    ce_recovered: Float[Tensor, " point"]
    """Share of the loss gap between ablated and clean that the coder wins back: 1 is all; NaN where not measured."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(point=len(self.names))
        if not self.names or len(self.architectures) != len(self.names):
            raise RecordError(
                f"CoderPareto has {len(self.names)} names and {len(self.architectures)} architectures; "
                "expected one of each a point, and at least one point."
            )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, object]], provenance: Provenance) -> CoderPareto:
        """From dicts with the keys ``name, architecture, seed, l0, fvu`` and, where measured, ``ce_recovered``."""
        listed = list(rows)

        def column(key: str) -> Tensor:
            return torch.tensor([float(row.get(key, math.nan)) for row in listed], dtype=torch.float64)  # type: ignore[arg-type]

        return cls(
            tuple(str(row["name"]) for row in listed),
            tuple(str(row["architecture"]) for row in listed),
            torch.tensor([int(row["seed"]) for row in listed], dtype=torch.long),  # type: ignore[call-overload]
            column("l0"),
            column("fvu"),
            column("ce_recovered"),
            provenance,
        )

    def __len__(self) -> int:
        return len(self.names)

    def front(self, measure: str = "fvu") -> Bool[Tensor, " point"]:
        """Points that no other beats: none has at most their L0 and is better in ``measure``, or as good with less L0.

        ``measure`` is ``fvu`` (less is better) or ``ce_recovered``. Raises :class:`RecordError` for another.
        """
        if measure not in ("fvu", "ce_recovered"):
            raise RecordError(unknown_name("measure", measure, ("fvu", "ce_recovered")))
        cost = self.fvu if measure == "fvu" else -self.ce_recovered
        less, lower = self.l0[None] <= self.l0[:, None], cost[None] <= cost[:, None]
        strict = (self.l0[None] < self.l0[:, None]) | (cost[None] < cost[:, None])
        return ~(less & lower & strict).any(1) & cost.isfinite()

    def to_frame(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        return pd.DataFrame(
            {
                "name": self.names,
                "architecture": self.architectures,
                "seed": self.seeds.tolist(),
                "l0": self.l0.tolist(),
                "fvu": self.fvu.tolist(),
                "ce_recovered": self.ce_recovered.tolist(),
            }
        )

    def plot(self) -> go.Figure:
        """L0 against FVU and CE recovered (``interp.plots.plot_coder_pareto``)."""
        return draw("plot_coder_pareto", self)
