"""Whether abstaining can be baked in: CASAL on the facts model against the same vector always on, and at random.

A seed draws anew which people are fitted on and which are asked about, the samples that tell known from unknown, the
random direction and the order of training. The gate: biases and orthogonal weights must be the hooks' equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.clock import describe_threads
from interp.bench.report import Report, Say, say_nothing
from interp.bench.steering_bake_report import ALWAYS_ON, CASAL, UNTOUCHED, BakeRow, report_bake
from interp.errors import BenchError
from interp.models import load_model
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.results.baking import BakeReport
from interp.steering.bake import (
    Baked,
    CasalConfig,
    bake_bias,
    bake_orthogonal,
    compare_baked,
    edit_spectrum,
    fit_casal,
    project_writes,
    split_by_knowledge,
)
from interp.steering.bake.abstention import AnswerRates, measure_answers
from interp.steering.bake.casal import Submodule
from interp.steering.contrast import read_contrast
from interp.steering.extract import extract_steering
from interp.steering.operations import Add
from interp.steering.steering import Steering, steer_with
from interp.steering.world import attribute_prompts, attribute_token_ids
from interp.tasks.facts import Fact, list_facts, split_people

FACTS, WORLD = "facts-3l", "mix-4l"
SUBMODULES: tuple[Submodule, ...] = ("W_O", "W_in", "W_out", "mlp")
DIRECTIONS = ("abstain", "ignorance", "random")
EXACT = 1e-4
_WORLD_LAYER, _DOSE = 1, 0.3


@dataclass(frozen=True)
class BakePlan:
    """Which settings, over how many seeds, trained how long."""

    layers: tuple[int, ...] = (0, 1, 2)
    submodules: tuple[Submodule, ...] = ("W_O", "W_out", "mlp")
    amounts: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Of the vector always on. CASAL takes the largest everywhere, and each at the last layer and part."""
    seeds: int = 3
    steps: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    n: int = 128
    """Prompts a side for the gaps."""
    seed: int = 0
    """The first of the seeds."""
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> BakePlan:
        """Within a minute on two busy cores."""
        return cls((2,), ("mlp",), (1.5,), 1, steps=80, n=32, seed=seed)

    def __post_init__(self) -> None:
        if min(self.seeds, self.steps, self.batch_size - 1, self.n) < 1 or not self.learning_rate > 0:
            raise BenchError(
                f"seeds, steps and n are at least 1, the batch size 2, the learning rate above 0; got {self.seeds}, "
                f"{self.steps}, {self.n}, {self.batch_size} and {self.learning_rate}."
            )
        if (
            not self.layers
            or not self.amounts
            or set(self.submodules) - set(SUBMODULES)
            or not self.submodules
        ):
            raise BenchError(
                f"layers, amounts and submodules (of {', '.join(SUBMODULES)}) must not be empty; got {self.layers}, "
                f"{self.amounts} and {self.submodules}."
            )


@dataclass(frozen=True)
class _Asked:
    """Questions of one seed: to fit on, and to measure with."""

    fit_known: list[Fact]
    fit_unseen: list[Fact]
    test_known: list[Fact]
    test_unseen: list[Fact]


def run_bake(
    plan: BakePlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[BakeRow]], None] | None = None,
) -> Report[BakeRow]:
    """Measure every setting of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` where exact bakings are not equal to hooks to 1e-4, and then reports nothing.
    """
    rows: list[BakeRow] = []

    def take(row: BakeRow) -> None:
        rows.append(row)
        if keep is not None:
            keep([row])

    with hold_threads(plan.threads):
        model, world = (load_model(name, device=device) for name in (FACTS, WORLD))
        for seed in range(plan.seed, plan.seed + plan.seeds):
            say(f"seed {seed}: baked beside hooked")
            for row in _measure_gaps(plan, world, seed):
                take(row)
            _run_seed(plan, model, seed, say, take)
        return report_bake(rows, describe_threads())


def _measure_gaps(plan: BakePlan, model: Model, seed: int) -> list[BakeRow]:
    """Bias, orthogonal weights and spectrum on the world model, sentiment at one dose."""
    prompts = attribute_prompts("sentiment", plan.n, seed)
    site = f"resid_post[{_WORLD_LAYER}]"
    steering = extract_steering(model, prompts["positive"], prompts["negative"], site, seed=seed)
    direction = steering.direction()
    negative = attribute_token_ids(model, "sentiment")["negative"]
    begun = time.perf_counter()
    texts = [text for side in prompts.values() for text in side]
    # baking, the hooks it is compared to, and their dose or else strength 1
    cases: dict[str, tuple[Baked, Steering, float | None]] = {
        "bias": (bake_bias(model, steering, _DOSE), steering, _DOSE),
        "orthogonal": (bake_orthogonal(model, direction), project_writes(model, direction), None),
        "spectrum": (edit_spectrum(model, texts, negative), steering, _DOSE),
    }
    rows = []
    for name, (baked, hooks, dose) in cases.items():
        strength = 1.0 if dose is None else None
        found = compare_baked(model, baked, hooks, dose=dose, strength=strength, n=min(plan.n, 64), seed=seed)
        if baked.exact and not float(found.largest[0]) <= EXACT:
            raise BenchError(
                f"{name} is off its hooks by {float(found.largest[0]):.2g} in a logit, more than {EXACT:g}. Nothing is "
                "reported."
            )
        row = BakeRow("gap", WORLD, name, "sentiment", _WORLD_LAYER, "-", "-", dose or 1.0, seed)
        rows.append(replace(_with_gap(row, found), seconds=time.perf_counter() - begun))
    return rows


def _with_gap(row: BakeRow, found: BakeReport) -> BakeRow:
    to_hooked, hooked, baked = found.kl[0, :, 0].tolist()
    return replace(
        row,
        largest_logit=float(found.largest[0]),
        kl_to_hooked=to_hooked,
        kl_hooked=hooked,
        kl_baked=baked,
    )


def _run_seed(plan: BakePlan, model: Model, seed: int, say: Say, take: Callable[[BakeRow], None]) -> None:
    asked = _ask(seed)
    blank = BakeRow("abstention", FACTS, UNTOUCHED, "-", -1, "-", "-", 0.0, seed)
    take(_answered(blank, measure_answers(model, asked.test_known, asked.test_unseen)))
    split = split_by_knowledge(
        model,
        [fact.prompt for fact in (*asked.fit_known, *asked.fit_unseen)],
        [fact.answer for fact in (*asked.fit_known, *asked.fit_unseen)],
        seed=seed,
    )
    vectors = _find_vectors(plan, model, asked, split.known, split.unknown, seed)
    say(f"seed {seed}: {split!r}")
    for layer in plan.layers:
        for direction in DIRECTIONS:
            for amount in plan.amounts:
                begun = time.perf_counter()
                hooks = _always_on(layer, vectors[direction, layer])
                with hooks.apply(model, strength=amount):
                    found = measure_answers(model, asked.test_known, asked.test_unseen)
                row = replace(blank, group=ALWAYS_ON, direction=direction, layer=layer, amount=amount)
                take(replace(_answered(row, found), seconds=time.perf_counter() - begun))
    for direction, config in _settings(plan, seed):
        say(f"seed {seed}: {direction}, {config.submodule} of layer {config.layer}, known {config.known}")
        for row in _fit(
            model, asked, split.known, split.unknown, vectors[direction, config.layer], direction, config
        ):
            take(row)


def _ask(seed: int) -> _Asked:
    (fit_known, test_known), (fit_unseen, test_unseen) = (
        split_people(group, seed) for group in ("known", "unseen")
    )
    return _Asked(*(list_facts(people) for people in (fit_known, fit_unseen, test_known, test_unseen)))


def _find_vectors(
    plan: BakePlan, model: Model, asked: _Asked, known: Sequence[str], unknown: Sequence[str], seed: int
) -> Mapping[tuple[str, int], Float[Tensor, " d_model"]]:
    """By name and layer, from the last token of what is fitted on; random ones are as long as ``abstain``."""
    strangers = [replace(fact, stranger=True).prompt for fact in asked.fit_unseen]
    sites = [f"resid_post[{layer}]@-1" for layer in plan.layers]
    abstain = read_contrast(model, strangers, [fact.prompt for fact in asked.fit_unseen], sites)
    ignorance = read_contrast(model, list(unknown), list(known), sites)
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[str, int], Tensor] = {}
    for layer in plan.layers:
        vector = abstain.at(f"resid_post[{layer}]").mean_difference
        drawn = torch.randn(len(vector), generator=generator)
        found["abstain", layer] = vector
        found["ignorance", layer] = ignorance.at(f"resid_post[{layer}]").mean_difference
        found["random", layer] = drawn * (vector.norm() / drawn.norm())
    return found


def _settings(plan: BakePlan, seed: int) -> list[tuple[str, CasalConfig]]:
    """Every layer and part with the abstaining vector; the last of them also in other ways."""
    first = CasalConfig(
        plan.layers[0],
        amount=max(plan.amounts),
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        seed=seed,
    )
    found = [
        ("abstain", replace(first, layer=layer, submodule=part))
        for layer in plan.layers
        for part in plan.submodules
    ]
    last = found[-1][1]
    found += [("abstain", replace(last, amount=amount)) for amount in plan.amounts if amount != last.amount]
    return [*found, ("abstain", replace(last, known="away")), ("ignorance", last), ("random", last)]


def _fit(
    model: Model,
    asked: _Asked,
    known: Sequence[str],
    unknown: Sequence[str],
    vector: Float[Tensor, " d_model"],
    direction: str,
    config: CasalConfig,
) -> list[BakeRow]:
    """Answers of one fit, and its gap to the same vector always on, on prompts about unseen people."""
    begun = time.perf_counter()
    baked = fit_casal(model, list(known), list(unknown), vector, config)
    seconds = time.perf_counter() - begun
    with baked.installed(model):
        found = measure_answers(model, asked.test_known, asked.test_unseen)
        fitted = measure_answers(model, asked.fit_known, asked.fit_unseen)
    row = BakeRow(
        "abstention",
        FACTS,
        CASAL,
        direction,
        config.layer,
        config.submodule,
        config.known,
        config.amount,
        config.seed,
    )
    row = replace(
        _answered(row, found),
        fit_known_right=fitted.known_right,
        fit_made_up=fitted.made_up,
        distance_before=baked.figures["unknown before"],
        distance_after=baked.figures["unknown after"],
        seconds=seconds,
    )
    if direction != "abstain" or config.known != "keep":
        return [row]
    prompts = [fact.prompt for fact in asked.test_unseen[:64]]
    gap = compare_baked(model, baked, _always_on(config.layer, vector), prompts, strength=config.amount)
    return [row, _with_gap(replace(row, part="gap", group="casal", seconds=0.0), gap)]


def _always_on(layer: int, vector: Float[Tensor, " d_model"]) -> Steering:
    return steer_with({f"resid_post[{layer}]": Add(vector)})


def _answered(row: BakeRow, found: AnswerRates) -> BakeRow:
    return replace(
        row,
        known_right=found.known_right,
        known_abstained=found.known_abstained,
        made_up=found.made_up,
        unseen_abstained=found.unseen_abstained,
    )
