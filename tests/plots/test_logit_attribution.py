"""Direct-logit-attribution figures, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.plots import plot_logit_attribution


def by_type(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


def test_accumulated_line_ends_at_the_model_s_own(make_attribution):
    made = make_attribution()
    figure = plot_logit_attribution(made)
    line, model = by_type(figure, "scatter")
    assert list(line.x) == list(made.components)
    naive = np.cumsum(made.by_component.numpy(), axis=0).mean(-1)
    assert list(line.y) == pytest.approx(naive.tolist(), abs=1e-5)
    actual = float(made.actual.mean())
    assert list(model.y) == pytest.approx([actual] * len(made.components))
    assert line.y[-1] == pytest.approx(actual, abs=1e-5)
    assert (
        f"components sum to {actual:.3g}, the model says {actual:.3g}"
        in figure.layout.title.subtitle.text.replace("<br>", " ")
    )


def test_what_is_missing_shows(make_attribution):
    made = make_attribution()
    less = make_attribution(
        components=made.components[:-1], by_component=made.by_component[:-1], actual=made.actual
    )
    subtitle = plot_logit_attribution(less).layout.title.subtitle.text.replace("<br>", " ")
    assert (
        f"sum to {float(less.total.mean()):.3g}, the model says {float(made.actual.mean()):.3g}" in subtitle
    )


def test_bars_are_means_with_standard_errors(make_attribution):
    made = make_attribution()
    components, neurons = by_type(plot_logit_attribution(made), "bar")
    assert list(components.x) == list(made.components)
    assert list(components.y) == pytest.approx(made.by_component.mean(-1).tolist(), abs=1e-6)
    errors = made.by_component.std(-1) / 5**0.5
    assert list(components.error_y.array) == pytest.approx(errors.tolist(), abs=1e-6)
    assert list(neurons.y) == list(made.neurons)
    assert list(neurons.x) == pytest.approx(made.by_neuron.mean(-1).tolist(), abs=1e-6)
    assert components.hovertext[1].startswith("<b>attn 0</b><br>logit difference ")


def test_heads_on_a_map_and_in_a_table(make_attribution):
    made = make_attribution(by_head=torch.randn(2, 3, 5), head_layers=(5, 9))
    figure = plot_logit_attribution(made)
    (heatmap,), (table,) = by_type(figure, "heatmap"), by_type(figure, "table")
    mean = made.by_head.mean(-1)
    np.testing.assert_allclose(np.asarray(heatmap.z, dtype=float), mean.numpy(), atol=1e-6)
    assert list(heatmap.y) == ["5", "9"]
    assert heatmap.hovertext[1][2] == "L9H2"
    order = mean.abs().flatten().argsort(descending=True).tolist()
    assert list(table.cells.values[0]) == [f"L{(5, 9)[i // 3]}H{i % 3}" for i in order]
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_one_prompt_has_no_error(make_attribution):
    figure = plot_logit_attribution(make_attribution(batch=1))
    assert "one prompt" in figure.layout.title.subtitle.text
    assert list(by_type(figure, "bar")[0].error_y.array) == [0] * 10
