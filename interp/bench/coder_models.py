"""Coders in the bundled ``mix-4l``: what the model's loss says of each, over several seeds.

Three questions, each with coders trained on the same rows: *choice*, top-k against gradient coders at the same k,
the latter used without and with gradients; *one MLP*, transcoders and skip transcoders of each layer alone; *all
MLPs*, the four transcoders, the four skip transcoders, and one cross-layer transcoder, with every MLP replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.bench.clock import describe_threads
from interp.bench.coder_models_report import CoderModelRow, report_coder_models
from interp.bench.report import Report, Say, say_nothing
from interp.coders import Coder, CoderBatch, CoderConfig, TrainingConfig, train_coder, train_coders
from interp.coders.evaluate import evaluate_coder
from interp.coders.ground_truth.seeds import estimate_mean
from interp.coders.sources import ActivationSource, stream_activations, tensor_activations
from interp.errors import BenchError
from interp.models import load_model
from interp.models.capture import capture
from interp.models.intervene import intervene
from interp.models.interventions import replace
from interp.models.model import Model
from interp.models.threads import hold_threads
from interp.tasks.world import generate_tokens

PARTS = ("choice", "one MLP", "all MLPs")
_TRAIN_SEED, _EVAL_SEED, _LENGTH = 100, 999, 64


@dataclass(frozen=True)
class CoderModelsPlan:
    """What to train, and how long."""

    parts: tuple[str, ...] = PARTS
    site: str = "resid_post[1]"
    """Where top-k and gradient coders are compared."""
    d_sae: int = 512
    k: int = 8
    seeds: int = 5
    tokens: int = 1_000_000
    """Rows that each coder is trained on, from half as many different ones."""
    n_prompts: int = 128
    """Rows of text that figures are of, unseen in training."""
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int | None = None

    @classmethod
    def quick(cls, seed: int = 0) -> CoderModelsPlan:
        """Within a minute on two busy cores: one question, too short a training to judge by."""
        return cls(("choice",), d_sae=128, seeds=2, tokens=60_000, n_prompts=16, seed=seed)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise BenchError(f"parts are some of {', '.join(PARTS)}; got {', '.join(unknown) or 'none'}.")
        if min(self.seeds - 1, self.tokens, self.n_prompts - 1) < 1:
            raise BenchError(
                "an interval needs 2 seeds and 2 prompts, training 1 row; got "
                f"{self.seeds}, {self.n_prompts}, {self.tokens}."
            )

    def training(self, seed: int) -> TrainingConfig:
        """How every coder is trained."""
        return TrainingConfig(
            tokens=self.tokens,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            dead_after=max(self.tokens // 10, 1),
            buffer_rows=max(32 * self.batch_size, 32_768),
            seed=seed,
        )

    def config(self, architecture: str) -> CoderConfig:
        """A coder of this size."""
        return CoderConfig(architecture=architecture, d_sae=self.d_sae, k=self.k)  # type: ignore[arg-type]


Figures = Mapping[str, float]
Runs = dict[str, list[Figures]]
"""By coder, the figures of every seed."""


def run_coder_models(
    plan: CoderModelsPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[CoderModelRow]], None] | None = None,
) -> Report[CoderModelRow]:
    """Train and measure every coder of a plan; ``keep`` gets the rows of a part as soon as they are there.

    Raises :class:`BenchError` where coders with their error terms change the model's logits.
    """
    rows: list[CoderModelRow] = []
    with hold_threads(plan.threads):
        model = load_model("mix-4l", device=device)
        text = generate_tokens(-(-plan.tokens // (2 * (_LENGTH - 1))), _LENGTH, seed=_TRAIN_SEED)
        held_out = generate_tokens(plan.n_prompts, _LENGTH, seed=_EVAL_SEED)
        found: dict[str, Runs] = {}
        if PARTS[0] in plan.parts:
            found[PARTS[0]] = _compare_choice(plan, model, text, held_out, say)
        if set(PARTS[1:]) & set(plan.parts):
            found |= _compare_transcoders(plan, model, text, held_out, say)
        for part, runs in found.items():
            new = [_row(plan, part, name, seeds, runs) for name, seeds in runs.items()]
            rows += new
            if keep is not None:
                keep(new)
        return report_coder_models(rows, describe_threads())


def _row(plan: CoderModelsPlan, part: str, name: str, seeds: list[Figures], found: Runs) -> CoderModelRow:
    first = next(iter(found.values()))

    def mean(figure: str) -> Any:
        return estimate_mean([run[figure] for run in seeds], "t", 0.95)

    paired = [run["ce"] - other["ce"] for run, other in zip(seeds, first, strict=True)]
    gain = estimate_mean(paired, "t", 0.95)
    ce = mean("ce")
    return CoderModelRow(
        part=part,
        coder=name,
        d_sae=plan.d_sae,
        k=plan.k,
        tokens=plan.tokens,
        seeds=plan.seeds,
        n_prompts=plan.n_prompts,
        l0=mean("l0").value,
        fvu=mean("fvu").value,
        ce_recovered=ce.value,
        ce_low=ce.low,
        ce_high=ce.high,
        kl_recovered=mean("kl").value,
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
    )


def _compare_choice(plan: CoderModelsPlan, model: Model, text: Tensor, held_out: Tensor, say: Say) -> Runs:
    say(f"choice: activations of {len(text):,} rows of text")
    rows = _read(model, text, plan.site, gradients=True)
    names = ("top-k", "gradient, used without", "gradient, used with gradients")
    found: Runs = {name: [] for name in names}
    for seed in range(plan.seed, plan.seed + plan.seeds):
        say(f"choice: seed {seed}")
        configs = {"topk": plan.config("topk"), "gradient": plan.config("gradient")}
        coders = train_coders(configs, rows, plan.training(seed), progress=False)
        for name, coder in zip(names, coders.values(), strict=False):
            _check_error_term(model, coder, held_out)
            found[name].append(_evaluate(model, coder, held_out))
        by_gradient = _evaluate_with_gradients(model, coders["gradient"], plan.site, held_out)
        found[names[2]].append(found[names[1]][-1] | by_gradient)  # type: ignore[operator]
    return found


def _compare_transcoders(
    plan: CoderModelsPlan, model: Model, text: Tensor, held_out: Tensor, say: Say
) -> dict[str, Runs]:
    layers = range(model.traits.n_layers)
    reads, targets = ([f"{name}[{layer}]" for layer in layers] for name in ("mlp_in", "mlp_out"))
    say(f"transcoders: activations of {len(text):,} rows of text")
    rows = _read(model, text, reads, target=targets)
    found: dict[str, Runs] = {part: {} for part in PARTS[1:] if part in plan.parts}
    for seed in range(plan.seed, plan.seed + plan.seeds):
        say(f"transcoders: seed {seed}")
        single = _train_layers(plan, rows, seed)
        if PARTS[1] in found:
            for (kind, layer), coder in single.items():
                name = f"{kind} of layer {layer}"
                found[PARTS[1]].setdefault(name, []).append(_evaluate(model, coder, held_out))
        if PARTS[2] in found:
            together: dict[str, Any] = {
                f"{kind}s": {targets[layer]: single[kind, layer] for layer in layers}
                for kind in ("transcoder", "skip transcoder")
            }
            say(f"cross-layer transcoder: seed {seed}")
            config = plan.config("cross-layer-transcoder")
            together["cross-layer transcoder"] = train_coder(
                config, rows, plan.training(seed), progress=False
            )
            for name, coders in together.items():
                found[PARTS[2]].setdefault(name, []).append(_evaluate(model, coders, held_out))
    return found


def _train_layers(plan: CoderModelsPlan, rows: ActivationSource, seed: int) -> dict[tuple[str, int], Coder]:
    """A transcoder and a skip transcoder of every layer."""
    rows.restart()
    chunks = []
    while (chunk := rows.next_chunk()) is not None:
        chunks.append(chunk)
    whole, layout = CoderBatch.cat(chunks), rows.layout
    configs = {"transcoder": plan.config("transcoder"), "skip": plan.config("skip-transcoder")}
    found: dict[tuple[str, int], Coder] = {}
    for layer, (read, target) in enumerate(zip(layout.sites, layout.target_sites, strict=True)):
        x, y = whole.x[:, layer].contiguous(), whole.target[:, layer].contiguous()
        source = tensor_activations(x, y, sites=[read], target_sites=[target])
        coders = train_coders(configs, source, plan.training(seed), progress=False)
        found["transcoder", layer], found["skip transcoder", layer] = coders["transcoder"], coders["skip"]
    return found


def _read(model: Model, text: Tensor, sites: Any, **options: Any) -> ActivationSource:
    """All activations at once, in memory: every seed reads them again."""
    source = stream_activations(model, text, sites, batch_size=64, **options)
    chunks = []
    while (chunk := source.next_chunk()) is not None:
        chunks.append(chunk)
    layout = source.layout
    return tensor_activations(CoderBatch.cat(chunks), sites=layout.sites, target_sites=layout.target_sites)


def _check_error_term(model: Model, coder: Coder, tokens: Int[Tensor, "row pos"]) -> None:
    from interp.coders.substitute import substitute

    with torch.no_grad(), substitute(model, coder, keep_error=True):
        kept = model(tokens[:2])
    with torch.no_grad():
        error = float((kept - model(tokens[:2])).abs().max())
    if not error <= 1e-4:
        raise BenchError(f"a coder with its error term moves the logits by {error:.2g}; nothing is reported.")


def _evaluate(model: Model, coders: Any, tokens: Int[Tensor, "row pos"]) -> dict[str, float]:
    found = evaluate_coder(model, coders, tokens, progress=False)
    n = len(found.fits)
    return {
        "l0": sum(fit.l0 for fit in found.fits) / n,
        "fvu": sum(fit.fvu for fit in found.fits) / n,
        "ce": found.ce_recovered.value,
        "kl": found.kl_recovered.value,
    }


def _evaluate_with_gradients(
    model: Model, coder: Coder, site: str, tokens: Int[Tensor, "row pos"]
) -> dict[str, float]:
    """CE and KL recovered, and FVU, where latents are chosen with the gradient of the loss on the text itself."""
    sums: dict[str, float] = dict.fromkeys(
        ("clean", "sub", "abl", "kl_sub", "kl_abl", "error", "spread", "fired"), 0
    )
    mean = _mean_activation(model, site, tokens)
    for batch in tokens.split(16):
        cache = capture(model, batch, site, gradients_of=_loss_of(batch))
        x, grad = cache[site], cache.grads[site]  # type: ignore[index]
        with torch.no_grad():
            latents = coder.latents(x[:, 1:], grad[:, 1:])
            out = x.clone()
            out[:, 1:] = coder.decode(latents).view_as(x[:, 1:])
            clean = model(batch)
            with intervene(model, replace(site, out)):
                sub = model(batch)
            rest = x.clone()
            rest[:, 1:] = mean
            with intervene(model, replace(site, rest)):
                abl = model(batch)
        for name, logits in (("clean", clean), ("sub", sub), ("abl", abl)):
            sums[name] += float(_losses(logits, batch).sum())
        for name, logits in (("kl_sub", sub), ("kl_abl", abl)):
            sums[name] += float(_divergences(clean, logits).sum())
        sums["error"] += float((x - out).square().sum())
        sums["spread"] += float((x[:, 1:] - mean).square().sum())
        sums["fired"] += float((latents.values > 0).sum())
    return {
        "ce": (sums["abl"] - sums["sub"]) / (sums["abl"] - sums["clean"]),
        "kl": 1 - sums["kl_sub"] / sums["kl_abl"],
        "fvu": sums["error"] / sums["spread"],
        "l0": sums["fired"] / tokens[:, 1:].numel(),
    }


def _mean_activation(model: Model, site: str, tokens: Tensor) -> Float[Tensor, " d_in"]:
    with torch.no_grad():
        parts = [capture(model, batch, site)[site][:, 1:].flatten(0, 1) for batch in tokens.split(16)]
    return torch.cat(parts).mean(0)


def _loss_of(tokens: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: _losses(logits, tokens).sum(1)


def _losses(
    logits: Float[Tensor, "row pos d_vocab"], tokens: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pred"]:
    """Cross-entropy of every next token, those that the first token predicts left out."""
    chosen = logits[:, 1:-1].log_softmax(-1).gather(2, tokens[:, 2:, None])
    return -chosen[:, :, 0]


def _divergences(clean: Tensor, other: Tensor) -> Float[Tensor, "row pred"]:
    p, q = (logits[:, 1:-1].log_softmax(-1) for logits in (clean, other))
    return (p.exp() * (p - q)).sum(-1)
