"""The coder-step benchmark: its gate, and what it measures."""

from __future__ import annotations

import pytest
import torch

from interp.bench import coder_step
from interp.bench.coder_step import CoderStepPlan, gradient_error, run_coder_step
from interp.coders import CoderConfig, CoderShape, make_coder
from interp.errors import BenchError
from interp.kernels.coder_step import encode

SMALL = CoderStepPlan(d_in=12, d_sae=64, batch_size=40, k=3, repeats=1, threads=1)

# sae_lens' sparse products
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


def test_a_small_run() -> None:
    kept: list[str] = []
    report = run_coder_step(SMALL, keep=lambda rows: kept.extend(row.architecture for row in rows))
    assert kept == [row.architecture for row in report.rows] == ["topk", "batch-topk"]
    for row in report.rows:
        assert row.max_error < 1e-5
        assert row.peer_over_ours > 0 and row.ours_p20 <= row.ours_p50 <= row.ours_p80
    assert (
        report.last_line.startswith("coder-step topk: ") and "; coder-step batch-topk: " in report.last_line
    )


@pytest.mark.parametrize("architecture", ["topk", "batch-topk"])
def test_no_figure_for_a_wrong_gradient(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = make_coder(CoderConfig(architecture=architecture, d_sae=64, k=3), CoderShape(12, 12))  # type: ignore[arg-type]
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    assert gradient_error(coder, x) < 1e-5
    right = encode.sum_by_latent
    monkeypatch.setattr(encode, "sum_by_latent", lambda *args: right(*args) * 1.001)
    assert gradient_error(coder, x) > 5e-4
    with pytest.raises(BenchError, match="no figure is given"):
        run_coder_step(SMALL)


def test_no_figure_for_another_loss_than_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = coder_step.SAELensPeer.loss
    monkeypatch.setattr(
        coder_step.SAELensPeer, "loss", lambda self, x: (right(self, x)[0] * 1.01, right(self, x)[1])
    )
    with pytest.raises(BenchError, match="no figure is given"):
        run_coder_step(SMALL)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 65}, {"repeats": 0}, {"architectures": ("gated",)}])
def test_bad_plans(wrong: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        CoderStepPlan(**{"d_sae": 64, **wrong})  # type: ignore[arg-type]
