"""What the commands about sparse coders print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.make import make_coder
from interp.coders.plan import TrainingPlan
from interp.coders.planned_training import TrainedPlan, open_plan_source
from interp.coders.shape import CoderShape
from interp.coders.sources import JointSource
from interp.models import Model

if TYPE_CHECKING:
    from interp.cli.coder_outputs import CoderFindings
    from interp.coders.files import AnyCoder
    from interp.results.probing import AttributeMatch


def describe_place(sites: tuple[str, ...], targets: tuple[str, ...]) -> str:
    """``mlp_in[2] -> mlp_out[2]``; long lists are cut."""
    reads, writes = (_shorten(names) for names in (sites, targets or sites))
    return reads if sites == (targets or sites) else f"{reads} -> {writes}"


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} … {names[-1]} ({len(names)})"


def print_plan(console: Console, plan: TrainingPlan, model: Model) -> None:
    """What would be trained on what; nothing is run but the opening of model and data."""
    source = open_plan_source(plan, model, progress=False, use_cache=False)
    layouts = source.layouts if isinstance(source, JointSource) else dict.fromkeys(plan.coders, source.layout)
    table = _table("coder", "architecture", "activations", "latents", "weights")
    for name, coder in plan.coders.items():
        layout = layouts[name]
        shape = CoderShape(layout.d_in, layout.d_out, layout.n_inputs, layout.n_outputs)
        made = make_coder(coder.config, shape, sites=layout.sites, target_sites=layout.target_sites)
        table.add_row(
            escape(name),
            _describe_config(coder.config),
            escape(layout.describe()),
            f"{coder.config.d_sae:,}",
            f"{sum(parameter.numel() for parameter in made.parameters()):,}",
        )
    console.print(table)
    asked, training = plan.activations, plan.training
    length = f"{training.tokens:,} tokens" if training.tokens else "once through the data"
    rates = sorted({training.rate_for(coder.config.d_sae) for coder in plan.coders.values()})
    lines = [
        f"model {asked.model}, data {asked.data}"
        + (f" ({asked.n or 'all'} prompts)" if asked.data != "generated" else f" (seed {asked.seed})"),
        f"training: {length}, {training.batch_size:,} a step, {training.optimizer}, learning rate "
        + ", ".join(f"{rate:.3g}" for rate in rates),
        f"buffer: {training.buffer_rows:,} rows; seed {training.seed}; revival of dead latents: {training.revival}",
        f"activations are kept in {asked.cache}"
        if asked.cache
        else "activations are made as they are needed",
        f"to be written to {plan.out}" if plan.out else "no folder is named yet (--out)",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_trained(console: Console, trained: TrainedPlan) -> None:
    """A row a coder: how sparse, how faithful, how many dead."""
    table = _table("coder", "architecture", "site", "tokens", "L0", "FVU", "dead")
    for name, coder in trained.coders.items():
        table.add_row(escape(name), *(escape(cell) for cell in trained_cells(coder)))
    console.print(table)


def trained_cells(coder: Coder) -> tuple[str, ...]:
    """Architecture, sites, tokens, and the last figures of training."""
    figures = coder.metadata.get("figures", {})
    return (
        coder.config.architecture,
        describe_place(coder.sites, coder.target_sites),
        f"{coder.metadata.get('tokens', 0):,}",
        f"{figures['l0']:.1f}",
        f"{figures['fvu']:.4f}",
        f"{figures['dead_frac']:.1%}",
    )


def print_findings(console: Console, found: CoderFindings) -> None:
    """The evaluation, the geometry, and the latent that tells each attribute best."""
    coder = found.coder
    place = describe_place(coder.sites, coder.target_sites) or found.evaluation.fits[0].site
    lines = [f"{describe_kind(coder)} at {place}, {coder.d_sae:,} latents"]
    lines += found.evaluation.summary().splitlines()
    if found.geometry is not None:
        lines.append(f"geometry: {found.geometry.summary()}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found.attributes is not None:
        _print_attributes(console, found.attributes)


def describe_kind(coder: AnyCoder) -> str:
    """``topk, k 16``, ``jumprelu``, ``transcoder, batch-topk, k 16``, ``semi-nmf``."""
    if not isinstance(coder, Coder):
        return "semi-nmf"
    return _describe_config(coder.config)


def _describe_config(config: CoderConfig) -> str:
    parts = list(dict.fromkeys((config.architecture, config.firing)))
    parts = parts if config.firing != "standard" or len(parts) == 1 else parts[:1]
    return ", ".join(parts if config.k is None else [*parts, f"k {config.k}"])


def _print_attributes(console: Console, found: AttributeMatch) -> None:
    """In a line of 80 characters: the other units' F1 beside the best latent's, with its interval."""
    table = _table("attribute", "latent", "F1", "random", "neuron", "PC", "yes")
    for number, target in enumerate(found.targets):
        latent, f1 = found.best(target)
        others = [*found.f1[1:, number, 0].tolist(), float(found.always[number])]
        shown = f"{f1.value:.2f} [{f1.low:.2f}, {f1.high:.2f}]"
        table.add_row(escape(target), str(latent), escape(shown), *(f"{value:.2f}" for value in others))
    console.print(table)
    console.print(
        "best F1 of one unit, chosen on other prompts: a latent, a random one, a neuron, a principal component, and "
        "saying yes always",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    words = ("coder", "attribute", "architecture", "site", "activations")
    for heading in headings:
        is_name = heading in ("site", "activations")
        table.add_column(heading, no_wrap=not is_name, justify="left" if heading in words else "right")
    return table
