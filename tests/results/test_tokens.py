"""Contributions of tokens: what is refused, what is ranked first, and files."""

from __future__ import annotations

import math

import pytest
import torch

from interp.errors import DataFileError, RecordError
from interp.results import Provenance, TokenScores

NAN = float("nan")


def make(**changes):
    fields = dict(
        tokens=(("<s>", " Mary", " gave"), ("<s>", "\n")),
        values=torch.tensor([[0.5, -2.0, 1.0, NAN], [NAN, 3.0, NAN, NAN]]),
        metric=torch.tensor([4.0, NAN]),
        run="clean",
        provenance=Provenance("m", method="relevance", ablation="zero"),
    )
    return TokenScores(**fields | changes)


def test_sums_and_means_pass_over_padding_and_holes():
    scores = make()
    assert len(scores) == 2
    assert scores.total.tolist() == [-0.5, 3.0]
    assert scores.mean_by_position()[:3].tolist() == [0.5, 0.5, 1.0]
    assert math.isnan(scores.mean_by_position()[3])


def test_top_is_by_size_and_what_is_missing_comes_last():
    every = make().top()
    assert every[:4] == [("↵", 1, 1, 3.0), ("·Mary", 0, 1, -2.0), ("·gave", 0, 2, 1.0), ("<s>", 0, 0, 0.5)]
    assert every[4][:3] == ("<s>", 1, 0)
    assert math.isnan(every[4][3])
    assert make().top(1, prompt=0) == [("·Mary", 0, 1, -2.0)]


def test_top_is_sorted_wherever_the_holes_are():
    values = torch.tensor([[1.0, NAN, 5.0, NAN, 3.0, 9.0, NAN, 2.0]])
    scores = make(tokens=(tuple("abcdefgh"),), values=values, metric=torch.zeros(1))
    assert [value for *_, value in scores.top(5)] == [9.0, 5.0, 3.0, 2.0, 1.0]


def test_file_and_frame(tmp_path):
    scores = make()
    read = TokenScores.load(scores.save(tmp_path / "t"))
    assert read.tokens == scores.tokens
    assert torch.equal(read.values.nan_to_num(-9), scores.values.nan_to_num(-9))
    assert (read.run, read.provenance) == (scores.run, scores.provenance)
    frame = read.to_frame()
    assert frame.equals(scores.to_frame())
    assert list(frame) == ["prompt", "pos", "token", "value"]
    assert list(frame.token) == ["<s>", " Mary", " gave", "<s>", "\n"]
    with pytest.raises(DataFileError, match="holds a TokenScores record"):
        from interp.results import Conservation

        Conservation.load(tmp_path / "t")


def test_refusals():
    with pytest.raises(RecordError, match=r"metric must be \[prompt=2\]"):
        make(metric=torch.zeros(3))
    with pytest.raises(RecordError, match="2 positions and prompts of up to 3 tokens"):
        make(values=torch.zeros(2, 2))
    with pytest.raises(RecordError, match="up to 0 tokens"):
        make(tokens=((), ()))
    with pytest.raises(RecordError, match="NaN after a prompt's last token"):
        make(values=torch.zeros(2, 3))


def test_a_notebook_shows_coloured_text():
    assert make()._repr_html_() == make().to_html(prompts=12)
    assert "<span" in make()._repr_html_()
