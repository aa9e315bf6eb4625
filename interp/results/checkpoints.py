"""How the heads of one model come to be over its training checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.graph import Graph
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COURSES = ("appears", "strengthens", "steady", "weakens", "vanishes", "absent")
EFFECT = "effect"
"""The score that is a head's effect on the metric; all others are roles."""


@dataclass(frozen=True, eq=False)
class HeadDevelopment(Record):
    """Scores of every head at every checkpoint, and what becomes of each head.

    A head *gains* a score at the first checkpoint where its size is at least that score's threshold ``t``, and
    *loses* it where the size falls below ``t / 2`` again, so that one that stays near the threshold does not come
    and go. From the first to the last checkpoint it

    - ``appears``: has it at the last, not at the first;
    - ``vanishes``: not at the last, but at one before;
    - ``strengthens`` or ``weakens``: has it at both, and its size rose or fell by at least ``t``;
    - stays ``steady``: has it at both, and its size changed by less;
    - is ``absent``: never has it.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "steps": ("checkpoint",),
        "clean": ("checkpoint",),
        "corrupted": ("checkpoint",),
        "accuracy": ("checkpoint",),
        "errors": ("checkpoint", "layer", "head"),
        "edges": ("checkpoint", "edge"),
    }

    steps: Int[Tensor, "checkpoint"]
    """Training steps, rising."""
    clean: Float[Tensor, "checkpoint"]
    """The metric of the clean run, averaged over prompts, in its own units; ``corrupted`` likewise."""
    corrupted: Float[Tensor, "checkpoint"]
    accuracy: Float[Tensor, "checkpoint"]
    """Share of clean prompts whose answer has the highest logit of all tokens."""
    scores: dict[str, Float[Tensor, "checkpoint layer head"]]
    """``effect``: the metric lost when corrupted values replace the head's output, as a share of ``gap``; roles: mean
    attention weights (:func:`interp.score_heads`)."""
    errors: Float[Tensor, "checkpoint layer head"]
    """Standard error of the effects over prompts."""
    thresholds: dict[str, float]
    """Of every score."""
    gap: float
    """What effects are shares of: the largest gap between the clean and the corrupted metric at any checkpoint, in
    the metric's units. At each its own would make much of small effects before the task is learned."""
    provenance: Provenance
    roles: dict[str, str] = field(default_factory=dict)
    """What each role measures."""
    graph: Graph | None = None
    edges: Float[Tensor, "checkpoint edge"] | None = None
    """Effects of edges as shares of ``gap``, where they were asked for."""

    def __post_init__(self) -> None:
        n = len(self.steps)
        if n < 2 or bool((self.steps.diff() <= 0).any()):
            raise RecordError(f"HeadDevelopment needs at least two rising steps; got {self.steps.tolist()}.")
        if EFFECT not in self.scores or set(self.scores) != set(self.thresholds):
            raise RecordError(
                f"HeadDevelopment needs the score {EFFECT!r} and a threshold of every score; got scores "
                f"{list(self.scores)} and thresholds {list(self.thresholds)}."
            )
        shapes = {name: tuple(table.shape) for name, table in self.scores.items()}
        if len(set(shapes.values())) > 1 or any(len(s) != 3 or s[0] != n for s in shapes.values()):
            raise RecordError(f"every score must be [checkpoint={n}, layer, head]; got shapes {shapes}.")
        self._check_axes(
            checkpoint=n,
            layer=self.n_layers,
            head=self.n_heads,
            **({} if self.graph is None else {"edge": self.graph.n_edges}),
        )
        if (self.graph is None) != (self.edges is None):
            raise RecordError("HeadDevelopment has edges without their graph, or a graph without edges.")

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.scores[EFFECT].shape[1]

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return self.scores[EFFECT].shape[2]

    @property
    def names(self) -> tuple[str, ...]:
        """``L0H0``, ``L0H1`` ..., in the order of the tables read row by row."""
        return tuple(f"L{layer}H{head}" for layer in range(self.n_layers) for head in range(self.n_heads))

    def table(self, score: str = EFFECT) -> Float[Tensor, "checkpoint head"]:
        """One score, heads in the order of :attr:`names`. Raises :class:`RecordError` for an unknown score."""
        if score not in self.scores:
            raise RecordError(unknown_name("score", score, self.scores))
        return self.scores[score].flatten(1)

    def courses(self, score: str = EFFECT) -> dict[str, str]:
        """What becomes of each head, by the rule of this class. Raises :class:`RecordError` for an unknown score."""
        sizes, limit = self.table(score).abs(), self.thresholds[score]
        return {name: _course(sizes[:, i], limit) for i, name in enumerate(self.names)}

    def first_steps(self, score: str = EFFECT) -> dict[str, int | None]:
        """The first step at which each head gains the score; ``None`` for one that never does.

        Raises :class:`RecordError` for an unknown score.
        """
        has = self.table(score).abs() >= self.thresholds[score]
        return {
            name: int(self.steps[has[:, i].int().argmax()]) if bool(has[:, i].any()) else None
            for i, name in enumerate(self.names)
        }

    def agreement_with_last(self, score: str = EFFECT) -> Float[Tensor, "checkpoint"]:
        """Spearman rank correlation of the sizes at each checkpoint with those at the last one, over heads.

        NaN where all heads are alike. ``"edges"`` correlates edges, where they were scored. Raises
        :class:`RecordError` for an unknown score.
        """
        table = self.edges if score == "edges" and self.edges is not None else self.table(score)
        return torch.tensor([_spearman(row.abs(), table[-1].abs()) for row in table])

    def to_frame(self) -> pd.DataFrame:
        """One row a checkpoint and head: step, head, every score, the standard error of the effect."""
        import pandas as pd

        n = len(self.steps)
        return pd.DataFrame(
            {
                "step": self.steps.repeat_interleave(len(self.names)).tolist(),
                "head": [*self.names] * n,
                **{name: table.flatten().tolist() for name, table in self.scores.items()},
                "effect_error": self.errors.flatten().tolist(),
            }
        )

    def heads_frame(self, score: str = EFFECT) -> pd.DataFrame:
        """One row a head: its course, the first step at which it has the score, the score at first and last.

        Raises :class:`RecordError` for an unknown score.
        """
        import pandas as pd

        table, courses, first = self.table(score), self.courses(score), self.first_steps(score)
        return pd.DataFrame(
            {
                "head": self.names,
                "course": list(courses.values()),
                "first_step": pd.array(list(first.values()), dtype="Int64"),
                "at_first": table[0].tolist(),
                "at_last": table[-1].tolist(),
            }
        )

    def steps_frame(self) -> pd.DataFrame:
        """One row a checkpoint: step, metric of both runs, accuracy, agreement with the last by every score."""
        import pandas as pd

        scores = [*self.scores, *(["edges"] if self.edges is not None else [])]
        return pd.DataFrame(
            {
                "step": self.steps.tolist(),
                "clean": self.clean.tolist(),
                "corrupted": self.corrupted.tolist(),
                "accuracy": self.accuracy.tolist(),
                **{f"agreement of {name}": self.agreement_with_last(name).tolist() for name in scores},
            }
        )

    def plot(self) -> go.Figure:
        """Heads and the metric over training steps (``interp.plots.plot_head_development``)."""
        return draw("plot_head_development", self)


def _course(sizes: Float[Tensor, "checkpoint"], limit: float) -> str:
    has: list[bool] = []
    for size in sizes.tolist():
        has.append(size >= (limit / 2 if has and has[-1] else limit))
    change = float(sizes[-1] - sizes[0])
    if not any(has):
        return "absent"
    if not has[-1]:
        return "vanishes"
    if not has[0]:
        return "appears"
    if abs(change) < limit:
        return "steady"
    return "strengthens" if change > 0 else "weakens"


def _spearman(one: Tensor, other: Tensor) -> float:
    from scipy.stats import rankdata

    ranks = [rankdata(x.detach().cpu().double().numpy()) for x in (one, other)]
    if any(np.ptp(x) == 0 for x in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
