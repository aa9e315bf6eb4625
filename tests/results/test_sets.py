"""Scores of sets, against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from interp.errors import RecordError
from interp.results import Provenance, SetScores

NAMES = ("L0H0", "L0H1", "mlp_out L0", "L1H0")
SINGLE = torch.tensor([0.5, -0.25, 1.0, 2.0])
"""Effects alone; powers of two, so that sums are exact."""
PAIRS = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def raw_of(effects: Tensor, direction: str) -> Tensor:
    """The metric after patching, with baselines 3 (clean) and -1 (corrupted)."""
    return 4 * (effects + (1.0 if direction == "noise" else 0.0)) - 1


def make(sets=PAIRS, extra=None, direction="denoise", **changes) -> SetScores:
    """Additive sets, but for ``extra``, added to their effects."""
    table = sets if isinstance(sets, Tensor) else torch.tensor(sets)
    effects = torch.tensor([sum(float(SINGLE[i]) for i in row if 0 <= i < 4) for row in table.tolist()])
    if extra is not None:
        effects = effects + torch.tensor(extra)
    known = dict(
        members=NAMES,
        sets=table,
        raw=raw_of(effects, direction),
        single_raw=raw_of(SINGLE, direction),
        clean=3.0,
        corrupted=-1.0,
        provenance=Provenance(model="m", direction=direction),
    )
    return SetScores(**known | changes)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_what_adds_up_has_no_interaction(direction):
    scores = make([[0, 1, -1, -1], [0, 1, 2, 3], [3, -1, -1, -1], [2, 0, 1, -1]], direction=direction)
    assert scores.interaction.tolist() == [0.0] * 4
    assert scores.effects.tolist() == scores.additive.tolist() == [0.25, 3.25, 2.0, 1.25]
    assert scores.single_effects.tolist() == SINGLE.tolist()
    assert scores.sizes.tolist() == [2, 4, 1, 3]
    assert scores.values.tolist() == [v + scores.nothing for v in (0.25, 3.25, 2.0, 1.25)]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_interaction_is_what_is_more_than_the_sum(direction):
    extra = [0.5, 0.0, -1.0, 0.125, 0.0, 4.0]
    assert make(extra=extra, direction=direction).interaction.tolist() == extra


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_matrices_are_symmetric_and_say_what_is_missing(direction):
    scores = make([[1, 0], [2, 3], [3, -1]], extra=[0.5, -1.0, 0.0], direction=direction)
    nothing = scores.nothing
    values, interaction = scores.matrix("value"), scores.matrix()
    for table in (values, interaction):
        assert torch.equal(table.nan_to_num(nan=9.0), table.T.nan_to_num(nan=9.0))
    assert values.diagonal().tolist() == (SINGLE + nothing).tolist()
    assert interaction.diagonal().isnan().all()
    assert (float(values[0, 1]), float(values[2, 3])) == (0.75 + nothing, 2.0 + nothing)
    assert (float(interaction[0, 1]), float(interaction[3, 2])) == (0.5, -1.0)
    assert int(interaction.isnan().sum()) == 16 - 4
    assert int(values.isnan().sum()) == 16 - 8


def test_top_sorts_by_magnitude():
    scores = make(extra=[0.5, 0.0, -6.0, 0.125, 0.0, 4.0])
    by_effect, by_interaction = scores.top(2), scores.top(3, by="interaction")
    assert [row.name for row in by_effect] == ["mlp_out L0 + L1H0", "L0H0 + L1H0"]
    assert [row.effect for row in by_effect] == [7.0, -3.5]
    assert [row.interaction for row in by_interaction] == [-6.0, 4.0, 0.5]
    first = by_interaction[0]
    assert first.members == ("L0H0", "L1H0")
    assert (first.value, first.raw) == (-3.5, -15.0)
    assert len(scores.top(99)) == 6


def test_equal_baselines_give_nan():
    scores = make(clean=1.0, corrupted=1.0)
    assert scores.values.isnan().all() and scores.interaction.isnan().all()
    assert all(math.isnan(row.value) for row in scores.top(2))
    assert [row.name for row in scores.top(2)] == ["L0H0 + L0H1", "L0H0 + mlp_out L0"]


def test_frame_holds_every_set_and_the_path():
    scores = make([[3, -1], [3, 0], [3, 1]], extra=[0.0, 0.5, 0.0], path=torch.tensor([0, 2]))
    frame = scores.to_frame()
    assert frame["name"].tolist() == ["L1H0", "L1H0 + L0H0", "L1H0 + L0H1"]
    assert frame["interaction"].tolist() == [0.0, 0.5, 0.0]
    assert (frame["effect"] - frame["additive"]).tolist() == frame["interaction"].tolist()
    assert frame["step"].isna().tolist() == [False, True, False]
    assert "step" not in make().to_frame()


def test_save_and_load(tmp_path):
    scores = make([[3, -1], [3, 0]], path=torch.tensor([0, 1]), per_prompt=torch.randn(2, 5))
    read = SetScores.load(scores.save(tmp_path / "sets.safetensors"))
    for name in ("sets", "raw", "single_raw", "per_prompt", "path"):
        assert torch.equal(getattr(read, name), getattr(scores, name)), name
    assert (read.members, read.provenance) == (scores.members, scores.provenance)
    plain = SetScores.load(make().save(tmp_path / "plain.safetensors"))
    assert plain.path is None and plain.per_prompt is None
    assert plain.top(9) == make().top(9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": [[0, 4]], "raw": torch.zeros(1)}, r"indices below 4.*\[0, 4\]"),
        ({"sets": [[0, 0]], "raw": torch.zeros(1)}, r"different indices.*\[0, 0\]"),
        ({"sets": [[-1, 0]], "raw": torch.zeros(1)}, r"only at its end.*\[-1, 0\]"),
        ({"sets": [[-1, -1]], "raw": torch.zeros(1)}, r"one set or more.*\[-1, -1\]"),
        ({"sets": torch.zeros(0, 2, dtype=torch.long), "raw": torch.zeros(0)}, r"one set or more.*got none"),
        ({"raw": torch.zeros(5)}, r"raw must be \[set=6\]; got shape \[5\]"),
        ({"single_raw": torch.zeros(3)}, r"single_raw must be \[member=4\]"),
        ({"per_prompt": torch.zeros(3, 2)}, r"per_prompt must be \[set=6, prompt\]"),
        ({"members": ("a", "b", "c", "a")}, "must all be different"),
        ({"path": torch.tensor([0, 6])}, r"indices of its 6 sets; got \[0, 6\]"),
    ],
)
def test_fields_that_disagree_are_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        make(**changes)


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(RecordError, match="unknown order of sets 'effects'; did you mean 'effect'"):
        make().top(3, by="effects")
    with pytest.raises(RecordError, match="unknown kind of matrix 'values'; did you mean 'value'"):
        make().matrix("values")
    with pytest.raises(RecordError, match=r"these sets have \[2, 3\] members"):
        make([[0, 1, -1], [0, 1, 2]]).matrix()
    with pytest.raises(RecordError, match=r"these sets have \[1\] members"):
        make([[0], [1]]).matrix()
