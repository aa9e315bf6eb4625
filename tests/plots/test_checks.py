"""Figures of checks (subspaces, ablations, agreement) and of training, read as data."""

from __future__ import annotations

import numpy as np
import pytest

from interp.plots import plot_ablation, plot_agreement, plot_subspace_report, plot_training_curve


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_subspace_parts_and_warning(make_report):
    report = make_report()
    figure = plot_subspace_report(report)
    effect, separability = figure.data
    assert list(effect.y) == list(report.parts)
    assert list(effect.x) == pytest.approx([0.75, 0.1, 0.2, 0.1])
    assert list(separability.x[:3]) == pytest.approx([0.93, 0.61, 0.9])
    assert figure.layout.yaxis.range == (3.5, -0.5)
    assert figure.layout.xaxis2.range == (0, 1.02)
    assert figure.layout.title.text.replace("<br>", " ").endswith("and its parts: possible illusion")
    assert report.warning in subtitle(figure)
    assert "32% of the subspace lies in the row space of W_out of layer 8" in subtitle(figure)
    assert "4.2 standard deviations out" in subtitle(figure)


def test_subspace_without_doubt_and_with_held_out_prompts(make_report):
    held_out = dict(
        held_out_raw=make_report().raw * 0, held_out_clean=1.0, held_out_corrupted=-1.0, dimensions=3
    )
    figure = plot_subspace_report(make_report(full=1.0, **held_out))
    assert "illusion" not in figure.layout.title.text + subtitle(figure)
    assert "(3 dimensions)" in figure.layout.title.text
    assert list(figure.data[1].x) == pytest.approx([0.5] * 4)
    assert "held-out" in [note.text for note in figure.layout.annotations][1]


def test_ablation_bars_points_and_lines(make_ablation):
    check = make_ablation()
    figure = plot_ablation(check)
    bars, points = figure.data
    assert list(bars.y) == pytest.approx([3.5, -0.1, float(check.random.mean()), -0.5])
    assert list(bars.x) == ["clean", "2 parts ablated", "2 parts at random", "corrupted"]
    assert list(points.y) == pytest.approx(check.random.tolist())
    assert set(points.x) == {"2 parts at random"}
    assert points.hovertext[3] == "L0H3, L1H&lt;1&gt;"
    assert "L2H1, L3H0" in bars.hovertext[1]
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [-0.5, 3.5]
    assert figure.layout.title.text.startswith("L2H1, L3H0 ablated together (mean)")
    assert f"{check.random_as_strong:.0%} of 20 random sets" in subtitle(figure)


def test_ablation_of_many_parts_and_unnamed_sets(make_ablation):
    many = tuple(f"L{i}H0" for i in range(40))
    figure = plot_ablation(make_ablation(names=many, random_names=()))
    assert "L11H0, …" in figure.layout.title.text.replace("<br>", " ")
    assert "L39H0" in figure.data[0].hovertext[1]
    assert set(figure.data[1].hovertext) == {"random set"}


def test_agreement_scatter(make_agreement):
    made = make_agreement()
    figure = plot_agreement(made)
    line, top, random = figure.data
    assert list(line.x) == list(line.y) == list(figure.layout.xaxis.range) == list(figure.layout.yaxis.range)
    names = ("the 10 that attribution patching ranks first", "20 of the others, at random")
    assert (top.name, random.name) == names
    assert list(top.x) == pytest.approx(made.exact[:10].tolist())
    assert list(random.y) == pytest.approx(made.approximate[10:].tolist())
    assert top.hovertext[2] == "resid_pre L2 @ &lt;s&gt;"
    low, high = line.x
    drawn = np.concatenate([made.exact.numpy(), made.approximate.numpy(), [0.0]])
    assert low < drawn.min()
    assert drawn.max() < high
    text = subtitle(figure)
    assert "Pearson 0.97 [0.95, 0.99]" in text
    assert "sign agreement 0.93 [0.83, 1.00], top-10 overlap 0.80 [0.60, 1.00]" in text
    assert "(95% bootstrap intervals, 30 sites checked of 168)" in text
    assert "denoise · attribution against exact patching (hooked) · " in text
    assert figure.layout.title.text == "Attribution patching against exact patching"
    assert figure.layout.yaxis.title.text == "effect estimated by attribution patching"
    panel = figure.layout
    width = (panel.xaxis.domain[1] - panel.xaxis.domain[0]) * panel.width
    assert width == pytest.approx((panel.yaxis.domain[1] - panel.yaxis.domain[0]) * panel.height)


def test_agreement_of_one_group(make_agreement):
    made = make_agreement(chosen=False)
    _, every = plot_agreement(made).data
    assert len(every.x) == 30
    assert every.showlegend is False


def test_agreement_says_what_is_undefined(make_agreement):
    made = make_agreement()
    assert "undefined" not in subtitle(plot_agreement(made))
    made.exact[3] = float("nan")
    figure = plot_agreement(made)
    assert "1 of 30 undefined and not drawn" in subtitle(figure)
    assert np.isfinite(figure.layout.xaxis.range).all()


def test_training_curves(make_history):
    history = make_history()
    figure = plot_training_curve(history)
    training, held_out, accuracy = figure.data
    assert list(training.x) == history.steps.tolist()
    assert list(training.y) == pytest.approx(history.loss.tolist())
    assert list(held_out.x) == history.steps[::10].tolist()
    assert np.isfinite(np.asarray(accuracy.y, dtype=float)).all()
    assert accuracy.name == "IOI &lt;accuracy&gt;"
    assert figure.layout.yaxis.rangemode == "tozero"
    assert figure.layout.yaxis2.range == (-0.03, 1.03)
    assert "seed 3 · 10.0 minutes" in subtitle(figure)
    (alone,) = plot_training_curve(make_history(held_out=False)).data
    assert alone.name == "training"
