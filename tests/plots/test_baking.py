"""Figures of baking: every value where it belongs."""

from __future__ import annotations

import pytest
import torch
from fake_steering_baking import make_abstention, make_bake_report


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


def test_differences_and_kl_are_drawn_from_the_record():
    found = make_bake_report()
    figure = found.plot()
    assert list(trace(figure, "largest difference").x) == pytest.approx(found.largest.tolist())
    unsteered = trace(figure, "unsteered to baked")
    assert list(unsteered.x) == pytest.approx(found.kl[:, 2, 0].tolist())
    reach = (found.kl[:, 2, 2] - found.kl[:, 2, 0]).tolist()
    assert list(unsteered.error_x.array) == pytest.approx(reach, rel=1e-4)
    # what is nearly 0 stands at the edge, its true value in the hover
    nearest = trace(figure, "hooked to baked")
    assert nearest.x[0] == pytest.approx(1e-9) and "1e-12" in nearest.hovertext[0]
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"


def test_nothing_is_not_lost_on_a_logarithmic_axis():
    figure = make_bake_report(1, largest=torch.zeros(1), mean=torch.zeros(1)).plot()
    assert trace(figure, "largest difference").x[0] == pytest.approx(1e-9)
    assert "largest difference 0" in trace(figure, "largest difference").hovertext[0]


def test_settings_are_drawn_by_group():
    found = make_abstention()
    figure = found.plot()
    own = [i for i, group in enumerate(found.groups) if group == "CASAL"]
    drawn = trace(figure, "CASAL")
    assert list(drawn.x) == pytest.approx(found.made_up[own, 0].tolist())
    assert list(drawn.y) == pytest.approx(found.known[own, 0].tolist())
    assert [text.split("<br>")[0] for text in drawn.hovertext] == [f"<b>CASAL {i}</b>" for i in range(4)]
    assert figure.layout.xaxis.title.text == "made up about the unseen"


def test_many_groups_are_told_apart():
    figure = make_abstention(1, tuple(f"group {i}" for i in range(9))).plot()
    looks = [(t.marker.color, t.marker.symbol) for t in figure.data]
    assert len(set(looks)) == len(looks) == 10
