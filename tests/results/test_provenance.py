"""Provenance: a line to read, a dict to keep."""

from __future__ import annotations

import json

from interp.results import Provenance


def test_summary_names_what_matters_and_nothing_else():
    full = Provenance(
        model="mix-4l",
        task="ioi",
        n_prompts=32,
        metric="logit difference",
        direction="denoise",
        ablation="mean",
        method="exact",
        backend="hooked",
        device="cpu",
    )
    assert (
        full.summary() == "mix-4l · ioi (n=32) · logit difference · denoise · mean ablation · exact (hooked)"
    )
    assert Provenance(model="m", ablation="source").summary() == "m"


def test_dict_round_trip_through_json():
    made = Provenance(model="m", seed=0, seconds=1.5, notes=("a",))
    read = Provenance.from_dict(json.loads(json.dumps(made.to_dict())))
    assert read == made
    assert {"python", "torch", "transformer-lens"} <= set(read.versions)
