"""Records of attention patterns and of head roles."""

from __future__ import annotations

import pytest
import torch

from interp.errors import RecordError
from interp.results import AttentionPatterns, HeadRole, HeadScores, Provenance

PROVENANCE = Provenance(model="m")


def test_patterns_by_the_model_s_layer(tmp_path):
    weights = torch.rand(2, 3, 4, 4)
    patterns = AttentionPatterns(weights, ("a", "b", "c", "d"), (5, 8), PROVENANCE, prompt=2)
    assert torch.equal(patterns.at(8, 2), weights[1, 2])
    for layer, head in ((0, 0), (5, 3), (5, -1)):
        with pytest.raises(
            RecordError, match=rf"no pattern of L{layer}H{head} here; there are layers \[5, 8\]"
        ):
            patterns.at(layer, head)
    read = AttentionPatterns.load(patterns.save(tmp_path / "p"))
    assert torch.equal(read.patterns, weights)
    assert (read.tokens, read.layers, read.prompt) == (patterns.tokens, (5, 8), 2)


def test_patterns_must_fit_the_tokens():
    with pytest.raises(RecordError, match="dest_pos=3"):
        AttentionPatterns(torch.rand(1, 1, 4, 4), ("a", "b", "c"), (0,), PROVENANCE)
    with pytest.raises(RecordError, match="no attention patterns"):
        AttentionPatterns(torch.rand(1, 0, 1, 1), ("a",), (0,), PROVENANCE)


def make_roles(**values):
    roles = {
        "induction": HeadRole("mean weight to the token after the last occurrence", "mean attention weight"),
        "mover": HeadRole("what it writes", "logit difference", signed=True),
    }
    tables = {"induction": torch.rand(2, 3), "mover": torch.randn(2, 3)} | values
    return HeadScores(tables, roles, (4, 9), PROVENANCE)


def test_top_is_by_value_or_by_magnitude():
    table = torch.tensor([[0.1, -0.9, 0.5], [float("nan"), 0.7, -0.2]])
    scores = make_roles(induction=table, mover=table)
    assert [head.name for head in scores.top("induction", 6)] == [
        "L9H1",
        "L4H2",
        "L4H0",
        "L9H2",
        "L4H1",
        "L9H0",
    ]
    assert [head.name for head in scores.top("mover", 3)] == ["L4H1", "L9H1", "L4H2"]
    first = scores.top("mover", 1)[0]
    assert (first.layer, first.head) == (4, 1)
    assert first.value == pytest.approx(-0.9)


def test_roles_frame_and_file(tmp_path):
    scores = make_roles()
    frame = scores.to_frame().set_index("name")
    assert frame.loc["L9H1", "mover"] == pytest.approx(float(scores["mover"][1, 1]))
    read = HeadScores.load(scores.save(tmp_path / "roles"))
    assert read.roles == scores.roles
    assert torch.equal(read["induction"], scores["induction"])


def test_roles_refuse_what_does_not_agree():
    with pytest.raises(RecordError, match=r"unknown head role 'inducton'; did you mean 'induction'"):
        make_roles().top("inducton")
    with pytest.raises(RecordError, match="definition of at least one role"):
        HeadScores({}, {}, (), PROVENANCE)
    with pytest.raises(RecordError, match=r"\[layer=2, head\]; got shapes"):
        make_roles(mover=torch.zeros(3, 3))
    with pytest.raises(RecordError, match=r"\[layer=2, head\]; got shapes"):
        make_roles(mover=torch.zeros(2, 4))
