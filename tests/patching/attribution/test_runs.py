"""How estimates are run: some prompts at a time, in any precision, and leaving nothing behind."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from attribution_cases import assert_near
from model_zoo import make_bare, specimen
from random_tasks import random_task
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp import IntegratedGradients
from interp.models.model import Model
from interp.patching.attribution import run as runner
from interp.patching.attribution.block import Block
from interp.patching.readout import Readout
from interp.results import PatchScores
from interp.tasks.base import PromptPairs

METHODS = (
    "attribution",
    "attribution*",
    IntegratedGradients(steps=3),
    IntegratedGradients("activation", 2),
    "relevance",
)
SITES = ("z", "resid_pre", "k@pos", "q@1:3", "mlp_post.n*", "result@S")


def make_task(lengths: tuple[int, ...] = (7, 5, 6, 7, 4)) -> PromptPairs:
    return random_task(lengths, "left", [1] * len(lengths), seed=9)


def patch(model: Model, task: PromptPairs, method: Any, **options: Any) -> PatchScores:
    return interp.patch(model, task, SITES, method=method, progress=False, **options)


def assert_same(found: PatchScores, usual: PatchScores) -> None:
    for site in usual:
        ours, theirs = found[site], usual[site]
        assert ours.per_prompt is not None and theirs.per_prompt is not None
        assert_near(ours.per_prompt, theirs.per_prompt.double(), site)
        assert ours.clean == pytest.approx(theirs.clean, abs=1e-5)
        assert (ours.magnitude is None) == (theirs.magnitude is None)
        if ours.magnitude is not None and theirs.magnitude is not None:
            assert_near(ours.magnitude, theirs.magnitude.double(), site)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts there were in each block."""
    found: list[int] = []
    run = runner._run

    def counted(block: Block, *args: Any) -> Any:
        found.append(len(block.rows))
        return run(block, *args)

    monkeypatch.setattr(runner, "_run", counted)
    return found


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("options", [{}, {"ablation": "mean", "direction": "noise", "metric": "kl"}], ids=str)
def test_prompts_one_at_a_time(method: Any, options: dict[str, Any], sizes: list[int]) -> None:
    model, task = specimen("llama").model, make_task()
    usual = patch(model, task, method, **options)
    assert sizes == [5]
    found = patch(model, task, method, memory_budget=1, **options)
    assert sizes[1:] == [1] * 5
    assert_same(found, usual)


def test_a_prompt_is_what_it_would_be_alone() -> None:
    model, task = specimen("gpt2").model, make_task()
    for method in METHODS:
        together = patch(model, task, method)
        for row in (1, 4):
            alone = interp.patch(model, task.select([row]), "z", method=method, progress=False)["z"]
            assert_near(together["z"].per_prompt[..., row], alone.per_prompt[..., 0].double(), (method, row))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_halves_and_goes_on(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also halfway through a backward pass, when some scores were there already."""
    model, task = specimen("llama").model, make_task()
    put, tried = Block.put, []

    def too_small(self: Block, *args: Any) -> None:
        put(self, *args)
        if len(self.rows) > 2:
            tried.append(len(self.rows))
            raise error("no room for that many")

    for method in METHODS:
        usual = patch(model, task, method)
        tried.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Block, "put", too_small)
            found = patch(model, task, method)
        assert tried == [5]
        assert_same(found, usual)
        assert model.active_edits == [] and model.rules_in_force == []


def test_a_single_prompt_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise torch.OutOfMemoryError("none at all")

    monkeypatch.setattr(Block, "put", never)
    with pytest.raises(torch.OutOfMemoryError, match="none at all"):
        patch(specimen("gpt2").model, make_task(), "attribution")


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_metric_of_the_whole_batch_gets_all_of_it(method: Any, sizes: list[int]) -> None:
    model, task = specimen("gpt2").model, make_task((6, 6, 6))
    seen: list[int] = []

    def product(logits: Tensor) -> Tensor:
        seen.append(len(logits))
        return logits[:, -1].softmax(-1)[:, :9].sum(1).prod()

    usual = patch(model, task, method, metric=product)
    found = patch(model, task, method, metric=product, memory_budget=1)
    assert sizes == [3, 3] and set(seen) == {3}
    for site in usual:
        assert_near(found[site].raw, usual[site].raw.double(), site)


@cache
def in_half_and_full_precision(family: str) -> tuple[Model, Model]:
    """The same weights, which half precision can hold."""
    half, wide = (make_hf_model(family, seed=4, dtype=torch.bfloat16) for _ in range(2))
    return interp.load_model(half), interp.load_model(wide.float())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_half_precision_is_near(family: str, method: Any) -> None:
    """As near as exact patching in half precision is to itself in full."""
    task = make_task((6, 6, 6))
    sites = ["z", "resid_pre", "k"]
    half, wide = in_half_and_full_precision(family)
    options: dict[str, Any] = {"method": method, "progress": False}
    ours, theirs = (interp.patch(model, task, sites, **options) for model in (half, wide))
    assert ours.provenance.dtype == "bfloat16"
    for site in sites:
        a, b = ours[site].per_prompt, theirs[site].per_prompt
        assert a is not None and b is not None and a.dtype == torch.float32
        spread = float(b.max() - b.min())
        assert float((a - b).abs().mean()) < 0.04 * spread, (site, float((a - b).abs().mean()), spread)
        assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.98


def snapshot(model: Model) -> tuple[Any, ...]:
    """All that a call could leave behind."""
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules()]
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    rest = (
        list(model.active_edits),
        dict(model.edit_handles),
        list(model.rules_in_force),
        dict(model.edited_results),
    )
    return hooks, flags, rest, model.module.training


@cache
def half_frozen() -> Model:
    """A model every other parameter of which has no gradient."""
    model = interp.load_model(copy.deepcopy(make_bare("gemma2")))
    for i, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    return model


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("where", ["metric", "forward", "backward", "nowhere"])
def test_an_interrupt_leaves_nothing_behind(method: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = half_frozen(), make_task((5, 6))
    before, logits = snapshot(model), model(task.clean).detach()

    def interrupted(function: Any, after: int) -> Any:
        calls = iter(range(10_000))

        def call(*args: Any, **options: Any) -> Any:
            if next(calls) >= after:
                raise KeyboardInterrupt
            return function(*args, **options)

        return call

    if where != "nowhere":
        owner, name, after = {
            "metric": (Readout, "score_picked", 2),
            "forward": (type(model.module), "forward", 1),
            "backward": (Block, "put", 4),
        }[where]
        monkeypatch.setattr(owner, name, interrupted(getattr(owner, name), after))
        with pytest.raises(KeyboardInterrupt):
            patch(model, task, method)
    else:
        patch(model, task, method)
    monkeypatch.undo()
    assert snapshot(model) == before
    assert torch.equal(model(task.clean).detach(), logits)
    assert all(parameter.grad is None for parameter in model.module.parameters())
    # and it works again
    assert torch.isfinite(patch(model, task, method)["z"].raw).all()


def test_an_interrupt_from_a_metric_of_ones_own() -> None:
    model, task = specimen("qwen3").model, make_task((5, 5))
    before = snapshot(model)

    def impatient(logits: Tensor) -> Tensor:
        if logits.requires_grad:
            raise KeyboardInterrupt
        return logits[:, -1, 0]

    with pytest.raises(KeyboardInterrupt):
        patch(model, task, "attribution*", metric=impatient)
    assert snapshot(model) == before


def test_progress_counts_every_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []
    made = runner.tqdm

    def watched(*args: Any, **options: Any) -> Any:
        bars.append(made(*args, **options))
        return bars[-1]

    monkeypatch.setattr(runner, "tqdm", watched)
    for budget in (1, 1 << 30):
        interp.patch(specimen("gpt2").model, make_task(), "z", method="ig", memory_budget=budget)
        assert (bars[-1].n, bars[-1].total, bars[-1].desc) == (5, 5, "ig")
    put = Block.put

    def too_small(self: Block, *args: Any) -> None:
        if len(self.rows) > 2:
            raise MemoryError
        put(self, *args)

    monkeypatch.setattr(Block, "put", too_small)
    interp.patch(specimen("gpt2").model, make_task(), "z", method="attribution")
    assert (bars[-1].n, bars[-1].total) == (5, 5)


def test_an_estimate_is_made_beside_other_interventions() -> None:
    """Inside a block of edits the model is the edited one, for estimates too."""
    model, task = specimen("gpt2").model, make_task((6, 6, 6))
    with interp.intervene(model, interp.zero("mlp_out[0]")):
        inside = interp.patch(model, task, "z", method="attribution", progress=False)["z"]
        exact = interp.patch(model, task, "z", progress=False)["z"]
    outside = interp.patch(model, task, "z", method="attribution", progress=False)["z"]
    assert inside.clean == pytest.approx(exact.clean, abs=1e-5) and abs(inside.clean - outside.clean) > 0.01
    assert float((inside.raw - outside.raw).abs().max()) > 0.01


def test_the_record_says_what_was_done() -> None:
    model, task = specimen("llama").model, make_task((6, 6))
    notes = {
        "attribution": "two forward passes and one backward pass",
        "attribution*": "softmax recomputed at q, k and attn_scores; magnitudes by GradDrop",
        "ig": "10 gauss-legendre steps",
        "ig:activation": "10 gauss-legendre steps",
        "relevance": "under relp (norm ln, activation identity, gate half, attention gradient)",
        "relevance:relp-ah": "the AH-rule gives queries, keys and scores none",
        "relevance:attnlrp": "attention half",
        "relevance:gradient": "norm gradient, activation gradient",
    }
    for method, note in notes.items():
        made = interp.patch(
            model, task, "z", method=method, direction="noise", ablation="zero", metric="loss", progress=False
        ).provenance
        assert note in made.notes[-1]
        assert (made.method, made.metric, made.direction, made.ablation) == (method, "loss", "noise", "zero")
        assert made.backend is None and made.seconds is not None and made.n_prompts == 2
