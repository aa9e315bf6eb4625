"""Estimates whose sums and relevance backwards run as kernels are those of PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, make_bare, specimen
from random_tasks import random_task
from tiny_models import FAMILIES

import interp
from interp import IntegratedGradients
from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.attribute import ops as sums
from interp.kernels.relevance import ops as relevance
from interp.models.model import Model
from interp.patching.attribution.block import Block
from interp.patching.attribution.change import Change
from interp.results import PatchScores
from interp.tasks.base import PromptPairs

pytestmark = pytest.mark.interpreter

METHODS = (
    "attribution",
    "attribution*",
    "relevance",
    IntegratedGradients(steps=2),
    IntegratedGradients("activation", 2),
)
SITES = (
    "z",
    "resid_pre",
    "k@pos",
    "q[*.1]",
    "pattern",
    "result@S",
    "mlp_post.n*",
    "mlp_pre.n3,5@pos",
    "mlp_pre.n*@-1",
)
NAMES = (
    *FAMILIES,
    "gated",
    "attention_only",
    *(pytest.param(name, marks=pytest.mark.hooked_transformer) for name in HOOKED),
)
LAUNCHES = {
    sums: ("launch_rows", "launch_columns", "launch_strips"),
    relevance: ("launch_pull_units", "launch_gap_units", "launch_scale_rows", "launch_pull_rows"),
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel was launched."""
    counts: Counter[str] = Counter()

    def counted(name: str, launch: Any) -> Any:
        def call(*args: Any) -> Any:
            counts[name] += 1
            return launch(*args)

        return call

    for module, names in LAUNCHES.items():
        for name in names:
            monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return counts


def make_task(side: str | None = "left") -> PromptPairs:
    """Two prompts, padded on a side or of one length."""
    return random_task((5, 4) if side else (5, 5), side or "left", [1, 0], seed=9)


def patch(model: Model, method: Any, task: PromptPairs | None = None, **options: Any) -> PatchScores:
    sites = [site for site in SITES if model.traits.d_mlp or not site.startswith("mlp")]
    return interp.patch(model, task or make_task(), sites, method=method, progress=False, **options)


def assert_same(found: PatchScores, usual: PatchScores, tolerance: float) -> None:
    assert set(found) == set(usual)
    for site in usual:
        ours, theirs = found[site], usual[site]
        assert ours.per_prompt is not None and theirs.per_prompt is not None
        size = max(0.2, float(theirs.per_prompt.max() - theirs.per_prompt.min()))
        assert ours.per_prompt.isfinite().all()
        torch.testing.assert_close(
            ours.per_prompt, theirs.per_prompt, rtol=0, atol=tolerance * size, msg=str(site)
        )
        if theirs.magnitude is not None:
            assert ours.magnitude is not None
            torch.testing.assert_close(ours.magnitude, theirs.magnitude, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_without_kernels(name: str, launched: Counter[str]) -> None:
    model = specimen(name).model
    for method in METHODS:
        if method == "attribution*" and name in HOOKED:
            continue
        launched.clear()
        usual = patch(model, method)
        assert not launched
        with use_kernels("triton"):
            found = patch(model, method)
        assert_same(found, usual, 1e-5)
        assert launched["launch_rows"] >= 6
        if model.traits.d_mlp:
            assert launched["launch_columns"] and launched["launch_strips"]
        has_rules = isinstance(method, str) and method.startswith("relevance")
        shows_norms = model.traits.norm is not None and name not in HOOKED
        for kind, expected in (("rows", shows_norms), ("units", bool(model.traits.d_mlp))):
            assert (launched[f"launch_pull_{kind}"] > 0) == (has_rules and expected)
        # what each rule takes its operation to be is looked at in the forward
        assert launched["launch_gap_units"] == launched["launch_pull_units"]


@pytest.mark.parametrize(
    "options", [{"ablation": "zero"}, {"ablation": "mean-per-position", "direction": "noise"}], ids=str
)
def test_other_replacements_and_no_padding(options: dict[str, Any], launched: Counter[str]) -> None:
    model = specimen("llama").model
    for method in ("attribution", IntegratedGradients(steps=3)):
        usual = patch(model, method, make_task(None), **options)
        with use_kernels("triton"):
            found = patch(model, method, make_task(None), **options)
        assert launched["launch_rows"]
        assert_same(found, usual, 1e-5)


def test_a_subspace_is_narrowed_before(launched: Counter[str]) -> None:
    model, span = specimen("llama").model, torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    sites = [interp.types.parse_site("z").within(span)]
    for method in ("attribution", IntegratedGradients("activation", 2)):
        usual = interp.patch(model, make_task(), sites, method=method, progress=False)
        with use_kernels("triton"):
            found = interp.patch(model, make_task(), sites, method=method, progress=False)
        assert launched["launch_rows"]
        assert_same(found, usual, 1e-5)


@pytest.mark.parametrize("method", ["attribution", "relevance", IntegratedGradients(steps=3)], ids=str)
def test_half_precision_keeps_pairs_and_no_differences(
    method: Any, launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = interp.load_model(make_bare("llama").to(torch.bfloat16))
    usual = patch(model, method)
    seen: list[Change] = []
    add = Block.add

    def watched(self: Block, node: Any, change: Change, *args: Any) -> None:
        seen.append(change)
        add(self, node, change, *args)

    monkeypatch.setattr(Block, "add", watched)
    with use_kernels("triton"):
        found = patch(model, method)
    pairs = [change for change in seen if change.base is not None]
    # the embeddings' own change is a path's
    assert len(pairs) >= len(seen) - 1 and len(pairs) > 5
    assert {change.base.dtype for change in pairs if change.base is not None} == {torch.bfloat16}
    # the chain of the rules rounds after each operation, a kernel once
    assert_same(found, usual, 0.05 if method == "relevance" else 2e-3)


def test_gradients_in_padding_may_be_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = specimen("gpt2").model
    # padding on the left would be cut off, for nothing changes before it ends
    task = make_task("right")
    usual = patch(model, "attribution", task)
    add = Block.add

    def poisoned(self: Block, node: Any, change: Change, gradient: Any, *args: Any) -> None:
        real = self.real(node, gradient.ndim)
        assert real is not None
        add(self, node, change, torch.where(real, gradient, torch.nan), *args)

    monkeypatch.setattr(Block, "add", poisoned)
    with use_kernels("triton"):
        assert_same(patch(model, "attribution", task), usual, 1e-5)


def test_double_precision_is_left_to_pytorch() -> None:
    model = interp.load_model(make_bare("llama").to(torch.float64))
    with use_kernels("triton"), pytest.raises(KernelError, match=r"float64 is not covered"):
        patch(model, "attribution")
