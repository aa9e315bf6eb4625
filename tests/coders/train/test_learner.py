"""One coder's steps against the same steps by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from coder_toys import D_OUT, KINDS, D, draw_rows
from torch import Tensor

from interp.coders import CoderBatch, CoderConfig, CoderShape, TrainingConfig, make_coder
from interp.coders.train.distributed import Processes
from interp.coders.train.learner import CoderLearner
from interp.coders.train.optimizers import ScheduleFreeAdam
from interp.coders.train.start import Scales, find_scales, geometric_median
from interp.errors import CoderError

PLAIN: dict[str, Any] = dict(
    normalise="none", start="mean", batch_size=32, revival="none", learning_rate=0.01, warmup=0.2, decay=0.3
)


def learner_of(config: CoderConfig, steps: int | None = 20, **options: Any) -> CoderLearner:
    wide = config.reads_another_site
    coder = make_coder(config, CoderShape(D, D_OUT if wide else D), seed=1)
    return CoderLearner(coder, TrainingConfig(**{**PLAIN, **options}), steps, Processes())


def batches(n: int, kind: str = "topk") -> list[CoderBatch]:
    return [draw_rows(kind, 32, seed=seed) for seed in range(n)]


def rate_by_hand(step: int) -> float:
    """A rise over a fifth of 20 steps, a fall over the last three tenths."""
    return 0.01 * min(1.0, (step + 1) / 4, (20 - step) / 6)


def loss_by_hand(w: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    pre = (x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    return (x - (pre.relu() * kept) @ w["W_dec"] - w["b_dec"]).square().sum(1).mean()


@pytest.mark.parametrize("limit", [None, 1.0])
def test_steps_are_those_of_a_plain_loop(limit: float | None) -> None:
    learner = learner_of(CoderConfig("topk", d_sae=24, k=3), gradient_norm=limit)
    learner.start(batches(1)[0])
    coder = learner.coder
    w = {
        name: value.detach().clone().requires_grad_()
        for name, value in {
            "W_enc": coder.W_enc,
            "b_enc": coder.b_enc,
            "W_dec": coder.W_dec,
            "b_dec": coder.b_dec,
        }.items()
    }
    adam = torch.optim.Adam(w.values(), lr=1.0)
    for step, batch in enumerate(batches(20)):
        loss = loss_by_hand(w, batch.x, 3)
        loss.backward()
        rows, grad = w["W_dec"], w["W_dec"].grad
        assert grad is not None
        grad -= (grad * rows.detach()).sum(1, keepdim=True) * rows.detach()
        if limit is not None:
            length = sum(float(v.grad.square().sum()) for v in w.values() if v.grad is not None) ** 0.5
            for value in w.values():
                assert value.grad is not None
                value.grad *= min(1.0, limit / (length + 1e-6))
        adam.param_groups[0]["lr"] = rate_by_hand(step)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            rows /= rows.norm(dim=1, keepdim=True)
        found = learner.step(batch)
        torch.testing.assert_close(found.loss, loss, rtol=1e-4, atol=1e-4)
    for name, value in w.items():
        torch.testing.assert_close(getattr(coder, name).detach(), value.detach(), rtol=1e-3, atol=1e-4)


def test_schedule_free_is_the_papers_algorithm() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = ScheduleFreeAdam([parameter], lr=0.1, betas=(0.8, 0.95), eps=1e-6)
    x, z, v, weights = start.clone(), start.clone(), torch.zeros_like(start), 0.0
    for t in range(1, 30):
        rate = 0.1 * min(1.0, t / 10)
        y = 0.2 * z + 0.8 * x
        torch.testing.assert_close(parameter.detach(), y, rtol=1e-9, atol=1e-9)
        grad = torch.randn(5, 3, generator=generator, dtype=torch.float64) + y
        v = 0.95 * v + 0.05 * grad**2
        gamma = rate * (1 - 0.95**t) ** 0.5
        z = z - gamma * grad / (v.sqrt() + 1e-6)
        weights += gamma**2
        c = gamma**2 / weights
        x = (1 - c) * x + c * z
        parameter.grad = grad
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        torch.testing.assert_close(optimizer.mean(parameter), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "schedule-free"])
@pytest.mark.parametrize("kind", ["topk", "gated", "crosscoder", "cross-layer-transcoder"])
def test_decoder_rows_keep_length_one(kind: str, optimizer: str) -> None:
    n = 3 if kind.startswith("cross") else 0
    shape = CoderShape(D, D_OUT if kind.endswith("transcoder") else D, n, n)
    training = TrainingConfig(**{**PLAIN, "optimizer": optimizer})
    learner = CoderLearner(make_coder(KINDS[kind], shape, seed=1), training, 20, Processes())
    for batch in batches(20, kind):
        learner.step(batch)
    for rows in learner.finished().decoder_weights():
        torch.testing.assert_close(rows.detach().norm(dim=1), torch.ones(24), rtol=1e-6, atol=1e-6)
    if optimizer == "schedule-free":
        for rows in learner.coder.decoder_weights():
            torch.testing.assert_close(
                learner.optimizer.mean(rows).norm(dim=1), torch.ones(24), rtol=1e-5, atol=1e-5
            )


@torch.no_grad()
def _share_unexplained(learner: CoderLearner, x: Tensor) -> float:
    return float((x - learner.finished()(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_schedule_free_learns() -> None:
    learner = learner_of(CoderConfig("topk", d_sae=24, k=3), None, optimizer="schedule-free", warmup=0.001)
    learner.start(draw_rows(n=400))
    x = draw_rows(n=300, seed=77).x

    before = _share_unexplained(learner, x)
    for step in range(300):
        learner.step(draw_rows(n=64, seed=step))
    # gaussian rows in 8 dimensions from 3 of 24 latents
    assert _share_unexplained(learner, x) < 0.75 * before


def test_the_geometric_median_is_the_minimum() -> None:
    points = torch.randn(61, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()
    values = points.numpy()
    wanted = scipy.optimize.minimize(
        lambda p: np.linalg.norm(values - p, axis=1).sum(),
        values.mean(0),
        method="BFGS",
        options={"gtol": 1e-9},
    ).x
    np.testing.assert_allclose(geometric_median(points, 1000, 1e-10).numpy(), wanted, atol=1e-5)
    assert not np.allclose(values.mean(0), wanted, atol=0.05)


@pytest.mark.parametrize(
    "kind", ["topk", "batch-topk", "standard", "gated", "jumprelu", "transcoder", "skip-transcoder"]
)
def test_scales_are_folded_to_the_same_function(kind: str) -> None:
    rows = draw_rows(kind, 200)
    learner = learner_of(KINDS[kind], normalise="mean-norm")
    learner.start(rows)
    scales = learner.scales
    assert float((rows.x * scales.inputs).norm(dim=1).mean()) == pytest.approx(D**0.5, rel=1e-5)
    width = rows.target.shape[1]
    assert float((rows.target * scales.outputs).norm(dim=1).mean()) == pytest.approx(width**0.5, rel=1e-5)
    for batch in batches(10, kind):
        learner.step(batch)
    coder, trained = learner.finished(), learner.coder.eval()
    torch.testing.assert_close(
        coder(rows.x), trained(rows.x * scales.inputs) / scales.outputs, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        coder.encode(rows.x), trained.encode(rows.x * scales.inputs) / scales.outputs, rtol=1e-4, atol=1e-4
    )


def test_scaled_gradients_are_per_unit_of_the_scaled_input() -> None:
    rows = draw_rows("gradient", 5)
    assert rows.grad is not None
    scaled = Scales(2.0, 2.0).apply(rows)
    assert scaled.grad is not None and scaled.target is scaled.x
    torch.testing.assert_close((scaled.grad * scaled.x).sum(), (rows.grad * rows.x).sum())


def test_dead_latents_are_counted_by_rows() -> None:
    learner = learner_of(CoderConfig("topk", d_sae=24, k=3), dead_after=64)
    last = torch.zeros(24, dtype=torch.long)
    for batch in batches(12):
        # what fires is known before the step moves weights
        dense = learner.coder.train().loss(batch, learner.state_now()).fired[0].to_dense()
        learner.step(batch)
        last = torch.where((dense > 0).any(0), 0, last + 32)
        assert torch.equal(learner.since_fired[0], last)
        assert torch.equal(learner.dead[0], last >= 64)
        assert learner.dead_frac == pytest.approx(float((last >= 64).float().mean()))


@pytest.mark.parametrize("optimizer", ["adam", "schedule-free"])
@pytest.mark.parametrize("kind", ["topk", "gated", "jumprelu", "transcoder"])
def test_dead_latents_begin_again_at_badly_rebuilt_inputs(kind: str, optimizer: str) -> None:
    options = {"revival": "resample", "resample_every": 0.5, "dead_after": 1_000, "optimizer": optimizer}
    learner = learner_of(KINDS[kind], **options)
    wanted = [3, 11]
    for step, batch in enumerate(batches(10, kind)):
        if step == 9:
            learner.since_fired[0] = 0
            learner.since_fired[0, wanted] = 5_000
            # they do not fire now
            with torch.no_grad():
                learner.coder.b_enc[wanted] = -1e4
        loss = learner.step(batch)
    coder = learner.coder
    x = batches(10, kind)[9].x - (coder.b_dec.detach() if coder.centres_input else 0)
    unit = x / x.norm(dim=1, keepdim=True)
    living = [i for i in range(24) if i not in wanted]
    length = float(coder.W_enc.detach()[living].norm(dim=1).mean())
    error = loss.error / loss.error.norm(dim=1, keepdim=True)
    for latent in wanted:
        row = coder.W_enc.detach()[latent]
        assert float(row.norm()) == pytest.approx(0.2 * length, rel=1e-4)
        found = int((unit @ row).argmax())
        torch.testing.assert_close(row / row.norm(), unit[found], rtol=1e-4, atol=1e-5)
        written = error[found] if kind == "transcoder" else unit[found]
        torch.testing.assert_close(coder.W_dec.detach()[latent], written, rtol=1e-4, atol=1e-5)
        assert float(coder.b_enc.detach()[latent]) == 0
        assert int(learner.since_fired[0, latent]) == 0
        for name, value in learner.optimizer.state[coder.W_enc].items():
            if value.shape == coder.W_enc.shape:
                kept = coder.W_enc.detach()[latent] if name == "z" else torch.zeros(D)
                assert torch.equal(value[latent], kept)
                assert not torch.equal(value[0], torch.zeros(D))
    if kind == "jumprelu":
        assert coder.encoder.threshold.detach()[wanted].tolist() == pytest.approx([0.5, 0.5])  # type: ignore[operator]


def test_a_diverging_step_changes_no_weight() -> None:
    learner = learner_of(CoderConfig("topk", d_sae=24, k=3))
    good, bad = batches(2)
    learner.step(good)
    before = {name: value.clone() for name, value in learner.tensors().items()}
    x = bad.x.clone()
    x[5, 2] = float("nan")
    x[9] = float("inf")
    with pytest.raises(
        CoderError, match=r"step 1 got activations .* in x, 2 of 32 rows .* the first is row 5"
    ):
        learner.step(CoderBatch(x, x))
    with pytest.raises(CoderError, match=r"step 1 diverged: its loss is inf"):
        learner.step(CoderBatch(bad.x * 1e25, bad.x * 1e25))
    after = learner.tensors()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    gradient = learner_of(KINDS["gradient"])
    rows = draw_rows("gradient", 32)
    assert rows.grad is not None
    rows.grad[3] = float("nan")
    with pytest.raises(CoderError, match="in grad, 1 of 32 rows"):
        gradient.step(rows)


def test_first_rows_must_be_finite_and_not_all_zero() -> None:
    training = TrainingConfig()
    with pytest.raises(CoderError, match="not all zero"):
        find_scales(CoderBatch(torch.zeros(4, 3), torch.zeros(4, 3)), training)
    rows = torch.ones(4, 3)
    rows[2] = float("nan")
    with pytest.raises(CoderError, match="first 4 rows are not all finite in x; 1 of 4 rows"):
        find_scales(CoderBatch(rows, rows), replace(training, normalise="none"))
