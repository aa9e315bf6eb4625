"""Every metric against a plain loop over full logits, on padded and unpadded tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import tasks
from interp.errors import MetricError, TaskError
from interp.tasks import NO_TOKEN, CallableMetric, Metric, PromptPairs, Reads, evaluate_metric, resolve_metric

D_VOCAB = 23
LENGTHS = (4, 7, 5)


def _task(padding: str, metric: Metric | None = None) -> PromptPairs:
    """Three prompts with ragged answers, unpadded (all of seven tokens) or padded on one side."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(0, D_VOCAB, (3, 7), generator=generator)
    lengths = torch.tensor((7, 7, 7) if padding == "none" else LENGTHS)
    columns = torch.arange(7)[None]
    mask = columns >= 7 - lengths[:, None] if padding == "left" else columns < lengths[:, None]
    return PromptPairs(
        clean=ids,
        corrupted=(ids + 1) % D_VOCAB,
        answers=torch.tensor([[3, 8, NO_TOKEN], [NO_TOKEN, 5, NO_TOKEN], [0, 1, 2]]),
        wrong=torch.tensor([[4, NO_TOKEN], [6, 7], [NO_TOKEN, 22]]),
        attention_mask=None if padding == "none" else mask,
        labels={"S1": torch.tensor([1, 3, 0])},
        metric=metric,
    )


def _logits(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(3, 7, D_VOCAB, generator=generator, dtype=torch.float64)).to(dtype)


def _column(padding: str, row: int, at: str) -> int:
    """Where a position is, worked out from the lengths alone."""
    length = 7 if padding == "none" else LENGTHS[row]
    position = length - 1 if at == "END" else (1, 3, 0)[row]
    return position + (7 - length if padding == "left" else 0)


def _plain(name: str, row: Tensor, right: list[int], wrong: list[int], clean: Tensor) -> float:
    """One metric of one row of logits, in Python floats."""
    logits = row.double().tolist()
    total = sum(math.exp(x) for x in logits)
    p = [math.exp(x) / total for x in logits]
    best = max(logits[t] for t in right)
    if name == "logit_diff":
        return sum(logits[t] for t in right) / len(right) - sum(logits[t] for t in wrong) / len(wrong)
    if name == "probability":
        return sum(p[t] for t in right)
    if name == "prob_diff":
        return sum(p[t] for t in right) - sum(p[t] for t in wrong)
    if name == "loss":
        return -math.log(sum(p[t] for t in right))
    if name == "accuracy":
        return float(all(best > x for t, x in enumerate(logits) if t not in right))
    if name == "pair_accuracy":
        return float(best > max(logits[t] for t in wrong))
    if name == "rank":
        return float(sum(x > best for x in logits))
    assert name == "kl"
    q = [math.exp(x) for x in clean.double().tolist()]
    return sum(x / sum(q) * math.log(x / sum(q) / y) for x, y in zip(q, p, strict=True))


def _expected(
    name: str, padding: str, at: str, task: PromptPairs, logits: Tensor, clean: Tensor
) -> list[float]:
    rows = []
    for i in range(3):
        column = _column(padding, i, at)
        right, wrong = ([t for t in side[i].tolist() if t != NO_TOKEN] for side in (task.answers, task.wrong))
        rows.append(_plain(name, logits[i, column], right, wrong, clean[i, column]))
    return rows


@pytest.mark.parametrize("at", ["END", "S1"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", tasks.METRICS)
def test_equal_to_a_loop_over_full_logits(name, padding, at):
    task, clean = _task(padding), _logits(99)
    metric = resolve_metric(f"{name}@{at}", task)
    assert metric.name == (name if at == "END" else f"{name}@{at}")
    for seed in range(5):
        logits = _logits(seed)
        # padding never counts, whatever stands there
        logits[~task.mask] = torch.nan
        found = evaluate_metric(metric, logits, task, clean)
        expected = torch.tensor(_expected(name, padding, at, task, logits, clean))
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", tasks.METRICS)
def test_rows_of_a_sweep_in_any_order(name):
    """A row belongs to the prompt that ``prompts`` says, as in a sweep with many rows a forward."""
    task, clean = _task("left"), _logits(99)
    metric = resolve_metric(name)
    reads = metric.reads(task)
    prompts = torch.tensor([2, 0, 2, 1, 1])
    logits = torch.stack([_logits(seed)[p] for seed, p in enumerate(prompts.tolist())])
    found = metric.score(reads.gather(logits, prompts), prompts, task, reads.gather(clean))
    for i, p in enumerate(prompts.tolist()):
        alone = evaluate_metric(metric, _logits(i), task, clean)
        torch.testing.assert_close(found[i], alone[p])


@pytest.mark.parametrize("name", [n for n in tasks.METRICS if resolve_metric(n).differentiable])
def test_gradients_are_those_of_the_plain_formula(name):
    """By central differences in fp64, at every entry of the logits; zero where nothing is read."""
    task, clean = _task("right"), _logits(99, torch.float64)
    metric = resolve_metric(name)
    logits = _logits(1, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate_metric(metric, x, task, clean), (logits,), atol=1e-6)
    evaluate_metric(metric, logits, task, clean).sum().backward()
    read = torch.zeros(3, 7, dtype=torch.bool)
    read[torch.arange(3), task.columns_of("END")] = True
    assert bool((logits.grad[~read] == 0).all()) and bool((logits.grad[read] != 0).any())


@pytest.mark.parametrize("name", tasks.METRICS)
def test_narrow_logits_are_scored_in_fp32(name):
    task, clean = _task("left"), _logits(99, torch.bfloat16)
    logits = (_logits(2) + 40).to(torch.bfloat16)
    found = evaluate_metric(resolve_metric(name), logits, task, clean)
    wide = evaluate_metric(resolve_metric(name), logits.double(), task, clean.double())
    assert found.dtype == torch.float32 and wide.dtype == torch.float64
    torch.testing.assert_close(found.double(), wide, atol=1e-5, rtol=1e-5)


def test_unused_columns_stay_out_even_as_nan():
    """``vocab`` holds NO_TOKEN where a row has fewer answers; what stands there is anything."""
    task = _task("none")
    for metric in (tasks.LogitDiff(), tasks.PairAccuracy()):
        picked = metric.reads(task).gather(_logits(3)).requires_grad_()
        unused = torch.cat([task.answers, task.wrong], dim=1) == NO_TOKEN
        spoiled = picked.detach().masked_fill(unused[:, None], torch.nan).requires_grad_()
        prompts = torch.arange(3)
        torch.testing.assert_close(metric.score(spoiled, prompts, task), metric.score(picked, prompts, task))
        if metric.differentiable:
            metric.score(spoiled, prompts, task).sum().backward()
            assert bool(torch.isfinite(spoiled.grad).all())


@pytest.mark.parametrize("name", tasks.METRICS)
def test_nan_logits_give_nan_and_no_verdict(name):
    task = _task("none")
    logits = _logits(4)
    logits[1, 6, 5] = torch.nan
    found = evaluate_metric(resolve_metric(name), logits, task, _logits(99))
    assert found.isnan().tolist() == [False, True, False]


def test_ties_are_no_success():
    task, flat = _task("none"), torch.zeros(3, 7, D_VOCAB)
    assert evaluate_metric(tasks.Accuracy(), flat, task).tolist() == [0, 0, 0]
    assert evaluate_metric(tasks.PairAccuracy(), flat, task).tolist() == [0, 0, 0]
    assert evaluate_metric(tasks.Rank(), flat, task).tolist() == [0, 0, 0]


def test_extreme_logits_stay_finite():
    task, clean = _task("none"), _logits(99)
    logits = _logits(5) * 1e4
    for name in tasks.METRICS:
        assert bool(torch.isfinite(evaluate_metric(resolve_metric(name), logits, task, clean)).all()), name
    clean[:, :, 9] = -torch.inf
    logits = _logits(5)
    logits[:, :, 9] = -torch.inf
    ruled_out = evaluate_metric(tasks.KL(), logits.requires_grad_(), task, clean)
    assert bool(torch.isfinite(ruled_out).all())
    ruled_out.sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_kl_is_zero_for_the_clean_run_and_needs_it():
    task = _task("left")
    assert evaluate_metric(tasks.KL(), _logits(1), task, _logits(1)).abs().max() < 1e-6
    with pytest.raises(MetricError, match="kl compares with the clean run"):
        evaluate_metric(tasks.KL(), _logits(1), task)


def test_only_what_is_read_is_asked_for():
    task = _task("left")
    few = tasks.LogitDiff().reads(task)
    assert few.positions.tolist() == [[6], [6], [6]] and few.vocab.shape == (3, 5)
    assert few.vocab[0].tolist() == [3, 8, NO_TOKEN, 4, NO_TOKEN]
    assert tasks.Loss("S1").reads(task).positions.tolist() == [[4], [3], [2]]
    assert tasks.Loss().reads(task).vocab is None


def test_any_callable_is_a_metric():
    task = _task("right")

    def spread(logits: Tensor) -> Tensor:
        assert logits.shape == (3, 7, D_VOCAB)
        return logits.std(dim=(1, 2))

    metric = resolve_metric(spread, task)
    assert isinstance(metric, CallableMetric) and metric.whole_batch and metric.name == "spread"
    logits = torch.cat([_logits(1), _logits(2)])
    prompts = torch.arange(3).repeat(2)
    found = metric.score(metric.reads(task).gather(logits, prompts), prompts, task)
    torch.testing.assert_close(found, logits.std(dim=(1, 2)))


def test_a_scalar_stands_for_the_batch_with_its_gradient():
    task, logits = _task("none"), _logits(1).requires_grad_()
    metric = CallableMetric(lambda x: x[:, -1].square().mean(), name="energy", higher_is_clean=False)
    found = evaluate_metric(metric, logits, task)
    assert found.shape == (3,) and not metric.higher_is_clean and metric.name == "energy"
    found.mean().backward()
    expected = torch.zeros_like(logits)
    expected[:, -1] = 2 * logits.detach()[:, -1] / (3 * D_VOCAB)
    torch.testing.assert_close(logits.grad, expected)
    number = evaluate_metric(CallableMetric(lambda x: 3), _logits(1), task)
    assert number.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("value", [torch.zeros(4), torch.zeros(3, 1), torch.zeros(3, 7)])
def test_a_callable_of_another_shape_is_refused(value):
    with pytest.raises(MetricError, match=r"metric 'mine' returned shape .* one number or one for"):
        evaluate_metric(CallableMetric(lambda x: value, name="mine"), _logits(1), _task("none"))


def test_a_callable_never_sees_a_part_of_the_batch():
    task, metric = _task("none"), CallableMetric(lambda x: x.sum(), name="mine")
    for prompts in ([0, 1], [1, 0, 2], [0, 1, 2, 0]):
        logits = torch.zeros(len(prompts), 7, D_VOCAB)
        with pytest.raises(MetricError, match="all 3 prompts of the task in order"):
            metric.score(logits, torch.tensor(prompts), task)


def test_what_none_means():
    assert isinstance(resolve_metric(None), tasks.LogitDiff)
    assert isinstance(resolve_metric(None, _task("none")), tasks.LogitDiff)
    usual = tasks.ProbDiff()
    assert resolve_metric(None, _task("none", usual)) is usual
    assert resolve_metric(usual, _task("none")) is usual


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("logit_dif", MetricError, "unknown metric 'logit_dif'; did you mean 'logit_diff'"),
        ("logit_diff@S3", TaskError, "unknown position label .* 'S3'; did you mean 'S1'"),
        (tasks.Loss, MetricError, r"got the class Loss; give a metric made from it: Loss\(\)"),
        (3, MetricError, "a metric is a name .* got int: 3"),
    ],
)
def test_unknown_metrics_are_refused(metric: Any, error, message):
    with pytest.raises(error, match=message):
        resolve_metric(metric, _task("none"))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 7, D_VOCAB), "do not fit task 'custom'"),
        (torch.zeros(3, 6, D_VOCAB), "do not fit task 'custom'"),
        (torch.zeros(3, 7, 9), "token 22, but the logits have a vocabulary of 9"),
    ],
)
def test_logits_of_another_task_are_refused(logits, message):
    with pytest.raises(MetricError, match=message):
        evaluate_metric(tasks.LogitDiff(), logits, _task("none"))


def test_logits_that_were_not_picked_are_refused():
    with pytest.raises(
        MetricError, match="reads one column a row and 5 vocabulary entries; got logits of shape"
    ):
        tasks.LogitDiff().score(_logits(1), torch.arange(3), _task("none"))
    with pytest.raises(MetricError, match="reads 3 rows up to column 6"):
        Reads(torch.full((3, 1), 6), None).gather(torch.zeros(3, 4, 5))


def test_recovered_score():
    values = torch.tensor([1.0, 3.0, 2.0, 5.0])
    torch.testing.assert_close(tasks.recovered_score(values, 3.0, 1.0), torch.tensor([0.0, 1.0, 0.5, 2.0]))
    assert tasks.recovered_score(0.5, clean=0.0, corrupted=2.0) == 0.75
    assert math.isnan(tasks.recovered_score(1.0, 2.0, 2.0))
    assert bool(tasks.recovered_score(values, 2.0, 2.0).isnan().all())
