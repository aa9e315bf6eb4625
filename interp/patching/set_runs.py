"""Running sets of members, and the record of what came of it."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.patching.members import Members
from interp.patching.prepared import Prepared
from interp.results import SetScores

_RUNS_AT_ONCE = 1 << 22
"""(set, prompt) pairs planned together: a plan holds some dozens of bytes for each."""


class SetRuns:
    """Scores sets of members, and keeps what has to be said about how."""

    def __init__(self, prepared: Prepared, members: Members, memory_budget: int, progress: bool) -> None:
        self.prepared = prepared
        self.members = members
        self._memory_budget = memory_budget
        self._progress = progress
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Put a remark into the provenance, once."""
        if text not in self._notes:
            self._notes.append(text)

    def score(self, sets: Int[Tensor, "set size"]) -> Float[Tensor, "set prompt"]:
        """The metric of every prompt with each set patched."""
        found = []
        cells = self.members.cells
        for rows in sets.split(max(1, _RUNS_AT_ONCE // len(self.prepared.task))):
            groups = [tuple(cells[i] for i in row if i >= 0) for row in rows.tolist()]
            found.append(self.prepared.scores(groups, self._memory_budget, self._progress).cpu())
        return torch.cat(found)

    @cached_property
    def singles(self) -> Float[Tensor, "member prompt"]:
        """The metric of every prompt with each member patched alone."""
        return self.score(torch.arange(len(self.members))[:, None])

    def strength(self, scores: Float[Tensor, "set prompt"]) -> Float[Tensor, " set"]:
        """How far each mean metric is from the unpatched run's: the effect's magnitude, not normalised."""
        prepared = self.prepared
        base = prepared.corrupted if prepared.direction == "denoise" else prepared.clean
        return (scores.mean(1) - base).abs().nan_to_num(nan=-1.0)

    def strongest(self, scores: Float[Tensor, "set prompt"]) -> int:
        """The set of the largest effect in magnitude."""
        return int(self.strength(scores).argmax())

    def keep_strongest(self, n: int) -> None:
        """Drop all members but the ``n`` with the largest effect alone."""
        singles = self.singles
        kept = sorted(self.strength(singles).argsort(descending=True, stable=True)[:n].tolist())
        self.members = self.members.take(kept)
        self.singles = singles[kept]

    def record(
        self,
        sets: Int[Tensor, "set size"],
        scores: Float[Tensor, "set prompt"],
        path: list[int] | None = None,
    ) -> SetScores:
        """What was found, with its provenance."""
        singles = self.singles
        return SetScores(
            members=self.members.names,
            sets=sets,
            raw=scores.mean(1),
            single_raw=singles.mean(1),
            clean=self.prepared.clean,
            corrupted=self.prepared.corrupted,
            provenance=self.prepared.provenance("exact", tuple(self._notes)),
            per_prompt=scores,
            path=None if path is None else torch.tensor(path),
        )
