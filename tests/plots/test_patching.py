"""Patching figures, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.plots import plot_patching
from interp.plots.patching_panels import MOST_FACETS, RANKED_BARS, TABLE_ROWS
from interp.results import PatchScores


def traces(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


def axis_of(figure, trace, name):
    return figure.layout[f"{name}axis" + (trace[f"{name}axis"] or name)[1:]]


def z_of(trace):
    return np.asarray(trace.z, dtype=float)


def test_denoising_colours_the_recovered_score(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (4, 6))
    (heatmap,) = traces(plot_patching(make_scores(site)), "heatmap")
    naive = (site.raw.numpy() + 0.4) / 3.7
    np.testing.assert_allclose(z_of(heatmap), naive, atol=1e-6)


def test_noising_colours_what_was_lost(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (4, 6))
    figure = plot_patching(make_scores(site, direction="noise"))
    (heatmap,) = traces(figure, "heatmap")
    np.testing.assert_allclose(z_of(heatmap), (site.raw.numpy() + 0.4) / 3.7 - 1, atol=1e-6)
    assert "corrupted activations patched into the clean run" in figure.layout.title.text.replace("<br>", " ")
    assert "recovered score − 1" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert figure.layout.coloraxis.colorbar.title.text == "recovered score − 1"


def test_title_and_subtitle(make_site, make_scores):
    figure = plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 2))))
    assert figure.layout.title.text.startswith("Activation patching of z: clean activations patched into")
    subtitle = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "denoise · exact (hooked)" in subtitle
    assert "0 = corrupted (-0.4), 1 = clean (3.3)" in subtitle


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("attribution", "Attribution patching"),
        ("attribution*", "AtP*"),
        ("ig", "Integrated gradients over inputs"),
        ("ig:activation", "Integrated gradients over activations"),
        ("relevance", "Relevance patching (RelP)"),
        ("relevance:relp-ah", "Relevance patching (relp-ah)"),
    ],
)
def test_estimates_say_that_they_are(make_site, make_scores, method, name):
    scores = make_scores(make_site("z", ("layer", "head"), (2, 2)), method=method, direction="noise")
    figure = plot_patching(scores)
    title = figure.layout.title.text.replace("<br>", " ")
    assert title == f"{name} of z: estimated effect of patching corrupted activations into the clean run"
    subtitle = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert f"every score is an estimate by {name[0].lower() if name != 'AtP*' else 'A'}{name[1:]}" in subtitle
    assert method in subtitle
    (heatmap,) = traces(figure, "heatmap")
    assert "estimated recovered %{customdata[0]:.3f}" in heatmap.hovertemplate
    assert figure.layout.annotations[1].text == "top 4, estimated"


@pytest.mark.parametrize("method", ["exact", "path"])
def test_what_was_run_is_no_estimate(make_site, make_scores, method):
    figure = plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 2)), method=method))
    assert "estimate" not in figure.to_json()


def test_other_replacements_are_named(make_site, make_scores):
    figure = plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 2)), ablation="zero"))
    assert "zeros patched into the corrupted run" in figure.layout.title.text.replace("<br>", " ")


def test_magnitudes_rank_and_are_shown_where_a_method_gives_them(make_site, make_scores):
    sizes = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.4, float("nan")]])
    site = make_site("z", ("head", "layer"), (3, 2), magnitude=sizes.T)
    alone = make_site("mlp_out@END", ("layer",), (2,), magnitude=torch.tensor([0.25, 0.5]))
    scores = make_scores(site, alone, method="attribution*")
    figure = plot_patching(scores)
    (heatmap,) = traces(figure, "heatmap")
    shown = torch.maximum(sizes, scores.effects("z").abs().T)
    assert (shown > sizes).any() and (shown == sizes).any()
    np.testing.assert_allclose(np.asarray(heatmap.customdata, dtype=float)[..., 2], shown)
    assert "magnitude %{customdata[2]:.3f}" in heatmap.hovertemplate
    (table,) = traces(figure, "table")
    ranked = scores.top(6, "z")
    assert list(table.cells.values[0]) == [row.name for row in ranked]
    assert list(table.cells.values[3]) == [f"{row.magnitude:.3f}" for row in ranked]
    assert [row.magnitude for row in ranked[:5]] == sorted(shown[shown == shown].tolist(), reverse=True)
    (bar,) = traces(figure, "bar")
    assert "magnitude 0.500" in bar.hovertext[1]
    assert "ranked by magnitude" in figure.layout.title.subtitle.text.replace("<br>", " ")
    plain = plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 3)), method="attribution"))
    assert "magnitude" not in plain.to_json()


def test_layer_0_is_at_the_bottom_and_tokens_name_the_columns(make_site, make_scores):
    site = make_site("resid_pre", ("layer", "pos"), (4, 5))
    figure = plot_patching(make_scores(site))
    (heatmap,) = traces(figure, "heatmap")
    y, x = axis_of(figure, heatmap, "y"), axis_of(figure, heatmap, "x")
    assert list(heatmap.y) == ["0", "1", "2", "3"]
    assert y.range == (-0.5, 3.5)
    assert list(x.ticktext) == ["&lt;s&gt;", "·When", "·John", "·&amp;", "·&lt;b&gt;store&lt;/b&gt;"]
    assert list(heatmap.x) == [f"{i} {text}" for i, text in enumerate(x.ticktext)]


def test_record_order_of_axes_does_not_matter(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (3, 5))
    turned = make_site("z", ("head", "layer"), (5, 3), raw=site.raw.T)
    drawn = [traces(plot_patching(make_scores(s)), "heatmap")[0] for s in (site, turned)]
    np.testing.assert_array_equal(z_of(drawn[0]), z_of(drawn[1]))
    assert drawn[0].hovertext == drawn[1].hovertext


def test_hover_names_the_entry_with_raw_and_normalised_value(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (3, 5))
    (heatmap,) = traces(plot_patching(make_scores(site)), "heatmap")
    assert heatmap.hovertext[2][4] == "L2H4"
    details = np.asarray(heatmap.customdata, dtype=float)
    assert details[2, 4] == pytest.approx([float(site.values[2, 4]), float(site.raw[2, 4])], abs=1e-6)
    assert "%{hovertext}" in heatmap.hovertemplate
    assert "recovered %{customdata[0]:.3f}" in heatmap.hovertemplate
    assert "logit difference %{customdata[1]:.4g} (corrupted -0.4, clean 3.3)" in heatmap.hovertemplate


def test_a_metric_cannot_write_into_the_hover_template(make_site, make_scores):
    figure = plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 2)), metric="m%{z}<i>"))
    (heatmap,) = traces(figure, "heatmap")
    assert "%{z}" not in heatmap.hovertemplate
    assert "<i>" not in heatmap.hovertemplate


def test_facets_of_one_kind_share_a_scale(make_site, make_scores):
    stream = [
        make_site(name, ("layer", "pos"), (4, 5), seed=i) for i, name in enumerate(("resid_pre", "attn_out"))
    ]
    heads = [make_site(name, ("layer", "head"), (4, 4), seed=i + 5) for i, name in enumerate("zq")]
    figure = plot_patching(make_scores(stream[0], heads[0], stream[1], heads[1]))
    by_name = {trace.name: trace for trace in traces(figure, "heatmap")}
    assert by_name["resid_pre"].coloraxis == by_name["attn_out"].coloraxis
    assert by_name["z"].coloraxis == by_name["q"].coloraxis != by_name["attn_out"].coloraxis
    limit = max(float(s.values.abs().max()) for s in stream)
    assert figure.layout[by_name["resid_pre"].coloraxis].cmax == pytest.approx(limit)


def test_heads_have_a_table_of_the_top(make_site, make_scores):
    scores = make_scores(
        make_site("z", ("layer", "head"), (4, 6)), make_site("q", ("layer", "head"), (4, 6), seed=3)
    )
    (table,) = traces(plot_patching(scores), "table")
    names, recovered, raw = table.cells.values
    top = scores.top(TABLE_ROWS)
    assert list(names) == [row.name for row in top]
    assert list(recovered) == [f"{row.value:.3f}" for row in top]
    assert list(raw) == [f"{row.raw:.3g}" for row in top]
    assert traces(plot_patching(make_scores(make_site("attn_out", ("layer", "pos"), (4, 6)))), "table") == []


def test_one_site_alone(make_site, make_scores):
    scores = make_scores(
        make_site("z@pos", ("layer", "head", "pos"), (2, 3, 4)),
        make_site("attn_out", ("layer", "pos"), (2, 4)),
    )
    figure = plot_patching(scores, site="z")
    assert {trace.name for trace in traces(figure, "heatmap")} == {"z@pos · layer 0", "z@pos · layer 1"}
    with pytest.raises(KeyError, match="attn_out"):
        plot_patching(scores, site="attn_oot")


def test_three_axes_have_a_facet_a_layer(make_site, make_scores):
    site = make_site("z@pos", ("layer", "head", "pos"), (3, 2, 5))
    figure = plot_patching(make_scores(site))
    for layer, heatmap in enumerate(traces(figure, "heatmap")):
        np.testing.assert_allclose(z_of(heatmap), site.values[layer].numpy(), atol=1e-6)
        assert heatmap.name == f"z@pos · layer {layer}"
        assert heatmap.hovertext[1][2] == f"L{layer}H1 @ ·John"


def test_patterns_read_from_the_top_and_only_the_strongest_facets_are_drawn(make_site, make_scores):
    site = make_site("pattern@pos", ("layer", "head", "dest_pos", "src_pos"), (5, 8, 3, 3))
    site.raw[4, 7] += 50
    site.raw[0, 0] = -0.4
    figure = plot_patching(make_scores(site))
    heatmaps = traces(figure, "heatmap")
    assert len(heatmaps) == MOST_FACETS
    assert f"the {MOST_FACETS} strongest of 40 facets" in figure.layout.title.subtitle.text.replace(
        "<br>", " "
    )
    drawn = [trace.name for trace in heatmaps]
    assert "pattern@pos · L4H7" in drawn
    assert "pattern@pos · L0H0" not in drawn
    strength = site.values.abs().amax((-1, -2)).flatten()
    expected = sorted(strength.argsort(descending=True)[:MOST_FACETS].tolist())
    assert drawn == [f"pattern@pos · L{i // 8}H{i % 8}" for i in expected]
    assert axis_of(figure, heatmaps[0], "y").range == (2.5, -0.5)


@pytest.mark.parametrize("n", [5, 192, 193, 1000])
def test_every_column_of_neurons_shows_its_strongest(make_site, make_scores, n):
    site = make_site("mlp_post.n*", ("layer", "neuron"), (3, n), seed=n)
    site.raw[1, n // 2] = float("nan")
    (heatmap,) = traces(plot_patching(make_scores(site)), "heatmap")
    width = -(-n // 192)
    values = site.values
    for layer in range(3):
        for column in range(-(-n // width)):
            entries = values[layer, column * width : (column + 1) * width]
            best = entries.abs().nan_to_num(nan=-1.0).argmax()
            drawn = z_of(heatmap)[layer, column]
            assert drawn == pytest.approx(float(entries[best]), abs=1e-6, nan_ok=True)
            assert heatmap.hovertext[layer][column] == f"mlp_post L{layer} n{column * width + int(best)}"


def test_strongest_neurons_as_bars(make_site, make_scores):
    scores = make_scores(make_site("mlp_post.n*", ("layer", "neuron"), (3, 50)))
    (bar,) = traces(plot_patching(scores), "bar")
    top = scores.top(RANKED_BARS)
    assert list(bar.x) == pytest.approx([row.effect for row in top])
    assert list(bar.y) == [row.name for row in top]
    assert axis_of(plot_patching(scores), bar, "y").range == (RANKED_BARS - 0.5, -0.5)
    blue, red = "rgb(33,102,172)", "rgb(178,24,43)"
    assert list(bar.marker.color) == [blue if row.effect >= 0 else red for row in top]


def test_one_axis_and_single_values_as_bars(make_site, make_scores):
    layers = make_site("resid_post@END", ("layer",), (6,), prompts=4)
    heads = make_site("z[9]", ("head",), (5,))
    single = make_site("z[3.1]", (), (), prompts=4)
    figure = plot_patching(make_scores(layers, heads, single))
    by_layer, by_head, alone = traces(figure, "bar")
    assert list(by_layer.x) == pytest.approx(layers.values.tolist(), abs=1e-6)
    assert by_layer.orientation == "h"
    assert axis_of(figure, by_layer, "y").range == (-0.5, 5.5)
    assert by_head.orientation == "v"
    assert by_head.hovertext[2].startswith("<b>L9H2</b><br>recovered ")
    assert by_head.error_y.array is None
    assert list(alone.x) == pytest.approx([float(single.values)], abs=1e-6)
    assert alone.hovertext[0].startswith("<b>L3H1</b>")
    recovered = (layers.per_prompt.double() + 0.4) / 3.7
    errors = recovered.std(-1) / 2
    assert list(by_layer.error_x.array) == pytest.approx(errors.tolist(), abs=1e-6)
    assert "standard error over prompts" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_missing_values_are_grey(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (3, 3))
    assert not plot_patching(make_scores(site)).layout.shapes
    site.raw[0, 1] = float("nan")
    figure = plot_patching(make_scores(site))
    (heatmap,) = traces(figure, "heatmap")
    assert np.isnan(z_of(heatmap)[0, 1])
    assert heatmap.text[0][1] == ""
    (shape,) = figure.layout.shapes
    assert (shape.layer, shape.fillcolor) == ("below", "rgb(190,190,190)")


def test_equal_baselines_are_said(make_site, make_scores):
    figure = plot_patching(make_scores(make_site("z", ("layer", "head"), (3, 3), clean=1.0, corrupted=1.0)))
    assert "clean and corrupted are equal" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_numbers_stand_in_large_cells_only(make_site, make_scores):
    (small,) = traces(plot_patching(make_scores(make_site("z", ("layer", "head"), (4, 4)))), "heatmap")
    assert small.texttemplate == "%{text}"
    assert all(text != "-0.00" for row in small.text for text in row)
    assert float(small.text[1][2]) == pytest.approx(z_of(small)[1, 2], abs=0.0051)
    (large,) = traces(plot_patching(make_scores(make_site("z", ("layer", "head"), (12, 12)))), "heatmap")
    assert large.texttemplate is None


def test_a_possible_illusion_is_said(make_site, make_scores, make_report):
    scores = make_scores(make_site("mlp_out", ("layer",), (2,)))
    reports = {"mlp_out[0]": make_report(full=1.0), "mlp_out[1]": make_report(full=0.1)}
    figure = plot_patching(PatchScores(scores.sites, scores.provenance, reports))
    assert "possible illusion at mlp_out[1]: see reports" in figure.layout.title.subtitle.text.replace(
        "<br>", " "
    )


def test_half_precision_on_its_way_in(make_site, make_scores):
    site = make_site("z", ("layer", "head"), (2, 3), raw=torch.tensor([[1, 2, 3], [0, -1, 0.5]]).bfloat16())
    (heatmap,) = traces(plot_patching(make_scores(site)), "heatmap")
    assert z_of(heatmap)[0, 2] == pytest.approx(3.4 / 3.7, abs=0.01)
