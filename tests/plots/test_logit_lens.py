"""Logit-lens figures, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.errors import RecordError
from interp.plots import plot_logit_lens
from interp.plots.tokens import show_token


def heatmap_of(figure):
    return next(trace for trace in figure.data if trace.type == "heatmap")


def test_cells_hold_the_top_token_and_its_probability(make_lens):
    lens = make_lens(4, 6)
    figure = plot_logit_lens(lens, prompt=1)
    heatmap = heatmap_of(figure)
    assert list(heatmap.y) == list(lens.layers)
    assert len(heatmap.x) == len(lens.tokens[1]) == 5
    np.testing.assert_allclose(
        np.asarray(heatmap.z, dtype=float), lens.top_probs[:, 1, :5, 0].numpy(), atol=1e-6
    )
    for layer in range(5):
        for pos in range(5):
            text, _ = lens.top_tokens(layer, 1, pos)[0]
            assert heatmap.text[layer][pos] == show_token(text, 12) or "…" in heatmap.text[layer][pos]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_hover_lists_the_top_tokens_and_the_target(make_lens):
    lens = make_lens()
    hover = heatmap_of(plot_logit_lens(lens)).hovertext[2][3].split("<br>")
    expected = [f"{show_token(text)} {p:.3f}" for text, p in lens.top_tokens(2, 0, 3)]
    assert hover[:4] == expected
    target = show_token(lens.text_of(int(lens.target_ids[0, 3])))
    rank, probability = int(lens.target_ranks[2, 0, 3]), float(lens.target_probs[2, 0, 3])
    assert hover[4] == f"target {target} {probability:.3f}, rank {rank}"
    unasked = heatmap_of(plot_logit_lens(lens)).hovertext[2][1]
    assert "target" not in unasked


def test_colour_by_target(make_lens):
    lens = make_lens()
    z = np.asarray(heatmap_of(plot_logit_lens(lens, color="target_probability")).z, dtype=float)
    assert np.isnan(z[:, 1]).all()
    assert z[2, 3] == pytest.approx(float(lens.target_probs[2, 0, 3]))


def test_colour_by_rank_is_dark_at_the_top_token_and_named_in_ranks(make_lens):
    lens = make_lens()
    figure = plot_logit_lens(lens, color="target_rank")
    z = np.asarray(heatmap_of(figure).z, dtype=float)
    assert z[2, 3] == pytest.approx(np.log10(1 + int(lens.target_ranks[2, 0, 3])), abs=1e-6)
    axis = figure.layout.coloraxis
    assert axis.colorscale[-1][1] == "rgb(255,255,255)"
    assert list(axis.colorbar.ticktext)[:2] == ["0", "1"]
    assert list(axis.colorbar.tickvals)[:2] == pytest.approx([0, np.log10(2)])


def test_curve_of_the_last_target_through_the_layers(make_lens):
    lens = make_lens(4, 6)
    one, mean = [trace for trace in plot_logit_lens(lens, prompt=1).data if trace.type == "scatter"]
    assert list(one.x) == pytest.approx(lens.target_probs[:, 1, 4].tolist())
    naive = [np.mean([float(lens.target_probs[layer, p, 5 - p]) for p in range(3)]) for layer in range(5)]
    assert list(mean.x) == pytest.approx(naive, abs=1e-6)
    assert mean.name == "mean of 3 prompts"
    without = plot_logit_lens(make_lens(targets=False))
    assert all(trace.type == "heatmap" for trace in without.data)


def test_some_positions(make_lens):
    kept = torch.tensor([[0, 3, 7], [2, 5, -1]])
    lens = make_lens(2, 3, 2, positions=kept, tokens=((" a", " b", " c"), (" d", " e")))
    assert list(heatmap_of(plot_logit_lens(lens, prompt=1)).x) == ["2 ·d", "5 ·e"]
    heatmap = heatmap_of(plot_logit_lens(lens, positions=[7, 0]))
    assert list(heatmap.x) == ["7 ·c", "0 ·a"]
    np.testing.assert_allclose(
        np.asarray(heatmap.z, dtype=float), lens.top_probs[:, 0, [2, 0], 0].numpy(), atol=1e-6
    )
    with pytest.raises(RecordError, match=r"some of \[2, 5\], which prompt 1 has; got \[0\]"):
        plot_logit_lens(lens, prompt=1, positions=[0])


def test_refusals(make_lens):
    with pytest.raises(RecordError, match="no prompt 3 in this lens; there are prompts 0 to 2"):
        plot_logit_lens(make_lens(), prompt=3)
    with pytest.raises(RecordError, match="did you mean 'target_rank'"):
        plot_logit_lens(make_lens(), color="target_ranks")
    with pytest.raises(RecordError, match="needs targets"):
        plot_logit_lens(make_lens(targets=False), color="target_rank")
