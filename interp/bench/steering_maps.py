"""Maps between two styles: LinEAS beside mean differences and layer-wise maps, on what the model then writes.

The set-up of LinEAS's paper in small: unpaired prompts of both styles, maps at all layers, prompts of the source
style continued. Every method is measured as it was fitted, and again at one KL on neutral text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from interp.bench.clock import describe_threads
from interp.bench.report import Report, Say, say_nothing
from interp.bench.steering_maps_report import EQUAL, FITTED, PATH, SteeringMapsRow, report_steering_maps
from interp.errors import BenchError
from interp.models.load import load_model
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.steering.evaluate.continuation import WrittenWords
from interp.steering.evaluate.controls import random_controls
from interp.steering.evaluate.side_effects import NeutralSideEffects
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.learn import LinEASConfig, fit_layerwise_maps, fit_lineas
from interp.steering.learn.layerwise import MapKind
from interp.steering.learn.lineas import OPTIMIZERS
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.operations import AffineMap
from interp.steering.steering import Steering
from interp.steering.world import attribute_prompts, attributed_texts, parse_target
from interp.tasks.attributes import ATTRIBUTES

_OTHER_PROMPTS = 1000
"""Prompts that are continued are of the seed plus this: none of them was fitted to."""
_NEUTRAL_SEED = 5000
_LEGAL = 0.8
"""Share of legal sentences that the unsteered model must write: sentences cut by the end count against it."""

Fit = Callable[[Model, Sequence[str], Sequence[str]], Steering]
"""From source and target prompts to a steering."""


@dataclass(frozen=True)
class SteeringMapsPlan:
    """Which targets and seeds, and how much is fitted and written."""

    targets: tuple[str, ...] = ("formality=formal", "formality=informal")
    """Of attributes with two values: the source is the other one."""
    seeds: int = 3
    model: str = "mix-4l"
    sites: str = "resid_post"
    layer: int = 2
    """Of the mean difference in one layer."""
    n_fit: int = 32
    n_prompts: int = 48
    n_tokens: int = 24
    n_neutral: int = 24
    steps: int = 150
    dose: float = 0.05
    """Nats a token, of the comparison at equal dose."""
    sparsity: float = 0.01
    path: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)
    """Lambdas of the sparsity path, on the first target and seed."""
    seed: int = 0
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> SteeringMapsPlan:
        """Within a minute on two busy cores."""
        return cls(
            ("formality=formal",),
            1,
            n_prompts=16,
            n_tokens=20,
            n_neutral=8,
            steps=10,
            path=(0.03,),
            seed=seed,
        )

    def __post_init__(self) -> None:
        sizes = (self.seeds, self.n_prompts, self.n_tokens, self.n_neutral, self.steps, self.n_fit - 1)
        if min(sizes) < 1 or (self.threads is not None and self.threads < 1):
            raise BenchError(
                f"seeds, prompts, tokens, neutral rows, steps and threads are at least 1, n_fit at least 2; got "
                f"{(*sizes[:-1], self.threads, self.n_fit)}."
            )
        numbers = (self.dose, self.sparsity, *self.path)
        if not all(number > 0 for number in numbers):
            raise BenchError(f"dose and sparsity are above 0; got {numbers}.")
        for target in self.targets:
            attribute, _ = parse_target(target)
            if len(ATTRIBUTES[attribute]) != 2:
                raise BenchError(
                    f"{target}: {attribute} has more values than two; there is no one source style."
                )
        if not self.targets:
            raise BenchError("give at least one target, such as formality=formal.")


def run_steering_maps(
    plan: SteeringMapsPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[SteeringMapsRow]], None] | None = None,
) -> Report[SteeringMapsRow]:
    """Fit and measure every method of a plan; ``keep`` gets each row as soon as it is there.

    Raises :class:`BenchError` where the unsteered model does not write legal text, or the maps of a fit do not
    do to the activations what the fit says: nothing could be compared.
    """
    rows: list[SteeringMapsRow] = []

    def take(row: SteeringMapsRow) -> None:
        rows.append(row)
        if keep is not None:
            keep([row])

    with hold_threads(plan.threads):
        model = load_model(plan.model, device=device)
        text = read_neutral(model, n=plan.n_neutral, seed=_NEUTRAL_SEED)
        seeds = range(plan.seed, plan.seed + plan.seeds)
        runs = [_Run(plan, model, text, target, seed) for seed in seeds for target in plan.targets]
        runs[0].check()
        runs[0].walk_path(say, take)
        for run in runs:
            run.check()
            run.compare(say, take)
        return report_steering_maps(rows, describe_threads())


def methods_of(plan: SteeringMapsPlan, seed: int) -> Mapping[str, Fit]:
    """Every method that is fitted, by name."""
    one = f"{plan.sites}[{plan.layer}]"

    def layerwise(sites: str, kind: MapKind, sequential: bool) -> Fit:
        return partial(fit_layerwise_maps, sites=sites, kind=kind, sequential=sequential)

    return {
        f"mean difference, layer {plan.layer}": layerwise(one, "shift", False),
        "mean difference, all layers": layerwise(plan.sites, "shift", False),
        "mean difference, sequential": layerwise(plan.sites, "shift", True),
        "line maps, independent": layerwise(plan.sites, "sorted-line", False),
        "line maps, sequential": layerwise(plan.sites, "sorted-line", True),
        "gaussian maps, independent": layerwise(plan.sites, "gaussian", False),
        "gaussian maps, sequential": layerwise(plan.sites, "gaussian", True),
        "LinEAS": _lineas(plan, LinEASConfig(plan.steps, seed=seed)),
        "LinEAS, sparse": _lineas(
            plan, LinEASConfig(plan.steps, optimizer="sgd", sparsity=plan.sparsity, seed=seed)
        ),
    }


def _lineas(plan: SteeringMapsPlan, config: LinEASConfig) -> Fit:
    return partial(fit_lineas, sites=plan.sites, config=config)


class _Run:
    """One target and seed: its prompts, and what is measured on them."""

    def __init__(
        self, plan: SteeringMapsPlan, model: Model, text: NeutralText, target: str, seed: int
    ) -> None:
        self.plan, self.model, self.text, self.target, self.seed = plan, model, text, target, seed
        attribute, value = parse_target(target)
        (other,) = (name for name in ATTRIBUTES[attribute] if name != value)
        found = attribute_prompts(attribute, plan.n_fit, seed)
        self.source, self.goal = found[other], found[value]
        prompts = attributed_texts(plan.n_prompts, _OTHER_PROMPTS + seed, without=target, sentences=1)
        self.written = WrittenWords(model, target, prompts, plan.n_tokens, seed)
        self.effects = NeutralSideEffects(text)
        self.base_loss = self.effects.read(model, None, 0.0)["loss"].value

    def check(self) -> None:
        """Refuse a model whose own text is not legal, and a fit that does not move what it says."""
        legal = self.written.read(self.model, None, 0.0)["legal"].value
        if not legal > _LEGAL:
            raise BenchError(
                f"{legal:.3f} of the unsteered model's sentences are legal; over {_LEGAL} is needed. Nothing is "
                "reported."
            )
        site = f"{self.plan.sites}[{self.plan.layer}]"
        found = fit_layerwise_maps(self.model, self.source, self.goal, site, "shift")
        left = _mean_left(self.model, found, self.source, self.goal, site)
        if not left < 1e-3:
            raise BenchError(
                f"the mean activation at {site} under its own mean difference is off by {left:.2g} of what it was "
                "to be moved. Nothing is reported."
            )

    def compare(self, say: Say, take: Callable[[SteeringMapsRow], None]) -> None:
        """Every method as it was fitted and at equal dose; random directions at equal dose."""
        take(self._measure("unsteered", FITTED, None, 0.0))
        take(self._measure("unsteered", EQUAL, None, 0.0))
        control: Steering | None = None
        for method, fit in methods_of(self.plan, self.seed).items():
            say(f"{self.target}, seed {self.seed}: {method}")
            started = time.perf_counter()
            steering = fit(self.model, self.source, self.goal)
            seconds = time.perf_counter() - started
            control = control or steering
            measure = partial(self._measure, method, steering=steering, seconds=seconds)
            take(measure(FITTED, strength=1.0))
            take(measure(EQUAL, strength=self._strength(steering)))
        assert control is not None
        (random,) = random_controls(control, 1, self.seed)
        take(self._measure("random direction", EQUAL, random, self._strength(random)))

    def walk_path(self, say: Say, take: Callable[[SteeringMapsRow], None]) -> None:
        """Rising sparsity under SGD and under Adam, with a proximal step each."""
        for optimizer in OPTIMIZERS:
            for sparsity in self.plan.path:
                say(f"{self.target}: sparsity {sparsity:g} with {optimizer}")
                started = time.perf_counter()
                config = LinEASConfig(
                    self.plan.steps,
                    optimizer=optimizer,
                    sparsity=sparsity,
                    seed=self.seed,
                )
                steering = fit_lineas(self.model, self.source, self.goal, self.plan.sites, config)
                seconds = time.perf_counter() - started
                take(self._measure(f"LinEAS, {optimizer}", PATH, steering, 1.0, seconds, sparsity))

    def _strength(self, steering: Steering) -> float:
        return float(equal_strengths(self.model, steering, [self.plan.dose], self.text)[0])

    def _measure(
        self,
        method: str,
        setting: str,
        steering: Steering | None,
        strength: float,
        seconds: float = 0.0,
        sparsity: float | None = None,
    ) -> SteeringMapsRow:
        there = not math.isnan(strength)
        words = self.written.read(self.model, steering, strength) if there else {}
        costs = self.effects.read(self.model, steering, strength) if there else {}
        figures = {} if steering is None else steering.figures
        if sparsity is None:
            sparsity = self.plan.sparsity if method == "LinEAS, sparse" else 0.0
        return SteeringMapsRow(
            target=self.target,
            method=method,
            setting=setting,
            seed=self.seed,
            n_fit=self.plan.n_fit,
            n_prompts=self.plan.n_prompts,
            sparsity=sparsity,
            kept_share=_kept_share(steering),
            strength=strength,
            target_rate=words["generated"].value if there else math.nan,
            legal=words["legal"].value if there else math.nan,
            kl=0.0 if steering is None else costs["kl"].value if there else math.nan,
            loss_added=costs["loss"].value - self.base_loss if there else math.nan,
            fit_loss=figures.get("loss", math.nan),
            fit_seconds=seconds,
        )


def _kept_share(steering: Steering | None) -> float:
    """Of the neurons at the steering's sites those that a map changes; full matrices change all."""
    maps = (
        []
        if steering is None
        else [s.operation for s in steering.steps if isinstance(s.operation, AffineMap)]
    )
    if not maps:
        return math.nan
    changed = [
        (one.weight != 1) | (one.bias != 0) if one.weight.ndim == 1 else torch.ones(one.d).bool()
        for one in maps
    ]
    return float(torch.cat(changed).float().mean())


def _mean_left(
    model: Model, steering: Steering, source: Sequence[str], goal: Sequence[str], site: str
) -> float:
    """Distance of the mean activation from the target's, as a share of the unsteered distance."""
    from interp.steering.contrast import read_contrast

    before = read_contrast(model, goal, source, site).at(site).mean_difference
    with steering.apply(model, strength=1.0):
        after = read_contrast(model, source, source, site).at(site).positive.mean(0)
    wanted = read_contrast(model, goal, source, site).at(site).positive.mean(0)
    return float((wanted - after).norm() / before.norm())
