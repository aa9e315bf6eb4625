"""Every edge of a GPT-2: EAP beside the published formula from caches, and exact patching beside one forward
an edge.

The numbers are compared before any clock: EAP at every edge, exact patching at the edges that the peer is
timed on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from interp.bench.cases import Case, Shape, build_gpt2, make_task, parse_shape, wrap_gpt2
from interp.bench.clock import (
    describe_threads,
    measure_matmul_rate,
    take_quantiles,
    time_call,
)
from interp.bench.edge_peer import EdgePeer
from interp.bench.edges_report import EdgeRow, report_edges
from interp.bench.flops import count_edges, count_exact_edges
from interp.bench.gate import refuse_disagreement
from interp.bench.peer import HOOKED, build_peers
from interp.bench.report import Report, Say, say_nothing
from interp.circuits import build_graph, score_edges
from interp.circuits.exact import ExactEdges, patch_edges
from interp.errors import BenchError
from interp.models import Model
from interp.models.memory_meter import measure_peak
from interp.models.threads import hold_threads
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import Graph
from interp.tasks import PromptPairs


@dataclass(frozen=True)
class EdgesPlan:
    """What to measure, and how often."""

    shapes: tuple[Shape, ...] = (parse_shape("12x768"),)
    n_tokens: int = 16
    first_difference: int = 10
    eap_prompts: int = 4
    exact_prompts: int = 1
    exact_edges: int | None = None
    """Random edges; ``None`` is every one."""
    repeats: int = 7
    sample: int = 48
    """Random edges that the peer patches, one forward each."""
    seed: int = 0
    threads: int | None = None
    """Of PyTorch, for all; ``None`` is what it has."""

    @classmethod
    def quick(cls, seed: int = 0) -> EdgesPlan:
        """Within a minute on two busy cores: a small shape and some of its edges."""
        return cls((parse_shape("6x512"),), exact_edges=400, repeats=3, sample=8, seed=seed)

    def __post_init__(self) -> None:
        counts = (self.repeats, self.sample, self.eap_prompts, self.exact_prompts)
        if min(*counts, *(n for n in (self.threads, self.exact_edges) if n is not None)) < 1:
            raise BenchError(f"repeats, samples, prompts, edges and threads are at least 1; got {self}.")


def run_edges(
    plan: EdgesPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[EdgeRow]], None] | None = None,
) -> Report[EdgeRow]:
    """Measure every shape of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` when our numbers and the peer's differ, and where transformer-lens has no
    ``HookedTransformer``.
    """
    where = device or torch.device("cpu")
    rows = []
    with hold_threads(plan.threads):
        for shape in plan.shapes:
            row = _Bout(plan, shape, where, say).run()
            rows.append(row)
            if keep is not None:
                keep([row])
        return report_edges(rows, describe_threads())


class _Bout:
    """One shape."""

    def __init__(self, plan: EdgesPlan, shape: Shape, device: torch.device, say: Say) -> None:
        self.plan = plan
        self.shape = shape
        self.device = device
        self.say = say
        say(f"{shape}: model of random weights, and the peer's")
        self.hf = build_gpt2(shape, plan.seed, device)
        self.model = wrap_gpt2(copy.deepcopy(self.hf), shape)
        self.graph = build_graph(self.model)
        self.rates: list[float] = []

    def run(self) -> EdgeRow:
        """EAP, then exact patching."""
        plan, n = self.plan, self.graph.n_edges
        eap_case = Case(self.shape, plan.first_difference, plan.eap_prompts, plan.n_tokens)
        case = Case(self.shape, plan.first_difference, plan.exact_prompts, plan.n_tokens)
        if n != count_edges(case):
            raise BenchError(f"the graph has {n} edges, the count of operations is of {count_edges(case)}.")
        eap = self._measure_eap(eap_case)
        exact = self._measure_exact(case)
        return EdgeRow(
            shape=str(self.shape),
            n_heads=self.shape.n_heads,
            d_vocab=self.shape.d_vocab,
            n_tokens=plan.n_tokens,
            first_difference=plan.first_difference,
            seed=plan.seed,
            n_edges=n,
            **eap,  # type: ignore[arg-type]
            **exact,  # type: ignore[arg-type]
        )

    def _peer(self, task: PromptPairs) -> EdgePeer:
        peers = build_peers(copy.deepcopy(self.hf), self.shape, task)
        if HOOKED not in peers:
            raise BenchError(
                "edges are compared with a HookedTransformer, which transformer-lens 4 dropped; install "
                "transformer-lens below 4."
            )
        return EdgePeer(peers[HOOKED], self.graph)

    def _measure_eap(self, case: Case) -> dict[str, object]:
        task = make_task(case, self.plan.seed, self.device)
        peer = self._peer(task)
        self.say(f"{case}: eap compared with {peer.kind}")
        # the peer's loss is the mean over prompts, as effects are
        error = take_edge_error(attribute_edges(self.model, task, self.graph), peer.attribute())
        refuse_disagreement(f"eap {case}, {peer.kind}", error)
        runs: dict[str, Callable[[], object]] = {
            "ours": partial(attribute_edges, self.model, task, self.graph),
            "recipe": peer.attribute,
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(self.plan.repeats):
            self.say(f"{case}: eap, repeat {repeat + 1} of {self.plan.repeats}")
            for name, run in runs.items():
                seconds[name].append(time_call(run, self.device))
        self.say(f"{case}: memory")
        peaks = {name: measure_peak(run, self.device) for name, run in runs.items()}
        ours = take_quantiles(seconds["ours"])
        ratios = [theirs / mine for theirs, mine in zip(seconds["recipe"], seconds["ours"], strict=True)]
        return {
            "peer": peer.kind,
            "eap_prompts": case.n_prompts,
            "eap_repeats": self.plan.repeats,
            "eap_p20": ours.p20,
            "eap_p50": ours.p50,
            "eap_p80": ours.p80,
            "eap_peer_p50": take_quantiles(seconds["recipe"]).p50,
            "eap_peer_over_ours_p50": take_quantiles(ratios).p50,
            "eap_mib": peaks["ours"] / 2**20,
            "eap_peer_mib": peaks["recipe"] / 2**20,
            "eap_error": error,
        }

    def _measure_exact(self, case: Case) -> dict[str, object]:
        plan, graph = self.plan, self.graph
        task = make_task(case, plan.seed, self.device)
        peer = self._peer(task)
        draw = torch.Generator().manual_seed(plan.seed)
        shuffled = torch.randperm(graph.n_edges, generator=draw)
        chosen = shuffled[: plan.exact_edges or graph.n_edges].sort().values
        sample = chosen[torch.randperm(len(chosen), generator=draw)[: plan.sample]].tolist()
        self.say(f"{case}: {len(sample)} edges one forward each, with {peer.kind}")
        one_forward: list[float] = []
        theirs = peer.patch_some(sample, one_forward)
        patch_some = partial(patch_exactly, self.model, task, graph)
        patch_some(torch.tensor(sample))
        self._take_rate()
        self.say(f"{case}: {len(chosen)} edges exactly")
        found: list[ExactEdges] = []
        seconds = time_call(lambda: found.append(patch_some(chosen)), self.device)
        self._take_rate()
        scores = found[0].scores.mean(1)
        mine = scores[torch.searchsorted(chosen, torch.tensor(sample))]
        span = float(scores.max() - scores.min())
        error = refuse_disagreement(f"exact edges {case}", float((mine - theirs.to(mine)).abs().max()) / span)
        each = take_quantiles(one_forward).p50
        rate = take_quantiles(self.rates).p50
        share = len(chosen) / graph.n_edges
        operations = count_exact_edges(case) * share
        return {
            "exact_prompts": case.n_prompts,
            "exact_edges": len(chosen),
            "exact_seconds": seconds,
            "exact_rows": len(chosen) * case.n_prompts,
            "one_forward_seconds": each,
            "one_forward_edges": len(sample),
            "exact_ratio": each * len(chosen) / seconds,
            "floor_tflop": operations / 1e12,
            "matmul_gflops": rate / 1e9,
            "exact_over_floor": seconds / (operations / rate),
            "exact_error": error,
        }

    def _take_rate(self) -> None:
        self.rates += [measure_matmul_rate(self.shape.d_model, self.device) for _ in range(3)]


def attribute_edges(model: Model, task: PromptPairs, graph: Graph) -> Tensor:
    """Ours: EAP of every edge in one call."""
    return score_edges(model, task, graph, method="eap", progress=False).effects


def patch_exactly(model: Model, task: PromptPairs, graph: Graph, edges: Tensor) -> ExactEdges:
    """Ours: some edges exactly, in one call."""
    return patch_edges(
        model,
        task,
        graph,
        edges.numpy(),
        direction="noise",
        backend="wavefront",
        memory_budget=DEFAULT_BUDGET,
        progress=False,
    )


def take_edge_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two lists of scores, as a share of the largest."""
    return float((ours - theirs.to(ours)).abs().max() / theirs.abs().max())
