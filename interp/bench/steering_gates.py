"""Gated steering in mix-4l: controllers and conditions against steering that is always on.

The steering makes text formal, at one dose. It should act on prompts about music, or about music in the past
tense. Every gate is compared at the same false-positive rates, calibrated on prompts of their own; a seed draws
all prompts, continuations and controllers anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.clock import describe_threads
from interp.bench.report import Report, Say, say_nothing
from interp.bench.steering_gates_report import SteeringGateRow, report_steering_gates
from interp.bench.steering_gates_tasks import TASKS, GatePrompts, draw_prompts, fit_task_condition
from interp.errors import BenchError
from interp.models import load_model
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.results.steering_gate import GatedEffects
from interp.steering.conditions import Combination, Condition
from interp.steering.contrast import read_contrast
from interp.steering.controller import ControllerConfig, fit_controller
from interp.steering.controller.config import Objective
from interp.steering.dose import find_strength
from interp.steering.extract.extract import steering_of
from interp.steering.gated.behaviour import Behaviour, raise_words
from interp.steering.gated.effects import measure_gated
from interp.steering.gated.rates import area
from interp.steering.gated.rollouts import continue_prompts
from interp.steering.gated.scored import ScoredGate, score_gates
from interp.steering.gates import Gate
from interp.steering.monitor.threshold import conformal_threshold
from interp.steering.neutral import read_neutral
from interp.steering.steering import Steering
from interp.steering.world import attribute_prompts, attribute_token_ids
from interp.types import Site

ACT_AT = ("resid_post[1]", "resid_post[2]", "resid_post[3]")
READ_AT = ("resid_post[0]", "resid_post[1]")
AS_TRAINED = float("nan")
"""In place of a false-positive rate: no threshold."""


@dataclass(frozen=True)
class SteeringGatesPlan:
    """Which tasks and seeds, how many prompts, and how long controllers train."""

    tasks: tuple[str, ...] = tuple(TASKS)
    seeds: int = 5
    fprs: tuple[float, ...] = (0.05, 0.01)
    """False-positive rates at which gates are compared."""
    dose: float = 0.3
    """Nats of KL on neutral text, of the steering without a gate."""
    n_fit: int = 96
    """Prompts to act on that gates are fitted on, and twice as many to leave alone."""
    n_calibrate: int = 200
    """Prompts to leave alone that thresholds rest on."""
    n_test: int = 100
    """Prompts to act on that figures are of, and twice as many to leave alone."""
    n_steps: int = 80
    """Of controllers trained on behaviour; those on labels, whose steps cost next to nothing, take thrice as many."""
    n_tokens: int = 12
    """Of continuations."""
    seed: int = 0
    """The first of the seeds."""
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> SteeringGatesPlan:
        """Within a minute on two busy cores."""
        return cls(
            ("music",), 2, (0.05,), n_fit=32, n_calibrate=60, n_test=32, n_steps=12, n_tokens=8, seed=seed
        )

    def __post_init__(self) -> None:
        sizes = (self.seeds, self.n_calibrate, self.n_test, self.n_steps, self.n_tokens, self.n_fit // 16)
        if min(sizes) < 1 or (self.threads is not None and self.threads < 1):
            raise BenchError(
                f"seeds, prompts, steps, tokens and threads are at least 1, prompts to fit at least 16; got "
                f"{sizes[:5]}, {self.threads} and {self.n_fit}."
            )
        if not self.tasks or set(self.tasks) - set(TASKS):
            raise BenchError(f"tasks are some of {', '.join(TASKS)}; got {', '.join(self.tasks) or 'none'}.")
        few = [rate for rate in self.fprs if not 0 < rate < 1 or rate * (self.n_calibrate + 1) < 1]
        if few or not self.fprs:
            raise BenchError(
                f"{self.n_calibrate} prompts cannot tell false-positive rates {few or self.fprs}; give some in (0, 1), "
                "or more prompts."
            )
        if not self.dose > 0:
            raise BenchError(f"the dose is above 0; got {self.dose}.")


@dataclass(frozen=True, eq=False)
class _Setting:
    """What all arms of one task and seed share."""

    model: Model
    plan: SteeringGatesPlan
    task: str
    seed: int
    steering: Steering
    strength: float
    behaviour: Behaviour
    prompts: GatePrompts


@dataclass(frozen=True, eq=False)
class _Arm:
    """A gate at any threshold, and the scores that thresholds are of."""

    name: str
    at: Callable[[float], Gate]
    calibrate: Float[Tensor, " n"]
    act: Float[Tensor, " m"]
    leave: Float[Tensor, " k"]
    trained: Gate | None = None
    """Without a threshold, where that means something."""
    seconds: float = 0.0


def run_steering_gates(
    plan: SteeringGatesPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[SteeringGateRow]], None] | None = None,
) -> Report[SteeringGateRow]:
    """Fit and measure every gate of a plan; ``keep`` gets the rows of each task and seed as they are there.

    Raises :class:`BenchError` where a gate that is open or closed everywhere is not as good as none or all.
    """
    rows: list[SteeringGateRow] = []
    with hold_threads(plan.threads):
        model = load_model("mix-4l", device=str(device or "cpu"))
        for seed in range(plan.seed, plan.seed + plan.seeds):
            steering, behaviour = _extract(model, seed)
            strength = find_strength(model, steering, plan.dose, read_neutral(model, n=32, seed=seed))
            for task in plan.tasks:
                say(f"{task}, seed {seed}")
                prompts = draw_prompts(task, plan.n_fit, plan.n_calibrate, plan.n_test, seed)
                setting = _Setting(model, plan, task, seed, steering, strength, behaviour, prompts)
                _check_gates(setting)
                found = _measure(setting, _arms(setting, say))
                rows += found
                if keep is not None:
                    keep(found)
        return report_steering_gates(rows, describe_threads())


def _extract(model: Model, seed: int) -> tuple[Steering, Behaviour]:
    texts = attribute_prompts("formality", 192, seed=1000 + seed)
    contrast = read_contrast(model, texts["formal"], texts["informal"], ACT_AT, paired=False)
    ids = attribute_token_ids(model, "formality")
    return steering_of(contrast), raise_words(ids["formal"], ids["informal"], "log odds of formal words")


def _check_gates(setting: _Setting) -> None:
    """An open gate is none, a closed one leaves the model alone, and two act where both are open."""
    model, steering = setting.model, setting.steering
    tokens, mask = model.to_padded_tokens(list(setting.prompts.test_act[:4] + setting.prompts.test_leave[:4]))
    generator = torch.Generator().manual_seed(setting.seed)
    site = Site("resid_post", 1)

    def condition(threshold: float) -> Condition:
        return Condition(site, torch.randn(model.traits.d_model, generator=generator), threshold)

    def run(gate: Gate | None) -> Tensor:
        with torch.no_grad(), steering.gated(gate).apply(model, strength=setting.strength):
            return model(tokens, mask)

    with torch.no_grad():
        plain, full = model(tokens, mask), run(None)
    first, second = condition(0.0), condition(0.0)
    alone = [run(gate) for gate in (first, second)]
    open_ = [(one != plain).flatten(1).any(1) for one in alone]
    wanted = {
        "open": (condition(-2.0), full),
        "closed": (condition(2.0), plain),
        "both": (first & second, torch.where((open_[0] & open_[1])[:, None, None], full, plain)),
        "either": (first | second, torch.where((open_[0] | open_[1])[:, None, None], full, plain)),
    }
    for name, (gate, logits) in wanted.items():
        error = float((run(gate) - logits).abs().max())
        if not error <= 1e-4:
            raise BenchError(
                f"a gate that is {name} is off by {error:.2g} in the logits. Nothing is reported."
            )


def _arms(setting: _Setting, say: Say) -> list[_Arm]:
    arms = [_combined(setting)] if len(TASKS[setting.task]) > 1 else []
    arms.append(_condition(setting, "condition"))
    kinds: dict[str, tuple[Objective, str]] = {
        "controller": ("both", ""),
        "controller, behaviour": ("behaviour", ""),
        "controller, labels": ("labels", ""),
        "controller, labels, last token": ("labels", "@-1"),
    }
    for name, (objective, at) in kinds.items():
        say(f"{setting.task}, seed {setting.seed}: {name}")
        arms.append(_controller(setting, name, objective, at))
    return [*arms, _condition(setting, "random direction"), _condition(setting, "shuffled labels")]


def _scored(setting: _Setting, name: str, gate: ScoredGate, begun: float, trained: bool = False) -> _Arm:
    p = setting.prompts
    calibrate, act, leave = (
        score_gates(setting.model, [gate], side)[0] for side in (p.calibrate, p.test_act, p.test_leave)
    )
    seconds = time.perf_counter() - begun
    return _Arm(name, gate.at_threshold, calibrate, act, leave, gate if trained else None, seconds)


def _condition(setting: _Setting, name: str) -> _Arm:
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(setting.seed)
    p = setting.prompts
    if name == "random direction":
        direction = torch.randn(setting.model.traits.d_model, generator=generator)
        gate = Condition(Site("resid_post", 1), direction, 0.0)
    else:
        act, leave = p.fit_act, p.fit_leave
        if name == "shuffled labels":
            every = act + leave
            order = torch.randperm(len(every), generator=generator).tolist()
            mixed = tuple(every[i] for i in order)
            act, leave = mixed[: len(act)], mixed[len(act) :]
        gate = fit_task_condition(setting.model, act, leave, READ_AT, setting.seed)
    return _scored(setting, name, gate, begun)


def _controller(setting: _Setting, name: str, objective: Objective, at: str) -> _Arm:
    begun = time.perf_counter()
    n_steps = setting.plan.n_steps * (3 if objective == "labels" else 1)
    fit = fit_controller(
        setting.model,
        setting.steering,
        setting.prompts.fit_act,
        setting.prompts.fit_leave,
        setting.behaviour,
        strength=setting.strength,
        sites=[site + at for site in READ_AT],
        n_tokens=setting.plan.n_tokens,
        config=ControllerConfig(objective=objective, n_steps=n_steps, seed=setting.seed),
    )
    return _scored(setting, name, fit.controller, begun, trained=True)


def _combined(setting: _Setting) -> _Arm:
    """A condition for each attribute, fitted on that attribute's own labels, both to be open.

    A prompt's score is the smaller of its two, each in standard deviations above the mean of the prompts without
    the attribute, so that one number moves both thresholds.
    """
    begun = time.perf_counter()
    p = setting.prompts
    parts: list[Condition] = []
    nulls: list[tuple[float, float]] = []
    for attribute, value in TASKS[setting.task].items():
        yes, no = p.split_fit(attribute, value)
        part = fit_task_condition(setting.model, yes, no, READ_AT, setting.seed)
        scores = score_gates(setting.model, [part], no)[0].double()
        parts.append(part)
        nulls.append((float(scores.mean()), float(scores.std())))

    def score(prompts: Sequence[str]) -> Tensor:
        found = score_gates(setting.model, parts, prompts).double()
        mean, spread = torch.tensor(nulls, dtype=torch.float64).T[..., None]
        return ((found - mean) / spread).amin(0)

    def at(threshold: float) -> Gate:
        closed = [
            part.at_threshold(mean + threshold * spread)
            for part, (mean, spread) in zip(parts, nulls, strict=True)
        ]
        return Combination(tuple(closed), "all")

    calibrate, act, leave = (score(side) for side in (p.calibrate, p.test_act, p.test_leave))
    return _Arm("two conditions", at, calibrate, act, leave, seconds=time.perf_counter() - begun)


def _measure(setting: _Setting, arms: Sequence[_Arm]) -> list[SteeringGateRow]:
    plan, p = setting.plan, setting.prompts
    act, leave = (
        continue_prompts(setting.model, side, n_tokens=plan.n_tokens, seed=setting.seed)
        for side in (p.test_act, p.test_leave)
    )
    steerings: dict[tuple[str, float], Steering] = {("always on", AS_TRAINED): setting.steering}
    for arm in arms:
        if arm.trained is not None:
            steerings[arm.name, AS_TRAINED] = setting.steering.gated(arm.trained)
        for fpr in plan.fprs:
            gate = arm.at(conformal_threshold(arm.calibrate, fpr))
            steerings[arm.name, fpr] = setting.steering.gated(gate)
    keys = {f"{name} {fpr}": (name, fpr) for name, fpr in steerings}
    effects = measure_gated(
        setting.model,
        dict(zip(keys, steerings.values(), strict=True)),
        act,
        leave,
        setting.behaviour,
        strength=setting.strength,
    )
    by_name = {arm.name: arm for arm in arms}
    return [_row(setting, effects, key, by_name.get(name), name, fpr) for key, (name, fpr) in keys.items()]


def _row(
    setting: _Setting, effects: GatedEffects, key: str, arm: _Arm | None, name: str, fpr: float
) -> SteeringGateRow:
    def mean(figure: str, side: str) -> float:
        return float(getattr(effects, f"{side}_{figure}")[effects.arms.index(key)].double().mean())

    def passed(side: str) -> float:
        # without a threshold a sigmoid is never quite 0
        if arm is not None and fpr != fpr:
            return AS_TRAINED
        return float((getattr(effects, f"{side}_gate")[effects.arms.index(key)] > 0).double().mean())

    return SteeringGateRow(
        task=setting.task,
        gate=name,
        wanted_fpr=fpr,
        seed=setting.seed,
        dose=setting.plan.dose,
        strength=setting.strength,
        auc=float("nan") if arm is None else area(arm.act, arm.leave),
        tpr=passed("act"),
        fpr=passed("leave"),
        act_effect=mean("effect", "act"),
        leave_effect=mean("effect", "leave"),
        act_kl=mean("kl", "act"),
        leave_kl=mean("kl", "leave"),
        act_gate=mean("gate", "act"),
        leave_gate=mean("gate", "leave"),
        n_act=effects.act_gate.shape[1],
        n_leave=effects.leave_gate.shape[1],
        seconds=0.0 if arm is None else arm.seconds,
    )
