"""Names of methods, the objects behind them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from interp.circuits.gradients import (
    EDGE_METHODS,
    EdgeAttribution,
    EdgeAttributionStar,
    EdgeIntegratedGradients,
    EdgeRelevance,
    resolve_edge_method,
)
from interp.errors import CircuitError, RuleError
from interp.models.relevance import RelevanceRules


def test_every_name_has_its_method() -> None:
    assert set(EDGE_METHODS) >= {
        "exact",
        "eap",
        "eap-ig",
        "eap-ig:activations",
        "eap-ig:clean-corrupted",
        "relevance",
        "relevance:relp-ah",
        "relevance:attnlrp",
        "atp*",
    }
    assert resolve_edge_method("exact") is None
    for name in EDGE_METHODS:
        found = resolve_edge_method(name)
        assert found is None or (found.label == name and resolve_edge_method(found) is found)
    assert resolve_edge_method("eap") == EdgeAttribution()
    assert resolve_edge_method("eap-ig:activations") == EdgeIntegratedGradients("activations")
    assert resolve_edge_method("relevance:attnlrp") == EdgeRelevance("attnlrp")
    assert resolve_edge_method("atp*") == EdgeAttributionStar(qk_fix=True, grad_drop=True)
    assert EdgeRelevance(RelevanceRules("mine", norm="gradient")).label == "relevance:mine"


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("rule", ["midpoint", "gauss-legendre"])
def test_points_of_a_path(rule: Any, steps: int) -> None:
    points = EdgeIntegratedGradients(steps=steps, quadrature=rule).points()
    assert len(points) == steps and all(0 < where < 1 for where, _ in points)
    assert sum(weight for _, weight in points) == pytest.approx(1)
    assert sum(where * weight for where, weight in points) == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["epa", "eap-ig:inputs", "", None, 3, EdgeAttribution])
def test_an_unknown_method(method: Any) -> None:
    with pytest.raises(CircuitError, match=r"unknown method|method"):
        resolve_edge_method(method)
    with pytest.raises(CircuitError, match="did you mean 'eap'"):
        resolve_edge_method("epa")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"over": "input"}, "path of EAP-IG.*'inputs'"),
        ({"quadrature": "left"}, "quadrature"),
        ({"steps": 0}, "whole number from 1 on; got 0"),
        ({"steps": 2.0}, "got 2.0"),
        ({"steps": True}, "got True"),
    ],
)
def test_options_that_mean_nothing(options: Any, match: str) -> None:
    with pytest.raises(CircuitError, match=match):
        EdgeIntegratedGradients(**options)


def test_unknown_rules() -> None:
    with pytest.raises(RuleError):
        EdgeRelevance("rlep")
