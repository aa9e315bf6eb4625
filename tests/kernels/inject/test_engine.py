"""Whole sweeps with rows begun and carried on by kernels, beside the same in plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_tasks import random_task
from tiny_models import FAMILIES, make_hf_model

import interp
from interp.kernels import use_kernels
from interp.kernels.inject import triton as kernels
from interp.models.blocks import mixing
from interp.models.model import Model
from interp.types import Site, parse_site

pytestmark = pytest.mark.interpreter

TOLERANCE = 1e-5
"""Of the metric's range."""

SITES = ("resid_pre[1]@-1", "resid_mid[0]@-2", "attn_out[0]@all", "mlp_out[0]@all", "z[0.1]", "result[0.2]")
OF_NEURONS = ("mlp_post[0].n3@all", "resid_post[1]@-1")


@pytest.fixture(autouse=True)
def attention_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kernel's tests are elsewhere, and interpreted it is slow."""
    monkeypatch.setattr(mixing, "prefix_kernel_runs", lambda *_: False)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Any, ...]]]:
    """The arguments of every launch, by the launching function."""
    found: dict[str, list[tuple[Any, ...]]] = {"launch_start": [], "launch_updates": []}
    for name, calls in found.items():
        launch = getattr(kernels, name)

        def count(*given: Any, launch: Any = launch, calls: Any = calls) -> Any:
            calls.append(given)
            return launch(*given)

        monkeypatch.setattr(kernels, name, count)
    return found


def load(family: str) -> Model:
    return interp.load_model(make_hf_model(family))


def sweep(model: Model, sites: list[Any], lengths: list[int], side: str) -> list[torch.Tensor]:
    """Scores of every site through kernels, then in plain PyTorch."""
    task = random_task(lengths, side, [2] * len(lengths))
    found = []
    for choice in ("triton", "reference"):
        with use_kernels(choice):  # type: ignore[arg-type]
            scores = interp.patch(model, task, sites=sites, backend="wavefront", progress=False)
        assert scores.provenance.backend == "wavefront"
        found.append([scores[site].per_prompt for site in scores])
    for site, ours, theirs in zip(scores, *found, strict=True):
        assert ours is not None and theirs is not None
        every = torch.cat([theirs.flatten(), torch.tensor([scores[site].clean, scores[site].corrupted])])
        difference = float((ours - theirs).abs().max())
        assert difference <= TOLERANCE * max(float(every.max() - every.min()), 0.2), (site, difference)
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_sweeps_of_every_family(family: str, launched: dict[str, list[tuple[Any, ...]]]) -> None:
    model = load(family)
    sites = [site for site in (*SITES, *OF_NEURONS) if parse_site(site).component in model.components]
    sweep(model, sites, [5, 4], "left")
    traits = model.traits
    starts, updates = launched["launch_start"], launched["launch_updates"]
    kinds = {(given[6] is not None, given[7] is not None, given[9] is not None) for given in starts}
    # replaced, added, and along directions; where a norm follows the sublayer a head's change comes before it, alone
    expected = {(True, False, False), (True, True, False)}
    assert kinds == expected | {(True, not traits.post_norms, True)}
    assert {given[12] for given in starts} >= {"none"}
    assert all((given[2] is not None) == traits.parallel_blocks for given in updates)
    assert any(given[5] != "none" for given in updates)


def test_sites_within_subspaces(launched: dict[str, list[tuple[Any, ...]]]) -> None:
    model = load("gpt2")
    draw = torch.Generator().manual_seed(0)
    sites: list[Site] = []
    for name, width in (("resid_pre[1]@-1", 36), ("z[0.1]", 9), ("result[0.2]", 36), ("mlp_out[0]@all", 36)):
        sites.append(parse_site(name).within(torch.randn(2, width, generator=draw)))
    sweep(model, sites, [5, 5], "left")
    assert sum(given[9] is not None for given in launched["launch_start"]) >= len(sites)


def test_norms_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come with their norm are not normalised again, but where a parallel block has a second norm."""
    from interp.models.blocks.block import Block

    made: list[tuple[int, int]] = []
    normalise = Block.normalise

    def count(block: Block, x: torch.Tensor, norm: Any) -> torch.Tensor:
        made.append((block.layer, len(x)))
        return normalise(block, x, norm)

    task = random_task([5, 5], "left", [2, 2])
    for family in ("gpt2", "gpt_neox"):
        model = load(family)
        with use_kernels("triton"):
            interp.patch(model, task, sites=["z[0.1]"], backend="wavefront", progress=False)
            monkeypatch.setattr(Block, "normalise", count)
            made.clear()
            interp.patch(model, task, sites=["z[0.1]"], backend="wavefront", progress=False)
            monkeypatch.setattr(Block, "normalise", normalise)
        # the pairs' own run begins with one, and its stream in the middle of a layer is kept; a parallel block has
        # a second norm, which the sweep needs once
        layers = [layer for layer, _ in made]
        assert layers == ([0, 0, 1, 1] if model.traits.parallel_blocks else [0, 0]), made


def test_sets_of_sites_are_written_in_flight(launched: dict[str, list[tuple[Any, ...]]]) -> None:
    """Watchers change what was normalised already."""
    model = load("llama")
    task = random_task([5, 4], "right", [1, 2])
    groups = [
        ["resid_pre[0]@-1", "resid_pre[1]@-1"],
        ["resid_pre[0]@-1", "resid_pre[0]@-2"],
        ["z[0.1]", "resid_mid[0]@-1"],
        ["mlp_out[0]", "z[1.0]"],
        ["resid_pre[1]@-1", "resid_pre[1]@-2"],
    ]
    found = []
    for choice in ("triton", "reference"):
        with use_kernels(choice):  # type: ignore[arg-type]
            found.append(interp.patch_sets(model, task, groups, progress=False))
    ours, theirs = (scores.per_prompt for scores in found)
    assert ours is not None and theirs is not None and launched["launch_start"]
    assert float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.max() - theirs.min())
