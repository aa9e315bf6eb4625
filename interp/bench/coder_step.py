"""One training step of a sparse coder beside SAELens' trainer, plain PyTorch, and the encoder's product alone.

A step is all of it: loss, gradients, the optimiser's move, unit decoders, firing statistics. Gate before the
clock: every gradient against autograd on dense matrices, and the loss against the peer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.bench.clock import describe_threads, take_quantiles, time_call
from interp.bench.coder_peer import SAELensPeer
from interp.bench.coder_step_report import CoderStepRow, report_coder_step
from interp.bench.report import Report, Say, say_nothing
from interp.coders import Coder, CoderBatch, CoderConfig, TrainingConfig
from interp.coders.encoders import StepState
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.coders.train.distributed import Processes
from interp.coders.train.learner import CoderLearner
from interp.errors import BenchError
from interp.kernels.coder_step import reference
from interp.models.threads import hold_threads

TOLERANCE = 1e-5
"""Largest error of a gradient, relative to its length, and of the loss."""


@dataclass(frozen=True)
class CoderStepPlan:
    """What to measure, and how often."""

    architectures: tuple[str, ...] = ("topk", "batch-topk")
    d_in: int = 512
    d_sae: int = 8192
    batch_size: int = 2048
    k: int = 32
    repeats: int = 15
    seed: int = 0
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> CoderStepPlan:
        """Within a minute on two busy cores."""
        return cls(repeats=3, seed=seed)

    def __post_init__(self) -> None:
        if min(self.d_in, self.d_sae, self.batch_size, self.k, self.repeats) < 1 or self.k > self.d_sae:
            raise BenchError(f"sizes and repeats are at least 1, and k at most d_sae; got {self}.")
        unknown = sorted(set(self.architectures) - {"topk", "batch-topk"})
        if unknown or not self.architectures:
            raise BenchError(f"architectures that the peer trains are topk and batch-topk; got {unknown}.")


def run_coder_step(
    plan: CoderStepPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[CoderStepRow]], None] | None = None,
) -> Report[CoderStepRow]:
    """Measure every architecture of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` when a gradient is not autograd's, or the loss not the peer's.
    """
    where = device or torch.device("cpu")
    rows = []
    with hold_threads(plan.threads):
        for architecture in plan.architectures:
            rows.append(_run(plan, architecture, where, say))
            if keep is not None:
                keep([rows[-1]])
        return report_coder_step(rows, describe_threads())


def _run(plan: CoderStepPlan, architecture: str, device: torch.device, say: Say) -> CoderStepRow:
    config = CoderConfig(architecture=architecture, d_sae=plan.d_sae, k=plan.k)  # type: ignore[arg-type]
    training = TrainingConfig(batch_size=plan.batch_size, buffer_rows=plan.batch_size, seed=plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    x = torch.randn(plan.batch_size, plan.d_in, generator=generator).to(device)
    coder = make_coder(config, CoderShape(plan.d_in, plan.d_in), seed=plan.seed).to(device)
    say(f"{architecture}: gradients compared with autograd, the loss with SAELens")
    error = gradient_error(coder, x)
    rate = training.rate_for(plan.d_sae)
    peers = {
        name: SAELensPeer(coder, plan.batch_size, rate, sparse)
        for name, sparse in (("SAELens", False), ("SAELens, sparse", True))
    }
    error = max(error, *(_peer_error(coder, peer, x) for peer in peers.values()))
    if not error <= TOLERANCE:
        raise BenchError(
            f"{architecture}: gradients or losses differ by {error:.2g}, more than {TOLERANCE:g}; no figure is given "
            "for numbers that are not right."
        )
    learner = CoderLearner(coder, training, None, Processes())
    batch = CoderBatch(x, x)
    W, b = coder.W_enc.detach().clone(), coder.b_enc.detach().clone()
    runs: dict[str, Callable[[], object]] = {
        "gemm": partial(_multiply, x, W, b),
        "ours": partial(learner.step, batch),
        "dense": DenseStep(config, plan.d_in, rate, x).step,
        **{name: partial(peer.step, x) for name, peer in peers.items()},
    }
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(plan.repeats):
        say(f"{architecture}: repeat {repeat + 1} of {plan.repeats}")
        # one after another, so that a slower minute of the machine hits all
        for name, run in runs.items():
            before = time.process_time()
            seconds[name].append(time_call(run, device))
            cpu[name].append(time.process_time() - before)
    times = {name: take_quantiles(found) for name, found in seconds.items()}
    work = {name: take_quantiles(found).p50 for name, found in cpu.items()}

    def ratio(over: str, under: str) -> float:
        return take_quantiles([a / b for a, b in zip(seconds[over], seconds[under], strict=True)]).p50

    return CoderStepRow(
        architecture=architecture,
        d_in=plan.d_in,
        d_sae=plan.d_sae,
        batch_size=plan.batch_size,
        k=plan.k,
        seed=plan.seed,
        repeats=plan.repeats,
        gemm_p50=times["gemm"].p50,
        ours_p20=times["ours"].p20,
        ours_p50=times["ours"].p50,
        ours_p80=times["ours"].p80,
        dense_p50=times["dense"].p50,
        peer_p50=times["SAELens"].p50,
        sparse_peer_p50=times["SAELens, sparse"].p50,
        gemm_cpu=work["gemm"],
        ours_cpu=work["ours"],
        dense_cpu=work["dense"],
        peer_cpu=work["SAELens"],
        sparse_peer_cpu=work["SAELens, sparse"],
        peer_over_ours=ratio("SAELens", "ours"),
        sparse_peer_over_ours=ratio("SAELens, sparse", "ours"),
        ours_over_gemm=ratio("ours", "gemm"),
        dense_over_ours=ratio("dense", "ours"),
        max_error=error,
    )


def _multiply(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, W, b)


def gradient_error(coder: Coder, x: Tensor) -> float:
    """Largest relative error of a gradient against autograd on dense matrices."""
    coder.train()
    parameters = list(coder.parameters())
    found = torch.autograd.grad(coder.loss(CoderBatch(x, x), StepState()).loss, parameters)
    loss = dense_loss(coder.config, x, coder.W_enc, coder.b_enc, coder.W_dec, coder.b_dec)
    wanted = torch.autograd.grad(loss, parameters)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def dense_loss(
    config: CoderConfig, x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor
) -> Tensor:
    """The loss in plain PyTorch."""
    pre = (x - b_dec) @ W_enc.T + b_enc
    assert config.k is not None
    with torch.no_grad():
        if config.architecture == "topk":
            kept = reference.top_reference(pre, config.k)
        else:
            kept = reference.top_of_all_reference(pre, config.k * len(x))
    return (x - torch.where(kept, pre.relu(), 0) @ W_dec - b_dec).square().sum(1).mean()


class DenseStep:
    """A step in plain PyTorch: dense products, autograd, fused Adam."""

    def __init__(self, config: CoderConfig, d_in: int, rate: float, x: Tensor) -> None:
        coder = make_coder(config, CoderShape(d_in, d_in)).to(x.device)
        self.config, self.x = config, x
        self.weights = [coder.W_enc, coder.b_enc, coder.W_dec, coder.b_dec]
        self.optimizer = torch.optim.Adam(self.weights, lr=rate, fused=True)

    def step(self) -> None:
        """Loss, gradients, and the optimiser's move."""
        dense_loss(self.config, self.x, *self.weights).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _peer_error(coder: Coder, peer: SAELensPeer, x: Tensor) -> float:
    """Relative error of our loss, and of the encoder's gradient, against the peer's."""
    loss = coder.loss(CoderBatch(x, x), StepState()).loss
    (ours,) = torch.autograd.grad(loss, coder.W_enc)
    theirs, gradient = peer.loss(x)
    return max(
        abs(float(loss.detach()) - theirs) / abs(theirs), float((ours - gradient).norm() / gradient.norm())
    )
