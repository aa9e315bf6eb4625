"""Pieces of the GPU benchmark: sweeps beside TransformerLens, edges, and the memory of a sweep."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.bench import flops
from interp.bench.cases import Case, build_gpt2, make_task, wrap_gpt2
from interp.bench.clock import Quantiles, take_quantiles, time_call
from interp.bench.device_clock import make_timer, measure_product_rate
from interp.bench.edge_peer import EdgePeer
from interp.bench.gate import refuse_disagreement, refuse_other_logits, take_error
from interp.bench.gpu_report import EDGES, MEMORY, OURS, OUT_OF_MEMORY, SKIPPED, SWEEP, GpuRow
from interp.bench.peer import HOOKED, Index, Peer, build_peers
from interp.bench.report import Say
from interp.circuits import build_graph
from interp.circuits.exact import ExactEdges, patch_edges
from interp.errors import BenchError
from interp.kernels import use_kernels
from interp.kernels.graphs import use_graphs
from interp.models.blocks import stack_of
from interp.models.memory_meter import measure_peak
from interp.patching import patch
from interp.patching.cells import plan_sweep
from interp.patching.wavefront import Request, run_wavefront
from interp.patching.wavefront.sweep import Answer
from interp.results import Graph, SiteScores
from interp.tasks import PromptPairs
from interp.tasks.metrics import resolve_metric
from interp.types import parse_site

if TYPE_CHECKING:
    from interp.bench.gpu import GpuPlan

NO_GRAPHS, NO_KERNELS = "interp, no CUDA graphs", "interp, no kernels"
NAN = math.nan
Variant = Callable[[], AbstractContextManager[None]]


class GpuPieces:
    """A model and its peer's on one device, and what has been measured of them."""

    def __init__(self, plan: GpuPlan, device: torch.device, say: Say) -> None:
        self.plan = plan
        self.device = device
        self.say = say
        self.began = time.perf_counter()
        say(f"{plan.shape}: model of random weights")
        self.hf = build_gpt2(plan.shape, plan.seed, device)
        self.model = wrap_gpt2(copy.deepcopy(self.hf), plan.shape)
        self.timer = make_timer(device)
        self.peers: dict[str, Peer] = {}
        self.variants: dict[str, Variant] = {
            OURS: partial(use_kernels, "auto"),
            NO_GRAPHS: partial(use_graphs, False),
            NO_KERNELS: partial(use_kernels, "reference"),
        }

    def run(self) -> Iterator[list[GpuRow]]:
        """Rows, a piece at a time."""
        pieces: list[tuple[str, str, Callable[[], list[GpuRow]]]] = [
            (SWEEP, site, partial(self._measure_sweep, site)) for site in ("z", "resid_pre")
        ]
        pieces.append((EDGES, "edges", self._measure_edges))
        pieces += [
            (MEMORY, site, partial(self._measure_memory, site, budget))
            for site in ("z", "resid_pre")
            for budget in self.plan.budgets
        ]
        for part, what, measure in pieces:
            if part not in self.plan.parts:
                continue
            if time.perf_counter() - self.began > 60 * self.plan.minutes:
                case = Case(self.plan.shape, self.plan.first_difference, n_tokens=self.plan.n_tokens)
                remark = f"{SKIPPED}the {self.plan.minutes:g} minutes are used up"
                yield [self._row(case, part, what, OURS, remark=remark)]
            else:
                yield measure()

    def _measure_sweep(self, site: str) -> list[GpuRow]:
        plan = self.plan
        case = Case(plan.shape, plan.first_difference, plan.sweep_prompts, plan.n_tokens)
        task = make_task(case, plan.seed, self.device)
        peers = self._peers_of_sweeps(task)
        self.say(f"{site}: compared with TransformerLens")
        sites = self._draw_sites(case, site)
        sweeps = {name: partial(self._sweep, name, task, site) for name in self.variants}
        errors = {name: self._compare(name, sweep(), peers, site, sites) for name, sweep in sweeps.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sweeps}
        for repeat in range(plan.repeats):
            self.say(f"{site}: repeat {repeat + 1} of {plan.repeats}")
            for name, sweep in sweeps.items():
                seconds[name].append(time_call(sweep, self.device))
        n_sites = flops.count_sites(case, site)
        fixed: dict[str, Any] = {
            "n_items": n_sites,
            "tflop": flops.count_sweep(case, site) / 1e12,
            "matmul_rate": self._take_rate(),
        }
        ours = take_quantiles(seconds[OURS]).p50
        rows = [
            self._row(
                case, SWEEP, site, name, times=times, ours=ours, n_timed=n_sites, error=errors[name],
                gate=" and ".join(peers), **fixed,
            )
            for name, times in seconds.items()
        ]  # fmt: skip
        for kind, peer in peers.items():
            for autograd in (True, False):
                self.say(f"{site}: clock on {kind}, autograd {'on' if autograd else 'off'}")
                peer.run_some(site, sites[:1], autograd)
                run = peer.run_some(site, sites, autograd, plan.peer_seconds)
                scaled = run.seconds * n_sites / run.n_sites
                name = f"{kind}, autograd {'on' if autograd else 'off'}"
                rows.append(
                    self._row(
                        case, SWEEP, site, name, times=[scaled], ours=ours, n_timed=run.n_sites, **fixed
                    )
                )
        return rows

    def _peers_of_sweeps(self, task: PromptPairs) -> dict[str, Peer]:
        """The peer's models, whose logits are ours; made once, for all sites have the same prompts."""
        if not self.peers:
            self.say("TransformerLens on the same weights")
            self.peers = build_peers(copy.deepcopy(self.hf), self.plan.shape, task)
            with torch.no_grad():
                refuse_other_logits(self.peers, self.model(task.corrupted))
        return self.peers

    def _sweep(self, variant: str, task: PromptPairs, site: str, **options: Any) -> SiteScores:
        with self.variants[variant]():
            return patch(self.model, task, site, backend="wavefront", progress=False, **options)[site]

    def _compare(
        self, name: str, scores: SiteScores, peers: dict[str, Peer], site: str, sites: list[Index]
    ) -> float:
        errors = []
        for kind, peer in peers.items():
            theirs = peer.run_some(site, sites, autograd=False).values
            errors.append(refuse_disagreement(f"{site}, {name}, {kind}", take_error(scores, sites, theirs)))
        return max(errors)

    def _draw_sites(self, case: Case, site: str) -> list[Index]:
        """Random sites that can change something."""
        starts = range(case.first_difference, case.n_tokens)
        second = starts if site == "resid_pre" else range(case.shape.n_heads)
        sites = [(layer, i) for layer in range(case.shape.n_layers) for i in second]
        draw = torch.Generator().manual_seed(self.plan.seed)
        return [sites[i] for i in torch.randperm(len(sites), generator=draw)[: self.plan.sample].tolist()]

    def _measure_edges(self) -> list[GpuRow]:
        plan = self.plan
        case = Case(plan.shape, plan.first_difference, plan.edge_prompts, plan.n_tokens)
        task = make_task(case, plan.seed, self.device)
        graph = build_graph(self.model)
        if graph.n_edges != flops.count_edges(case):
            raise BenchError(
                f"the graph has {graph.n_edges} edges, operations are counted for {flops.count_edges(case)}."
            )
        draw = torch.Generator().manual_seed(plan.seed)
        shuffled = torch.randperm(graph.n_edges, generator=draw)
        chosen = shuffled[: plan.edges or graph.n_edges].sort().values
        some = chosen[torch.randperm(len(chosen), generator=draw)[: plan.sampled_edges]].sort().values
        compared = some[torch.randperm(len(some), generator=draw)[: plan.compared_edges]].sort().values

        def score(variant: str, edges: Tensor) -> ExactEdges:
            with self.variants[variant]():
                return patch_edges(
                    self.model,
                    task,
                    graph,
                    edges.numpy(),
                    direction="noise",
                    backend="wavefront",
                    memory_budget=plan.edge_budget,
                    progress=False,
                )

        gate, theirs = self._score_elsewhere(task, graph, compared, partial(score, NO_KERNELS))
        rate = self._take_rate()
        rows: list[GpuRow] = []
        for name in self.variants:
            edges = chosen if name == OURS else some
            self.say(f"edges: {len(edges)} of {graph.n_edges}, {name}")
            # compared before the clock; the first call tunes kernels too
            error = _compare_edges(score(name, some), some, compared, theirs, f"edges, {name}, {gate}")
            found, seconds = _time_result(partial(score, name, edges), self.device)
            error = max(error, _compare_edges(found, edges, compared, theirs, f"edges, {name}, {gate}"))
            scaled = seconds * graph.n_edges / len(edges)
            rows.append(
                self._row(
                    case, EDGES, "edges", name, times=[scaled], ours=rows[0].p50 if rows else scaled, error=error,
                    gate=gate, n_items=graph.n_edges, n_timed=len(edges), matmul_rate=rate,
                    tflop=flops.count_exact_edges(case) / 1e12,
                )
            )  # fmt: skip
        return rows

    def _score_elsewhere(
        self, task: PromptPairs, graph: Graph, edges: Tensor, score: Callable[[Tensor], ExactEdges]
    ) -> tuple[str, Tensor]:
        """Some edges by the peer, one forward each; by ours in plain PyTorch where there is no such peer."""
        peers = build_peers(copy.deepcopy(self.hf), self.plan.shape, task)
        if HOOKED not in peers:
            return NO_KERNELS, score(edges).scores.mean(1)
        self.say(f"edges: {len(edges)} compared with {HOOKED}")
        return HOOKED, EdgePeer(peers[HOOKED], graph).patch_some(edges.tolist())

    def _measure_memory(self, site: str, budget: int) -> list[GpuRow]:
        plan = self.plan
        at = plan.memory_tokens // 2
        case = Case(plan.shape, at, plan.memory_prompts, plan.memory_tokens)
        task = make_task(case, plan.seed, self.device)
        self.say(f"memory: {site}, budget {budget / 2**20:.4g} MiB")
        cells = plan_sweep(self.model, task, parse_site(site), "denoise").cells
        request = Request(task, [(cell,) for cell in cells], "denoise", "source", resolve_metric(None, task))
        stack, answers, peak, remark = stack_of(self.model), list[Answer](), NAN, ""
        # the rest of a sweep plans and reads; what it holds of the GPU is in here
        fly = partial(run_wavefront, stack, request, budget, progress=False)
        try:
            # what tuning takes is no part of it
            fly()
            peak = measure_peak(lambda: answers.append(fly()), self.device)
        except torch.OutOfMemoryError:
            remark = OUT_OF_MEMORY
        return [
            self._row(
                case,
                MEMORY,
                site,
                OURS,
                n_items=len(cells),
                n_timed=len(cells),
                remark=remark,
                budget_mib=budget / 2**20,
                predicted_mib=answers[0].predicted_peak / 2**20 if answers else NAN,
                peak_mib=peak / 2**20,
            )
        ]

    def _take_rate(self) -> float:
        return measure_product_rate(self.device, torch.float32, self.timer)

    def _row(
        self,
        case: Case,
        part: str,
        what: str,
        implementation: str,
        times: Sequence[float] = (),
        ours: float = NAN,
        **known: Any,
    ) -> GpuRow:
        found = take_quantiles(times) if times else Quantiles(NAN, NAN, NAN)
        names = ("tflop", "matmul_rate", "budget_mib", "predicted_mib", "peak_mib", "error")
        unknown: dict[str, Any] = {"n_items": 0, "n_timed": 0, "gate": "", "remark": ""}
        unknown |= dict.fromkeys(names, NAN)
        figures = unknown | known
        return GpuRow(
            part=part,
            what=what,
            implementation=implementation,
            shape=str(case.shape),
            n_heads=case.shape.n_heads,
            d_vocab=case.shape.d_vocab,
            n_prompts=case.n_prompts,
            n_tokens=case.n_tokens,
            first_difference=case.first_difference,
            seed=self.plan.seed,
            repeats=len(times),
            p20=found.p20,
            p50=found.p50,
            p80=found.p80,
            over_ours=found.p50 / ours,
            flops_share=figures["tflop"] * 1e12 / found.p50 / figures["matmul_rate"],
            **figures,
        )


def _time_result(run: Callable[[], ExactEdges], device: torch.device) -> tuple[ExactEdges, float]:
    found: list[ExactEdges] = []
    seconds = time_call(lambda: found.append(run()), device)
    return found[0], seconds


def _compare_edges(found: ExactEdges, edges: Tensor, compared: Tensor, theirs: Tensor, where: str) -> float:
    """Largest difference on the compared edges, as a share of what the scores span."""
    scores = found.scores.mean(1)
    mine = scores[torch.searchsorted(edges, compared)]
    span = float(scores.max() - scores.min())
    return refuse_disagreement(where, float((mine - theirs.to(mine)).abs().max()) / span)
