"""Scores of sets of places patched together, beside each place alone."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class RankedSet:
    """One row of :meth:`SetScores.top`."""

    name: str
    """``L1H0 + L2H3``."""
    members: tuple[str, ...]
    value: float
    """Recovered score: 0 = corrupted, 1 = clean."""
    effect: float
    """How far the score is from having done nothing."""
    interaction: float
    """The effect, less the sum of the members' effects alone."""
    raw: float


@dataclass(frozen=True, eq=False)
class SetScores(Record):
    """What the metric becomes with several places patched together, and with each of them alone.

    ``raw`` is averaged over prompts, in the metric's own units. Raises :class:`RecordError` when the
    fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sets": ("set", "size"),
        "raw": ("set",),
        "single_raw": ("member",),
        "per_prompt": ("set", "prompt"),
        "path": ("step",),
    }

    members: tuple[str, ...]
    """A person's name for each place, none twice: ``"L1H0"``, ``"resid_pre L2 @ END"``."""
    sets: Int[Tensor, "set size"]
    """Indices into ``members``; smaller sets are padded with -1 at their end."""
    raw: Float[Tensor, " set"]
    """The metric with all members of a set patched."""
    single_raw: Float[Tensor, " member"]
    """The metric with one member patched."""
    clean: float
    """The metric of the clean run, averaged over prompts; ``corrupted`` likewise."""
    corrupted: float
    provenance: Provenance
    per_prompt: Float[Tensor, "set prompt"] | None = None
    path: Int[Tensor, " step"] | None = None
    """Indices of the sets that a greedy search went through, each with one member more."""

    def __post_init__(self) -> None:
        self._check_axes(member=len(self.members))
        if len(set(self.members)) < len(self.members):
            raise RecordError(f"SetScores.members must all be different; got {self.members}.")
        n, here = len(self.members), self._present
        ordered = self.sets.sort(dim=1).values
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
        gaps = (here[:, 1:] & ~here[:, :-1]).any(1) | ~here.any(1)
        outside = ((self.sets < -1) | (self.sets >= n)).any(1)
        if len(self.sets) == 0 or bool((twice | gaps | outside).any()):
            bad = self.sets[twice | gaps | outside][:1].tolist()
            raise RecordError(
                f"SetScores.sets must be one set or more, each of different indices below {n}, with -1 only at "
                f"its end; got {bad[0] if bad else 'none'}."
            )
        if self.path is not None and not bool(((self.path >= 0) & (self.path < len(self.sets))).all()):
            raise RecordError(
                f"SetScores.path must be indices of its {len(self.sets)} sets; got {self.path.tolist()}."
            )

    @property
    def _present(self) -> Bool[Tensor, "set size"]:
        return self.sets >= 0

    @property
    def direction(self) -> str:
        """``denoise`` or ``noise``."""
        return self.provenance.direction or "denoise"

    @property
    def sizes(self) -> Int[Tensor, " set"]:
        """How many members each set has."""
        return self._present.sum(1)

    @property
    def values(self) -> Float[Tensor, " set"]:
        """Recovered score of each set: 0 = corrupted, 1 = clean. NaN when both baselines are equal."""
        return self._recovered(self.raw)

    @property
    def single_values(self) -> Float[Tensor, " member"]:
        """Recovered score of each member alone."""
        return self._recovered(self.single_raw)

    @property
    def effects(self) -> Float[Tensor, " set"]:
        """How far each set is from having done nothing: ``value``, for noising ``value - 1``."""
        return self.values - self.nothing

    @property
    def single_effects(self) -> Float[Tensor, " member"]:
        """The same of each member alone."""
        return self.single_values - self.nothing

    @property
    def nothing(self) -> float:
        """The recovered score of patching nothing: 0 for denoising, 1 for noising."""
        return 1.0 if self.direction == "noise" else 0.0

    @property
    def additive(self) -> Float[Tensor, " set"]:
        """The effect that each set would have if its members did not interact: the sum of theirs alone."""
        alone = self.single_effects[self.sets.clamp(min=0)]
        return torch.where(self._present, alone, 0.0).sum(1)

    @property
    def interaction(self) -> Float[Tensor, " set"]:
        """The effect less :attr:`additive`: 0 where effects add up, positive above their sum.

        Noised, effects run from 0 down to -1: two members that stand in for each other lose more
        together than their sum, so their interaction is negative.
        """
        return self.effects - self.additive

    def _recovered(self, raw: Tensor) -> Tensor:
        gap = self.clean - self.corrupted
        return (raw - self.corrupted) / gap if gap else torch.full_like(raw, float("nan"))

    def name_at(self, index: int) -> str:
        """A person's name for one set: ``L1H0 + L2H3``."""
        return " + ".join(self.members_at(index))

    def members_at(self, index: int) -> tuple[str, ...]:
        """Names of the members of one set."""
        return tuple(self.members[i] for i in self.sets[index].tolist() if i >= 0)

    def matrix(self, kind: str = "interaction") -> Float[Tensor, "member member"]:
        """Pairs as a symmetric table, NaN where a pair was not patched.

        ``kind="value"`` has the recovered scores, of single members on the diagonal;
        ``"interaction"`` has NaN there. Raises :class:`RecordError` for another ``kind``, or when the
        sets are not pairs.
        """
        if kind not in ("interaction", "value"):
            raise RecordError(unknown_name("kind of matrix", kind, ("interaction", "value")))
        pairs = self.sizes == 2
        if not bool(pairs.any()) or bool((self.sizes > 2).any()):
            raise RecordError(
                f"a matrix has pairs; these sets have {sorted(set(self.sizes.tolist()))} members. "
                "Use top() or to_frame()."
            )
        table = torch.full((len(self.members),) * 2, float("nan"))
        if kind == "value":
            table.diagonal().copy_(self.single_values)
        first, second = self.sets[pairs, :2].T
        found = self.values if kind == "value" else self.interaction
        table[first, second] = table[second, first] = found[pairs].to(table)
        return table

    def top(self, k: int = 10, by: str = "effect") -> list[RankedSet]:
        """The ``k`` sets of the largest effect or interaction in magnitude.

        NaN comes last; ties keep the order of the sets. Raises :class:`RecordError` for another ``by``.
        """
        values, effects, interaction = self.values, self.effects, self.interaction
        ranked = {"effect": effects, "interaction": interaction}
        if by not in ranked:
            raise RecordError(unknown_name("order of sets", by, ranked))
        magnitude = ranked[by].abs().nan_to_num(nan=-1.0)
        return [
            RankedSet(
                self.name_at(i),
                self.members_at(i),
                float(values[i]),
                float(effects[i]),
                float(interaction[i]),
                float(self.raw[i]),
            )
            for i in magnitude.argsort(descending=True, stable=True)[:k].tolist()
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row a set: name, size, value, effect, additive, interaction, raw; the step of a greedy path."""
        import pandas as pd

        columns = {
            "name": [" + ".join(self.members[i] for i in row if i >= 0) for row in self.sets.tolist()],
            "size": self.sizes.tolist(),
            "value": self.values.tolist(),
            "effect": self.effects.tolist(),
            "additive": self.additive.tolist(),
            "interaction": self.interaction.tolist(),
            "raw": self.raw.tolist(),
        }
        frame = pd.DataFrame(columns)
        if self.path is not None:
            steps = {index: step for step, index in enumerate(self.path.tolist(), start=1)}
            frame["step"] = pd.array([steps.get(i) for i in range(len(frame))], dtype="Int64")
        return frame

    def plot(self) -> go.Figure:
        """Interactions of pairs, strongest sets or a greedy path (``interp.plots.plot_sets``)."""
        return draw("plot_sets", self)
