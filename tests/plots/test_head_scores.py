"""Head-role figures, read as data."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import RecordError
from interp.plots import plot_head_scores


def test_a_map_and_a_table_for_each_role(make_roles):
    scores = make_roles()
    figure = plot_head_scores(scores)
    heatmaps = {trace.name: trace for trace in figure.data if trace.type == "heatmap"}
    assert list(heatmaps) == list(scores.values)
    for role, heatmap in heatmaps.items():
        np.testing.assert_allclose(np.asarray(heatmap.z, dtype=float), scores[role].numpy(), atol=1e-6)
        assert list(heatmap.y) == ["2", "3", "4"]
        assert heatmap.hovertext[0][3] == "L2H3"
        assert role in heatmap.hovertemplate
    tables = [trace for trace in figure.data if trace.type == "table"]
    for role, table in zip(scores.values, tables, strict=True):
        assert list(table.cells.values[0]) == [head.name for head in scores.top(role, 5)]


def test_weights_share_a_sequential_scale_and_signed_roles_have_their_own(make_roles):
    scores = make_roles()
    figure = plot_head_scores(scores)
    axes = {trace.name: trace.coloraxis for trace in figure.data if trace.type == "heatmap"}
    assert axes["previous token"] == axes["induction"] != axes["name mover"]
    weights = figure.layout[axes["induction"]]
    assert weights.cmin == 0
    assert weights.cmax == pytest.approx(max(float(scores[r].max()) for r in ("induction", "previous token")))
    signed = figure.layout[axes["name mover"]]
    assert signed.cmin == -signed.cmax == pytest.approx(-float(scores["name mover"].abs().max()))


def test_definitions_are_given_and_one_role_alone(make_roles):
    scores = make_roles()
    figure = plot_head_scores(scores, role="name mover")
    assert [trace.name for trace in figure.data if trace.type == "heatmap"] == ["name mover"]
    subtitle = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "name mover: written into the answer's logit &lt;difference&gt;" in subtitle
    assert "previous token" not in subtitle
    with pytest.raises(RecordError, match="did you mean 'name mover'"):
        plot_head_scores(scores, role="name movers")
