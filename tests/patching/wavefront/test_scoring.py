"""Scores of rows where kernels read out their residual streams: as from logits, without the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from random_tasks import random_task
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import interp
from interp.errors import PatchError
from interp.kernels.readout.tokens import dispatch as of_tokens
from interp.kernels.readout.vocabulary import dispatch as of_vocabulary
from interp.models.blocks import stack_of
from interp.models.model import Model
from interp.patching.readout import Readout
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.scoring import Scorer
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import METRICS, CallableMetric, Loss, Metric, Reads, Statistics, StatisticsRead

pytestmark = pytest.mark.interpreter

D_VOCAB = 53
FEW_TOKENS = ("logit_diff", "pair_accuracy")


@pytest.fixture(scope="module", name="models")
def models_fixture() -> dict[str, Model]:
    return {family: interp.load_model(make_hf_model(family)) for family in FAMILIES}


@pytest.fixture(name="read_by_kernels")
def read_by_kernels_fixture(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context in which the kernels of the readout run, and no other; it lists those that did."""

    @contextmanager
    def active() -> Iterator[list[str]]:
        ran: list[str] = []

        def run(operation: str, *given: Any, **options: Any) -> bool:
            ran.append(operation)
            return True

        with monkeypatch.context() as patch:
            for module in (of_tokens, of_vocabulary):
                patch.setattr(module, "kernel_runs", run)
            yield ran

    return active


class _Logits(TorchDispatchMode):
    """Largest number of rows of a tensor as wide as the vocabulary."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.rows = 0
        self._d_model = d_model

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            wide = isinstance(value, Tensor) and value.ndim > 1 and value.shape[-1] == D_VOCAB
            if wide and value.shape[-2] != self._d_model:
                self.rows = max(self.rows, value.numel() // D_VOCAB)
        return out


def make_task(seed: int = 3) -> PromptPairs:
    return random_task([4, 4], "right", [2, 1], seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_metric_in_every_family(
    family: str, models: dict[str, Model], read_by_kernels: Callable[[], Any]
) -> None:
    """Each to 1e-5 of its range, and no row's logits are stored."""
    model, task = models[family], make_task()
    for name in METRICS:
        options: dict[str, Any] = {"sites": ["resid_pre"], "metric": name, "backend": "wavefront"}
        expected = interp.patch(model, task, **options, progress=False)
        with read_by_kernels() as ran, _Logits(model.traits.d_model) as logits:
            found = interp.patch(model, task, **options, progress=False)
        wanted = "readout of tokens" if name in FEW_TOKENS else "summary of the vocabulary"
        assert ran.count(wanted) >= 2, name
        # those of the two runs, which are there for whole batches and as a reference
        assert logits.rows <= len(task), name
        for site in options["sites"]:
            a, b = found[site].raw, expected[site].raw
            spread = float(b.max() - b.min())
            assert float((a - b).abs().max()) <= 1e-5 * max(spread, 0.2), (name, site)


def test_without_kernels_rows_have_logits(models: dict[str, Model]) -> None:
    model, task = models["gpt2"], make_task()
    stack_of(model)
    options: dict[str, Any] = {"sites": ["resid_pre"], "metric": "kl", "backend": "wavefront"}
    with _Logits(model.traits.d_model) as logits:
        interp.patch(model, task, **options, progress=False)
    assert logits.rows > len(task)


class _Worst(Metric):
    """The larger of two columns' losses; statistics of both."""

    name = "worst"

    def reads(self, task: PromptPairs) -> Reads:
        return Reads(torch.tensor([[1, 3]]).expand(len(task), -1), None)

    def score(
        self, logits: Tensor, prompts: Tensor, task: PromptPairs, reference: Tensor | None = None
    ) -> Tensor:
        picked = logits.gather(2, task.answers[prompts][:, None].expand(-1, 2, -1))[..., 0]
        above = (logits > picked[..., None]).sum(-1)
        return (logits.logsumexp(-1) - picked).amax(1) + above.sum(1)

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        return StatisticsRead(task.answers, others=True)

    def score_statistics(self, statistics: Statistics, prompts: Tensor, task: PromptPairs) -> Tensor:
        assert statistics.n_above is not None
        losses = statistics.log_sum_exp - statistics.tokens[..., 0]
        return losses.amax(1) + statistics.n_above.sum(1)


def test_columns_before_a_row_begins_are_the_base_runs(
    models: dict[str, Model], read_by_kernels: Callable[[], Any]
) -> None:
    options: dict[str, Any] = {"sites": ["resid_pre"], "metric": _Worst(), "backend": "wavefront"}
    expected = interp.patch(models["llama"], make_task(), **options, progress=False)["resid_pre"].raw
    with read_by_kernels():
        found = interp.patch(models["llama"], make_task(), **options, progress=False)["resid_pre"].raw
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    hooked = interp.patch(models["llama"], make_task(), **options | {"backend": "hooked"}, progress=False)
    torch.testing.assert_close(expected, hooked["resid_pre"].raw, rtol=1e-5, atol=1e-5)


class _DoubledLoss(Loss):
    """Changes how logits are scored and says nothing of statistics."""

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return 2 * super()._score(logits, right, wrong)


def test_a_subclass_that_scores_logits_otherwise_gets_logits(
    models: dict[str, Model], read_by_kernels: Callable[[], Any]
) -> None:
    found = []
    for metric in (Loss(), _DoubledLoss()):
        with read_by_kernels():
            scores = interp.patch(
                models["gpt2"],
                make_task(),
                sites=["resid_pre"],
                metric=metric,
                backend="wavefront",
                progress=False,
            )
        found.append(scores["resid_pre"].raw)
    torch.testing.assert_close(found[1], 2 * found[0], rtol=1e-5, atol=1e-5)


def make_scorer(model: Model, task: PromptPairs, metric: Metric) -> tuple[Scorer, RowPlan, Tensor]:
    """A scorer of three rows, and their final residual streams."""
    stack = stack_of(model)
    readout = Readout(task, metric)
    read, draw = readout.reads.positions, torch.Generator().manual_seed(0)
    base = torch.randn(len(task), read.shape[1], model.traits.d_model, generator=draw)
    vocab = readout.reads.vocab
    scorer = Scorer(stack, readout, stack.unembed(base, vocab), vocab, read)
    nothing = np.zeros(3, dtype=np.int64)
    plan = RowPlan(np.array([1, 0, 1]), np.array([0, 1, 1]), nothing, nothing, nothing, {})
    return scorer, plan, torch.randn(3, read.shape[1], model.traits.d_model, generator=draw)


@torch.no_grad()
def test_scores_on_the_device_are_those_that_are_written(models: dict[str, Model]) -> None:
    scorer, plan, resid = make_scorer(models["gpt2"], make_task(), Loss())
    rows = np.array([2, 0, 1])
    found = scorer.score_on_device(plan, rows, resid)
    written = torch.full((2, 2), torch.nan)
    scorer.score(plan, rows, resid, written)
    assert written[0, 0].isnan()
    assert torch.equal(found, torch.stack([written[1, 1], written[1, 0], written[0, 1]]))


@torch.no_grad()
def test_whole_batches_have_no_score_of_a_row(models: dict[str, Model]) -> None:
    metric = CallableMetric(lambda logits: logits[:, -1, 0].mean())
    scorer, plan, resid = make_scorer(models["gpt2"], make_task(), metric)
    with pytest.raises(PatchError, match="function of whole batches"):
        scorer.score_on_device(plan, np.arange(3), resid)
