"""What every extraction gains at equal KL and what it costs, on attributes of the generated world.

A seed draws the prompts that are extracted from, those that judge, the neutral text and the controls anew. Methods
are read from :data:`interp.steering.extract.DIRECTIONS`: from prompts of either side that have nothing else in
common, and those that look at differences also from pairs that differ in the attribute alone. Expert neurons and
coder latents stand beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from interp.bench.clock import describe_threads, take_quantiles, time_call
from interp.bench.report import Report, Say, say_nothing
from interp.bench.steering_report import SteeringRow, report_steering
from interp.coders.files import load_coder
from interp.errors import BenchError
from interp.models.load import load_model
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.results.steering_evaluation import SteeringEvaluation
from interp.steering.contrast import read_contrast
from interp.steering.dose import calibrate_dose
from interp.steering.evaluate import evaluate_steering
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.extract import DIRECTIONS, extract_experts, extract_latents
from interp.steering.extract.extract import steering_of
from interp.steering.kl import measure_kl
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.steering import Steering, steer_with
from interp.steering.world import contrast_prompts, paired_prompts, parse_target

TARGETS = ("sentiment=positive", "topic=sea", "tense=past", "formality=formal")
BASE = "mean-difference"
OF_PAIRS = (BASE, "pca", "centred-pca", "lat")
"""Methods that look at differences of pairs, which are extracted from pairs too."""
_GATE_DOSE, _TOLERANCE = 0.3, 0.03
_NEUTRAL_SEED = 3000
_REPEATS = 5


@dataclass(frozen=True)
class SteeringPlan:
    """Which targets, methods, doses and seeds, and how many prompts."""

    targets: tuple[str, ...] = TARGETS
    methods: tuple[str, ...] | None = None
    """Of the registry; all of it by default, with expert neurons and coder latents."""
    seeds: int = 3
    model: str = "mix-4l"
    layer: int = 1
    """Directions act on the residual stream after it; ``coder`` must write to it too."""
    experts: int = 128
    """Neurons of all layers that are set: with fewer the larger doses are out of reach."""
    coder: str | None = "mix-4l/mlp_out-1-topk"
    doses: tuple[float, ...] = (0.1, 0.3, 1.0)
    n_extract: int = 128
    """Prompts a side."""
    n: int = 32
    """Texts that judge; half as many are continued."""
    n_neutral: int = 16
    draws: int = 2
    """Of each kind of control, a seed."""
    pairs: bool = True
    """Extract those of :data:`OF_PAIRS` from pairs too."""
    seed: int = 0
    """The first of the seeds."""
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> SteeringPlan:
        """Within a minute on a busy core."""
        return cls(
            ("sentiment=positive",),
            (BASE, "pca"),
            2,
            coder=None,
            doses=(0.3,),
            n=16,
            n_neutral=8,
            draws=1,
            seed=seed,
        )

    def __post_init__(self) -> None:
        sizes = (self.seeds, self.n_extract - 7, self.n - 7, self.n_neutral, self.draws, self.threads or 1)
        if min(sizes) < 1 or not self.doses or min(self.doses) <= 0 or self.layer < 0:
            raise BenchError(
                "seeds, neutral rows, draws and threads are at least 1, prompts and texts at least 8, doses above 0; "
                f"got {self}."
            )
        unknown = sorted(set(self.methods or ()) - set(DIRECTIONS))
        if unknown or not self.targets or self.methods == ():
            raise BenchError(
                f"methods are some of {', '.join(DIRECTIONS)}; got {', '.join(unknown) or 'none'}."
            )
        for target in self.targets:
            parse_target(target)


def run_steering(
    plan: SteeringPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[SteeringRow]], None] | None = None,
) -> Report[SteeringRow]:
    """Evaluate every extraction of a plan; ``keep`` gets the rows of each target and seed as soon as they are there.

    Raises :class:`BenchError` where strength 0 changes the model, or doses are not what they are said to be.
    """
    rows: list[SteeringRow] = []
    with hold_threads(plan.threads):
        model = load_model(plan.model, device=device)
        for seed in range(plan.seed, plan.seed + plan.seeds):
            text = read_neutral(model, n=plan.n_neutral, seed=_NEUTRAL_SEED + seed)
            for target in plan.targets:
                say(f"{target}, seed {seed}")
                found = _measure(plan, model, target, seed, text)
                rows += found
                if keep is not None:
                    keep(found)
        return report_steering(rows, describe_threads())


def _measure(
    plan: SteeringPlan, model: Model, target: str, seed: int, text: NeutralText
) -> list[SteeringRow]:
    steerings = _extract(plan, model, target, seed)
    _check_gate(model, steerings[BASE] if BASE in steerings else next(iter(steerings.values())), text)
    costs = _time(model, next(iter(steerings.values())), text)
    found = evaluate_steering(
        model,
        steerings,
        target,
        doses=plan.doses,
        neutral=text,
        draws=plan.draws,
        n=plan.n,
        seed=seed,
    )
    return _rows(found, target, seed, costs)


def _extract(plan: SteeringPlan, model: Model, target: str, seed: int) -> dict[str, Steering]:
    methods = tuple(DIRECTIONS) if plan.methods is None else plan.methods
    site = f"resid_post[{plan.layer}]"
    positive, negative = contrast_prompts(target, plan.n_extract, seed)
    contrast = read_contrast(model, positive, negative, site, paired=False)
    found = {name: steering_of(contrast, name, seed=seed) for name in methods}
    if plan.pairs:
        pairs = read_contrast(model, *paired_prompts(target, plan.n_extract, seed), site, paired=True)
        found |= {
            f"{name} (pairs)": steering_of(pairs, name, seed=seed) for name in methods if name in OF_PAIRS
        }
    if plan.methods is None:
        found["expert-neurons"] = extract_experts(model, positive, negative, k=plan.experts, calibrate=False)
    if plan.coder is not None:
        latents = extract_latents(
            model, positive, negative, load_coder(plan.coder), paired=False, calibrate=False
        )
        (step,) = latents.steps
        # what is added to the MLP's output is added to the stream after it: beside the others, under their controls
        found["coder-latents"] = steer_with({site: step.operation}, method=latents.method)
    return found


def _check_gate(model: Model, steering: Steering, text: NeutralText) -> None:
    tokens = torch.stack([row for row in text.rows[:4] if len(row) == len(text.rows[0])])
    with torch.no_grad():
        before = model(tokens)
        with steering.apply(model, strength=0.0):
            during = model(tokens)
        after = model(tokens)
    if not bool((before == during).all() and (before == after).all()):
        raise BenchError("strength 0 changes the logits, or a steering stays behind. Nothing is reported.")
    (strength,) = equal_strengths(model, steering, [_GATE_DOSE], text).tolist()
    kl = float(measure_kl(model, steering, [strength], text).mean)
    if not abs(kl / _GATE_DOSE - 1) <= _TOLERANCE:
        raise BenchError(
            f"a dose of {_GATE_DOSE} nats (strength {strength:.4g}) measures {kl:.4g}. Nothing is reported."
        )


@dataclass(frozen=True)
class _Costs:
    calibrate: float
    generate: float
    steered: float


def _time(model: Model, steering: Steering, text: NeutralText) -> _Costs:
    """Seconds of one calibration, and of greedy generation without and with a steering."""
    begun = time.perf_counter()
    calibrate_dose(model, steering, text)
    calibrate = time.perf_counter() - begun
    prompts = torch.stack([row[:8] for row in text.rows[:16]])

    def generate() -> None:
        model.generate(prompts, 16, eos_token_id=-1)

    plain = [time_call(generate, model.device) for _ in range(_REPEATS)]
    with steering.apply(model, strength=1.0, any_model=True):
        steered = [time_call(generate, model.device) for _ in range(_REPEATS)]
    return _Costs(calibrate, take_quantiles(plain).p50, take_quantiles(steered).p50)


def _rows(found: SteeringEvaluation, target: str, seed: int, costs: _Costs) -> list[SteeringRow]:
    frame = {name: float(found.unsteered[number, 0]) for number, name in enumerate(found.measures)}
    rows = []
    for i, condition in enumerate(found.conditions):
        for j, dose in enumerate(found.doses):
            value = {m: found.at(condition, dose, m) for m in found.measures}
            over = found.at(condition, dose, "concept", "over_controls")
            rows.append(
                SteeringRow(
                    target=target,
                    seed=seed,
                    condition=condition,
                    kind=found.kinds[i],
                    place=found.places[i],
                    draws=found.draws[i],
                    dose=dose,
                    strength=float(found.strengths[i, j]),
                    concept=value["concept"].value,
                    concept_low=value["concept"].low,
                    concept_high=value["concept"].high,
                    concept_unsteered=frame["concept"],
                    over_controls=over.value,
                    over_controls_low=over.low,
                    over_controls_high=over.high,
                    generated=value["generated"].value,
                    generated_unsteered=frame["generated"],
                    log_odds=value["log odds"].value,
                    log_odds_unsteered=frame["log odds"],
                    attribute_words=value["attribute words"].value,
                    retention=value["retention"].value,
                    retention_unsteered=frame["retention"],
                    generated_retention=value["generated retention"].value,
                    generated_retention_unsteered=frame["generated retention"],
                    legal=value["legal"].value,
                    legal_unsteered=frame["legal"],
                    loss=value["loss"].value - frame["loss"],
                    kl=value["kl"].value,
                    entropy=value["entropy"].value - frame["entropy"],
                    calibrate_seconds=costs.calibrate,
                    generate_seconds=costs.generate,
                    steered_seconds=costs.steered,
                )
            )
    return rows
