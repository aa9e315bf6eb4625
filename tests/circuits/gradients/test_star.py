"""AtP* at edges: queries and keys through the exact softmax, and gradients dropped layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from edge_cases import WITH_BLOCKS, EdgeCase, assert_errors, assert_estimates, edge_cases, fixed_edge_case
from hypothesis import HealthCheck, given, settings
from model_zoo import HOOKED, Specimen, specimen
from naive_transformer import NaiveTransformer
from tiny_models import make_hf_model

import interp
from interp.circuits.gradients import EdgeAttributionStar
from interp.errors import CircuitError


def check(case: EdgeCase, every: int = 3) -> None:
    found = case.estimate("atp*")
    effects, magnitudes = case.naive.star(every)
    assert_estimates(found.effects, effects, case)
    assert found.magnitude is not None
    assert_estimates(found.magnitude, magnitudes, (case, "magnitude"))
    if not bool(effects.isnan().any()):
        assert_errors(found.standard_errors, effects, case)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_every_family(name: str) -> None:
    check(fixed_edge_case(name, WITH_BLOCKS.index(name) % 3))


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(edge_cases(WITH_BLOCKS))
def test_any_graph_and_task(case: EdgeCase) -> None:
    check(case, every=7)


def with_layers(family: str, n_layers: int, **options: Any) -> Specimen:
    module = make_hf_model(family, seed=5, n_layers=n_layers, **options)
    model = interp.load_model(module)
    return Specimen(family, model, module, NaiveTransformer(model))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_other_depths(family: str, n_layers: int) -> None:
    """Layers above and below a dropped one, and none beside it."""
    case = replace(
        fixed_edge_case(family, 1), on=with_layers(family, n_layers), graph_kind="", ablation="source"
    )
    check(case, every=1 if n_layers == 1 else 5)


def test_each_repair_on_its_own() -> None:
    case = fixed_edge_case("llama", 0, "S")
    plain, both = case.estimate("eap"), case.estimate("atp*")
    bare = case.estimate(EdgeAttributionStar(qk_fix=False, grad_drop=False))
    assert torch.equal(bare.effects, plain.effects) and bare.magnitude is None
    dropped = case.estimate(EdgeAttributionStar(qk_fix=False))
    assert torch.equal(dropped.effects, plain.effects) and dropped.magnitude is not None
    fixed = case.estimate(EdgeAttributionStar(grad_drop=False))
    assert torch.equal(fixed.effects, both.effects) and fixed.magnitude is None
    into = torch.tensor([case.graph.readers[i].kind in ("q", "k") for i in case.graph.edge_reader])
    torch.testing.assert_close(fixed.effects[~into], plain.effects[~into])
    there = into & (plain.effects != 0)
    assert int(there.sum()) > 50 and bool((fixed.effects != plain.effects)[there].all())
    assert both.notes == ("softmax recomputed for edges into queries and keys; magnitudes by GradDrop",)
    assert bare.notes == ("no QK fix; no GradDrop",)


def test_tiles_of_any_size_give_the_same() -> None:
    """A budget for one number at a time, and for all of them."""
    case = replace(fixed_edge_case("gemma2", 0, "neurons"), ablation="source")
    wide = case.estimate("atp*")
    for budget in (1 << 14, 1 << 20):
        narrow = case.estimate("atp*", memory_budget=budget)
        for name in ("effects", "magnitude", "standard_errors"):
            torch.testing.assert_close(
                getattr(narrow, name),
                getattr(wide, name),
                atol=1e-5 * float(wide.effects.abs().max()),
                rtol=1e-4,
            )


@pytest.mark.parametrize("name", HOOKED)
def test_a_hooked_transformer_has_no_blocks_to_recompute(name: str) -> None:
    case = fixed_edge_case(name, 0)
    with pytest.raises(CircuitError, match=r"block functions, which do not cover .*method='eap'"):
        case.estimate("atp*")
    assert specimen(name).model.active_edits == []
