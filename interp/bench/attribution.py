"""Attribution of every node at once: its time beside two forwards and one backward, and its memory
beside TransformerLens' recipe of caching everything.

The recipe is that of the attribution patching demo: a cache of every activation of the clean run, of
the corrupted run and of every gradient of it, from a backward pass that reaches the parameters too;
then a product for every node. Compared are the scores of the sites below, before any clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.bench.attribution_report import AttributionRow, report_attribution
from interp.bench.cases import Case, Shape, build_gpt2, make_task, parse_shape, wrap_gpt2
from interp.bench.clock import describe_threads, take_quantiles, time_call
from interp.bench.gate import metric_range, refuse_disagreement
from interp.bench.peer import Peer, build_peers
from interp.bench.report import Report, Say, say_nothing
from interp.errors import BenchError
from interp.models import Model
from interp.models.memory_meter import measure_peak
from interp.models.threads import hold_threads
from interp.patching import patch
from interp.patching.attribution.nodes import GradientRun
from interp.patching.readout import Readout
from interp.results import PatchScores
from interp.tasks import LogitDiff, PromptPairs

NODES = (
    "embed",
    "resid_pre",
    "attn_out",
    "mlp_out",
    "q@pos",
    "k@pos",
    "v@pos",
    "z@pos",
    "mlp_post.n*",
)
"""What is scored at once: residual stream and sublayers by position, heads by position, every neuron."""

PEER_HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "z@pos": "blocks.{}.attn.hook_z",
}
"""Where the peer's caches hold what is compared."""


@dataclass(frozen=True)
class AttributionPlan:
    """What to measure, and how often."""

    shapes: tuple[Shape, ...] = (parse_shape("6x512"), parse_shape("12x768"))
    n_prompts: int = 8
    n_tokens: int = 32
    first_difference: int = 20
    repeats: int = 15
    seed: int = 0
    threads: int | None = None
    """Of PyTorch, for all; ``None`` is what it has."""

    @classmethod
    def quick(cls, seed: int = 0) -> AttributionPlan:
        """Within a minute on two busy cores: the small shape."""
        return cls((parse_shape("6x512"),), repeats=7, seed=seed)

    def __post_init__(self) -> None:
        if min(self.repeats, 1 if self.threads is None else self.threads) < 1:
            raise BenchError(f"repeats and threads are at least 1; got {self.repeats}, {self.threads}.")

    def cases(self) -> list[Case]:
        """One a shape."""
        return [Case(shape, self.first_difference, self.n_prompts, self.n_tokens) for shape in self.shapes]


def run_attribution(
    plan: AttributionPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[AttributionRow]], None] | None = None,
) -> Report[AttributionRow]:
    """Measure every case of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` when our scores and the peer's differ.
    """
    where = device or torch.device("cpu")
    rows = []
    with hold_threads(plan.threads):
        for case in plan.cases():
            row = _run_case(plan, case, where, say)
            rows.append(row)
            if keep is not None:
                keep([row])
        return report_attribution(rows, describe_threads())


def _run_case(plan: AttributionPlan, case: Case, device: torch.device, say: Say) -> AttributionRow:
    say(f"{case}: model of random weights, and the peer's")
    hf = build_gpt2(case.shape, plan.seed, device)
    model = wrap_gpt2(copy.deepcopy(hf), case.shape)
    task = make_task(case, plan.seed, device)
    kind, peer = next(iter(build_peers(hf, case.shape, task).items()))
    say(f"{case}: scores compared with {kind}")
    ours = attribute_nodes(model, task)
    error = max(take_errors(ours, run_recipe(peer)))
    refuse_disagreement(f"attribution {case}, {kind}", error)
    runs: dict[str, Callable[[], object]] = {
        "passes": partial(run_passes, model, task),
        "ours": partial(attribute_nodes, model, task),
        "relevance": partial(attribute_nodes, model, task, "relevance"),
        "recipe": partial(run_recipe, peer),
    }
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(plan.repeats):
        say(f"{case}: repeat {repeat + 1} of {plan.repeats}")
        # one after another, so that a slower minute of the machine hits all
        for name, run in runs.items():
            seconds[name].append(time_call(run, device))
    say(f"{case}: memory")
    peaks = {name: measure_peak(run, device) for name, run in runs.items()}
    times = {name: take_quantiles(found) for name, found in seconds.items()}

    def ratio(name: str, over: str) -> Any:
        return take_quantiles([a / b for a, b in zip(seconds[name], seconds[over], strict=True)])

    over_passes, peer_over = ratio("ours", "passes"), ratio("recipe", "ours")
    return AttributionRow(
        shape=str(case.shape),
        n_heads=case.shape.n_heads,
        d_vocab=case.shape.d_vocab,
        n_prompts=case.n_prompts,
        n_tokens=case.n_tokens,
        seed=plan.seed,
        n_nodes=sum(part.raw.numel() for part in ours.values()),
        repeats=plan.repeats,
        passes_p50=times["passes"].p50,
        ours_p20=times["ours"].p20,
        ours_p50=times["ours"].p50,
        ours_p80=times["ours"].p80,
        relevance_p50=times["relevance"].p50,
        peer=kind,
        peer_p50=times["recipe"].p50,
        over_passes_p20=over_passes.p20,
        over_passes_p50=over_passes.p50,
        over_passes_p80=over_passes.p80,
        relevance_over_passes_p50=ratio("relevance", "passes").p50,
        peer_over_ours_p50=peer_over.p50,
        passes_mib=peaks["passes"] / 2**20,
        ours_mib=peaks["ours"] / 2**20,
        relevance_mib=peaks["relevance"] / 2**20,
        peer_mib=peaks["recipe"] / 2**20,
        max_error=error,
    )


def attribute_nodes(model: Model, task: PromptPairs, method: str = "attribution") -> PatchScores:
    """Ours: every node in one call."""
    return patch(model, task, NODES, method=method, progress=False)


def run_passes(model: Model, task: PromptPairs) -> Tensor:
    """Two forwards and one backward to the embeddings, and nothing else: the least that any gradient
    method does. Parameters are frozen and only what the metric reads is unembedded, as in ours."""
    readout = Readout(task, LogitDiff())
    prompts = torch.arange(len(task), device=model.device)
    with torch.no_grad():
        logits = model(task.clean, task.attention_mask, keep_columns=readout.columns)
        readout.score(logits, prompts)
    run = GradientRun(
        model, task.corrupted, task.attention_mask, readout, prompts, (), None, lambda node, gradient: None
    )
    scores = run.scores()
    run.backward(scores)
    return scores.detach()


def run_recipe(peer: Peer) -> dict[str, Tensor]:
    """The peer's: caches of everything forth and back, then scores [layer, pos, ...] of each site."""
    module, task = peer.module, peer.task
    with torch.no_grad():
        _, clean = module.run_with_cache(task.clean)
    corrupted: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> None:
        corrupted[hook.name] = value.detach()

    def keep_gradient(value: Tensor, hook: Any) -> None:
        gradients[hook.name] = value.detach()

    module.reset_hooks()
    try:
        module.add_hook(_is_cached, keep, "fwd")
        module.add_hook(_is_cached, keep_gradient, "bwd")
        with torch.enable_grad():
            peer.metric(module(task.corrupted)).backward()
    finally:
        module.reset_hooks()
        module.zero_grad(set_to_none=True)
    scores = {}
    for site, hook in PEER_HOOKS.items():
        layers = []
        for layer in range(module.cfg.n_layers):
            name = hook.format(layer)
            layers.append(((clean[name] - corrupted[name]) * gradients[name]).sum(-1).sum(0))
        scores[site] = torch.stack(layers)
    return scores


def _is_cached(name: str) -> bool:
    # points that only work with an option of the peer's, off by default
    return not name.endswith(("_input", "_in", "hook_result"))


def take_errors(ours: PatchScores, theirs: dict[str, Tensor]) -> list[float]:
    """Largest difference at each compared site, as a share of the range of the metric's estimates."""
    errors = []
    for site, found in theirs.items():
        part = ours[site]
        change = part.raw - part.corrupted
        if site == "z@pos":
            found = found.transpose(1, 2)
        errors.append(float((change - found.to(change)).abs().max()) / metric_range(part))
    return errors
