"""Exact sweeps over sites, ours against ``transformer_lens.patching`` in one process.

First the numbers are compared, then the clock is started. Our time is a whole call of
:func:`interp.patch`, runs of both prompts included; the peer's begins with the clean cache made.
Ours is measured before, between and after the peer's runs and pooled, so that a machine that slows
down or speeds up does so for both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from interp.bench import flops
from interp.bench.cases import SITES, Case, Shape, build_gpt2, make_task, parse_shape, wrap_gpt2
from interp.bench.clock import (
    Quantiles,
    describe_threads,
    measure_matmul_rate,
    take_quantiles,
    time_call,
)
from interp.bench.gate import refuse_disagreement, refuse_other_logits, take_error
from interp.bench.peer import Index, Peer, PeerRun, build_peers
from interp.bench.report import Report, Say, say_nothing
from interp.bench.sweep_report import SweepRow, report_sweep
from interp.errors import BenchError, unknown_name
from interp.models import Model
from interp.models.threads import hold_threads
from interp.patching import patch
from interp.results import SiteScores
from interp.tasks import PromptPairs

PeerSites = Literal["headline", "all", "sample"]
"""Which of the peer's variants run every site: the first, each, or none."""


@dataclass(frozen=True)
class SweepPlan:
    """What to measure."""

    shapes: tuple[Shape, ...] = (parse_shape("6x512"), parse_shape("12x768"))
    differences: tuple[int, ...] = (10, 1)
    """First positions at which the prompts of a pair differ."""
    sites: tuple[str, ...] = SITES
    peer: PeerSites = "headline"
    sample: int = 16
    """Random sites that are compared, and on which a sampled variant of the peer is timed."""
    seconds: float = float("inf")
    """After so many a sampled variant of the peer stops, and so do repeats of ours in a row; one is always done."""
    repeats: int = 5
    """Of ours before the peer, and again after it."""
    between: int = 2
    """Of ours after each variant of the peer."""
    seed: int = 0
    threads: int | None = None
    """Of PyTorch, for both sides; ``None`` is what it has."""

    @classmethod
    def quick(cls, seed: int = 0) -> SweepPlan:
        """A minute on two busy cores: the small shape, and the peer on as many sites as seconds allow."""
        small = parse_shape("6x512")
        return cls((small,), (10,), peer="sample", sample=4, seconds=2, repeats=3, seed=seed)

    def __post_init__(self) -> None:
        for kind, got, known in (("site", self.sites, SITES), ("peer", (self.peer,), get_args(PeerSites))):
            for name in set(got) - set(known):
                raise BenchError(unknown_name(kind, name, known))
        counts = (self.sample, self.repeats, 1 if self.threads is None else self.threads)
        if min(counts) < 1:
            raise BenchError(f"sample, repeats and threads are at least 1; got {counts}.")
        self.cases()

    def cases(self) -> list[Case]:
        """Every shape at every difference."""
        return [Case(shape, difference) for shape in self.shapes for difference in self.differences]


def run_sweep(
    plan: SweepPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[SweepRow]], None] | None = None,
) -> Report[SweepRow]:
    """Measure every case of a plan; ``keep`` gets the rows of each as soon as they are there.

    Raises :class:`BenchError` when our numbers and the peer's differ.
    """
    with hold_threads(plan.threads):
        rows = _run_cases(plan, device or torch.device("cpu"), say, keep or (lambda found: None))
        return report_sweep(rows, describe_threads())


def _run_cases(
    plan: SweepPlan, device: torch.device, say: Say, keep: Callable[[Sequence[SweepRow]], None]
) -> list[SweepRow]:
    rows: list[SweepRow] = []
    for shape in plan.shapes:
        say(f"{shape}: model of random weights, and the peer's")
        hf = build_gpt2(shape, plan.seed, device)
        model = wrap_gpt2(copy.deepcopy(hf), shape)
        for case in (case for case in plan.cases() if case.shape == shape):
            task = make_task(case, plan.seed, device)
            peers = build_peers(copy.deepcopy(hf), shape, task)
            with torch.no_grad():
                refuse_other_logits(peers, model(task.corrupted))
            for site in plan.sites:
                found = _Bout(plan, case, model, task, peers, site, say).run()
                rows += found
                keep(found)
    return rows


class _Bout:
    """One case and one site: the comparison, then the clock."""

    def __init__(
        self,
        plan: SweepPlan,
        case: Case,
        model: Model,
        task: PromptPairs,
        peers: dict[str, Peer],
        site: str,
        say: Say,
    ) -> None:
        self.plan = plan
        self.case = case
        self.model = model
        self.task = task
        self.peers = peers
        self.site = site
        self.say = say
        self.ours: list[float] = []
        self.rates: list[float] = []
        """Of matrix products, measured before each repeat of ours."""
        self.where = f"{site} {case}"

    def run(self) -> list[SweepRow]:
        """A row for each variant of the peer."""
        sample = self._draw_sites()
        scores = self._patch()
        errors = []
        for kind, peer in self.peers.items():
            self.say(f"{self.where}: {len(sample)} sites compared with {kind}")
            theirs = peer.run_some(self.site, sample, autograd=False).values
            errors.append(refuse_disagreement(f"{self.where}, {kind}", take_error(scores, sample, theirs)))
        self._time_ours(self.plan.repeats)
        runs: dict[tuple[str, bool], PeerRun] = {}
        for kind in self.peers:
            for autograd in (True, False):
                run, indices = self._time_peer(kind, autograd, sample, headline=not runs)
                errors.append(
                    refuse_disagreement(f"{self.where}, {kind}", take_error(scores, indices, run.values))
                )
                runs[kind, autograd] = run
                self._time_ours(self.plan.between)
        self._time_ours(self.plan.repeats)
        return self._make_rows(runs, take_quantiles(self.ours), max(errors))

    def _patch(self) -> SiteScores:
        return patch(self.model, self.task, self.site, backend="wavefront", progress=False)[self.site]

    def _time_ours(self, repeats: int) -> None:
        device = self.task.clean.device
        spent = 0.0
        for _ in range(repeats):
            self.rates.append(measure_matmul_rate(self.case.shape.d_model, device))
            self.ours.append(time_call(self._patch, device))
            spent += self.ours[-1]
            if spent >= self.plan.seconds:
                break

    def _time_peer(
        self, kind: str, autograd: bool, sample: list[Index], headline: bool
    ) -> tuple[PeerRun, list[Index]]:
        every = self.plan.peer == "all" or (self.plan.peer == "headline" and headline)
        n = flops.count_sites(self.case, self.site) if every else len(sample)
        self.say(f"{self.where}: clock on {kind}, autograd {'on' if autograd else 'off'}, {n} sites")
        if every:
            return self.peers[kind].run_all(self.site, autograd), self._sites()
        run = self.peers[kind].run_some(self.site, sample, autograd, self.plan.seconds)
        return run, sample[: run.n_sites]

    def _sites(self) -> list[Index]:
        n = self.case.n_tokens if self.site == "resid_pre" else self.case.shape.n_heads
        return [(layer, i) for layer in range(self.case.shape.n_layers) for i in range(n)]

    def _draw_sites(self) -> list[Index]:
        """Random sites, at most one in four of them before the first difference, where nothing changes."""
        sites, at = self._sites(), self.case.first_difference
        draw = torch.Generator().manual_seed(self.plan.seed)
        shuffled = [sites[i] for i in torch.randperm(len(sites), generator=draw).tolist()]
        inert = [index for index in shuffled if self.site == "resid_pre" and index[1] < at]
        live = [index for index in shuffled if index not in inert]
        n_inert = min(len(inert), self.plan.sample // 4)
        return live[: self.plan.sample - n_inert] + inert[:n_inert]

    def _make_rows(
        self, runs: dict[tuple[str, bool], PeerRun], ours: Quantiles, error: float
    ) -> list[SweepRow]:
        rate = take_quantiles(self.rates).p50
        case, n_sites = self.case, flops.count_sites(self.case, self.site)
        operations = flops.count_sweep(case, self.site)
        floor = operations / rate
        rows = []
        for (kind, autograd), run in runs.items():
            seconds = run.seconds * n_sites / run.n_sites
            rows.append(
                SweepRow(
                    shape=str(case.shape),
                    n_heads=case.shape.n_heads,
                    d_vocab=case.shape.d_vocab,
                    n_prompts=case.n_prompts,
                    n_tokens=case.n_tokens,
                    first_difference=case.first_difference,
                    seed=self.plan.seed,
                    site=self.site,
                    n_sites=n_sites,
                    n_rows=flops.count_rows(case, self.site),
                    peer=kind,
                    peer_autograd=autograd,
                    peer_seconds=seconds,
                    peer_sites_timed=run.n_sites,
                    ours_p20=ours.p20,
                    ours_p50=ours.p50,
                    ours_p80=ours.p80,
                    ours_repeats=len(self.ours),
                    ratio=seconds / ours.p50,
                    floor_seconds=floor,
                    floor_gflop=operations / 1e9,
                    matmul_gflops=rate / 1e9,
                    ours_over_floor=ours.p50 / floor,
                    max_error=error,
                )
            )
        return rows
