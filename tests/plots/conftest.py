"""One result of every kind of figure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_circuits import circuit_gallery
from fake_coders import coder_gallery
from fake_discrete import discrete_gallery
from fake_ground_truth import ground_truth_gallery
from fake_kernels import kernel_gallery
from fake_latents import latent_gallery
from fake_recovery import recovery_gallery
from fake_results import make_ablation as make_ablation
from fake_results import make_agreement as make_agreement
from fake_results import make_attribution as make_attribution
from fake_results import make_comparison as make_comparison
from fake_results import make_conservation as make_conservation
from fake_results import make_history as make_history
from fake_results import make_lens as make_lens
from fake_results import make_masking as make_masking
from fake_results import make_path as make_path
from fake_results import make_patterns as make_patterns
from fake_results import make_report as make_report
from fake_results import make_roles as make_roles
from fake_results import make_scores as make_scores
from fake_results import make_sets as make_sets
from fake_results import make_site as make_site
from fake_results import make_tokens as make_tokens
from fake_reuse import reuse_gallery
from fake_steering_baking import baking_gallery
from fake_steering_directions import steering_directions_gallery
from fake_steering_dose import steering_dose_gallery
from fake_steering_evaluation import steering_evaluation_gallery
from fake_steering_gate import steering_gate_gallery
from fake_steering_maps import steering_maps_gallery
from fake_steering_search import steering_search_gallery
from toy_checks import check_gallery

from interp.results import (
    Estimate,
)


@pytest.fixture(scope="session")
def gallery(
    make_site, make_scores, make_patterns, make_lens, make_attribution, make_roles, make_report,
    make_ablation, make_agreement, make_history, make_sets, make_path, make_tokens, make_masking,
    make_conservation, make_comparison,
) -> dict[str, Any]:  # fmt: skip
    """A record of every kind, in the sizes that break layouts."""
    stream = [make_site(name, ("layer", "pos"), (12, 40)) for name in ("resid_pre", "attn_out", "mlp_out")]
    few = [make_site(name, ("layer", "pos"), (4, 5)) for name in ("resid_pre", "attn_out", "mlp_out")]
    heads = [make_site(name, ("layer", "head"), (4, 4)) for name in ("z", "q", "pattern")]
    values = [make_site(name, ("layer", "kv_head"), (4, 2)) for name in ("k", "v")]
    singles = [make_site("resid_pre[3]@END", (), (), prompts=4), make_site("z[3.1]", (), (), prompts=4)]
    axes = [
        make_site("resid_post@END", ("layer",), (12,), prompts=4),
        make_site("z[9]", ("head",), (12,)),
        make_site("embed", ("pos",), (11,)),
    ]
    hole = make_site("z", ("layer", "head"), (3, 3))
    hole.raw[1, 1] = float("nan")
    return {
        "patching few": make_scores(*few, *heads, *values),
        "patching many": make_scores(*stream, make_site("z", ("layer", "head"), (12, 12)), direction="noise"),
        "patching heads at positions": make_scores(
            make_site("z@pos", ("layer", "head", "pos"), (12, 12, 40))
        ),
        "patching patterns": make_scores(
            make_site("pattern@pos", ("layer", "head", "dest_pos", "src_pos"), (3, 9, 6, 6))
        ),
        "patching neurons": make_scores(
            make_site("mlp_post.n*", ("layer", "neuron"), (12, 1031)),
            make_site("mlp_post[2].n*", ("neuron",), (130,)),
            make_site("mlp_pre.n*@pos", ("layer", "pos", "neuron"), (2, 5, 300)),
        ),
        "patching bars": make_scores(*axes, *singles),
        "patching nan": make_scores(hole),
        "patching estimated": make_scores(
            make_site("z", ("layer", "head"), (4, 4), magnitude=torch.rand(4, 4)),
            few[0],
            method="attribution*",
        ),
        "patching equal": make_scores(make_site("z", ("layer", "head"), (3, 3), clean=1.0, corrupted=1.0)),
        "attention": make_patterns(),
        "attention many": make_patterns(12, 12, 40),
        "attention long": make_patterns(1, 2, 101),
        "lens": make_lens(),
        "lens many": make_lens(12, 40),
        "lens without targets": make_lens(targets=False, batch=1),
        "attribution": make_attribution(),
        "attribution many": make_attribution(12, 12),
        "attribution plain": make_attribution(1, 1, 1, by_head=None, neurons=(), by_neuron=None),
        "roles": make_roles(),
        "roles many": make_roles(12, 12),
        "subspace": make_report(),
        "ablation": make_ablation(),
        "agreement": make_agreement(),
        "agreement all": make_agreement(chosen=False),
        "sets pairs": make_sets(members=("L0H0", "mlp_out L0", "a @ <s>", "L1H<1>", "z & $q", "%{x}")),
        "sets pairs many": make_sets(144, direction="noise"),
        "sets pairs some": make_sets(sets=[[0, 1], [1, 0], [2, 5]]),
        "sets pairs equal": make_sets(clean=1.0, corrupted=1.0),
        "sets three": make_sets(12, 3, per_prompt=torch.zeros(220, 4)),
        "sets one": make_sets(9, sets=[list(range(9))]),
        "sets greedy": make_path(),
        "tokens": make_tokens(),
        "tokens long": make_tokens((130, 7), run="corrupted"),
        "tokens one": make_tokens((1,), hole=False),
        "tokens many": make_tokens((9,) * 20),
        "masking": make_masking(),
        "masking one share": make_masking((0.2,), prompts=1, draws=1, what="z@pos"),
        "masking undefined": make_masking((0.3,), gaps=(Estimate(*[float("nan")] * 3),)),
        "conservation": make_conservation(),
        "conservation deep": make_conservation(48, gap=2.0),
        "conservation nothing": make_conservation(
            1, relevance=torch.zeros(2), biases=torch.zeros(2), attention=torch.zeros(2), output=0.0
        ),
        "comparison": make_comparison(),
        "comparison many": make_comparison(
            [
                (model, task)
                for model in ("mix<4>l & co", "a/b$c" * 9)
                for task in ("ioi", "<task>", "x" * 40)
            ],
            [*(f"relevance:{i}" for i in range(7)), "<b>$m$</b>"],
        ),
        "comparison one": make_comparison(methods=("ig",), sites=("z",), costs=()),
        "history": make_history(),
        "history plain": make_history(held_out=False),
        **check_gallery(),
        **circuit_gallery(),
        **coder_gallery(),
        **discrete_gallery(),
        **kernel_gallery(),
        **latent_gallery(),
        **ground_truth_gallery(),
        **recovery_gallery(),
        **reuse_gallery(),
        **steering_dose_gallery(),
        **steering_search_gallery(),
        **baking_gallery(),
        **steering_directions_gallery(),
        **steering_evaluation_gallery(),
        **steering_gate_gallery(),
        **steering_maps_gallery(),
    }
