"""The floor of operations against what runs really do, as torch counts it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from interp.bench import flops
from interp.bench.cases import SITES, Case, build_gpt2, make_task, wrap_gpt2
from interp.patching import patch

CPU = torch.device("cpu")
ABOVE = 1.5
"""The engine's products over the floor's: it runs the last layer of both prompts in full, and attention
over whole rectangles."""


def count(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def model(tiny):
    shape = replace(tiny, n_layers=3)
    return wrap_gpt2(build_gpt2(shape, 0, CPU), shape), shape


@pytest.mark.parametrize("difference", [0, 1, 10, 15])
@pytest.mark.parametrize("site", SITES)
def test_the_engine_is_above_the_floor_but_not_far(model, site, difference):
    wrapped, shape = model
    case = Case(shape, difference)
    task = make_task(case, 0, CPU)
    run = partial(patch, wrapped, task, site, backend="wavefront", progress=False)
    found = run()  # the first call on a model checks its blocks
    floor = flops.count_sweep(case, site)
    assert floor <= count(run) <= ABOVE * floor
    assert found[site].raw.numel() == flops.count_sites(case, site)
    n_rows = flops.count_rows(case, site)
    runs = found[site].raw.numel() * case.n_prompts
    assert f"{n_rows} of {runs} patched runs were not provably the base run" in found.provenance.notes


@pytest.mark.parametrize("site", SITES)
def test_the_peers_forward_is_counted_to_the_operation(tiny, site):
    case = Case(tiny, 10, n_prompts=3, n_tokens=12)
    hf = build_gpt2(tiny, 0, CPU)
    tokens = make_task(case, 0, CPU).corrupted
    n = case.n_tokens
    # eager attention also computes what the mask hides
    hidden = case.n_prompts * tiny.n_layers * 4 * tiny.d_model * (n * n - n * (n + 1) // 2)
    with torch.no_grad():
        forward = count(lambda: hf(tokens)) - hidden
    assert flops.count_peer_sweep(case, site) == flops.count_sites(case, site) * forward


def test_a_later_difference_is_cheaper(tiny):
    costs = [flops.count_sweep(Case(tiny, at), "resid_pre") for at in range(16)]
    assert costs == sorted(costs, reverse=True)
