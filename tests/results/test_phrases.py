"""What was done, in words that are true."""

from __future__ import annotations

import pytest

from interp.results import Provenance
from interp.results.phrases import describe_patch, is_estimate, name_method, name_patch


@pytest.mark.parametrize("label", [None, "exact", "path"])
def test_patches_that_were_run(label):
    assert not is_estimate(Provenance("m", method=label))
    made = Provenance("m", method=label, direction="noise")
    assert describe_patch(made) == "corrupted activations patched into the clean run"


@pytest.mark.parametrize(
    "label", ["attribution", "attribution*", "ig:activation", "relevance", "of a later version"]
)
def test_estimates(label):
    made = Provenance("m", method=label, direction="noise")
    assert is_estimate(made)
    assert describe_patch(made) == "estimated effect of patching corrupted activations into the clean run"


def test_names_of_methods():
    known = ("attribution", "attribution*", "ig", "ig:activation", "relevance", "relevance:attnlrp")
    assert [name_method(label) for label in known] == [
        "attribution patching",
        "AtP*",
        "integrated gradients over inputs",
        "integrated gradients over activations",
        "relevance patching (RelP)",
        "relevance patching (attnlrp)",
    ]


@pytest.mark.parametrize(
    ("ablation", "what"),
    [
        (None, "clean activations"),
        ("source", "clean activations"),
        ("zero", "zeros"),
        ("mean", "mean activations"),
        ("mean-per-position", "mean activations by position"),
        ("resample", "other prompts' activations"),
    ],
)
def test_what_is_put_in_depends_on_the_ablation(ablation, what):
    assert name_patch(Provenance("m", direction="denoise", ablation=ablation)) == (what, "corrupted")
