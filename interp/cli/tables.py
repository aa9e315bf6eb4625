"""Tables in the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from interp.results.token_text import visible_token

if TYPE_CHECKING:
    from interp.results import AblationCheck, MethodComparison, PatchScores, SetScores, TokenScores


_BAR = 10
"""Characters of the longest bar."""


def print_baselines(console: Console, scores: PatchScores) -> None:
    """One line: what the metric is in the clean and in the corrupted run."""
    first = next(iter(scores.sites.values()))
    _print_runs(console, _metric(scores), first.clean, first.corrupted)


def _print_runs(console: Console, metric: str, clean: float, corrupted: float) -> None:
    console.print(f"{escape(metric)}: clean [bold]{clean:.3f}[/], corrupted [bold]{corrupted:.3f}[/]")


def print_top(
    console: Console, scores: PatchScores, k: int, site: str | None = None, title: str = ""
) -> None:
    """The ``k`` places of largest effect, over all sites or one of them, with a bar for each."""
    rows = scores.top(k, site)
    if title:
        console.print(title, style="bold", markup=False)
    several, noise = len({row.site for row in rows}) > 1, scores.direction == "noise"
    # denoised, the effect is the recovered score itself
    headings = ["place", *["site"] * several, "recovered", *["effect"] * noise, _metric(scores), ""]
    table = Table(box=SIMPLE_HEAD)
    for heading in headings:
        is_text = heading in ("place", "site", "")
        table.add_column(escape(heading), no_wrap=True, justify="left" if is_text else "right")
    largest = max((abs(row.effect) for row in rows if row.effect == row.effect), default=0.0)
    for row in rows:
        share = abs(row.effect) / largest if largest and row.effect == row.effect else 0.0
        bar = f"[{'blue' if row.effect > 0 else 'red'}]{'█' * round(_BAR * share)}[/]"
        numbers = [f"{row.value:.3f}", *[f"{row.effect:+.3f}"] * noise, f"{row.raw:.3f}"]
        table.add_row(escape(row.name), *[escape(row.site)] * several, *numbers, bar)
    console.print(table)


def print_sets(console: Console, scores: SetScores, k: int) -> None:
    """The baselines, the steps of a greedy search, and the ``k`` sets of the largest effect and interaction."""
    _print_runs(console, _metric(scores), scores.clean, scores.corrupted)
    if scores.path is not None:
        values = scores.values.tolist()
        steps = [f"{scores.members_at(i)[-1]} ({values[i]:.3f})" for i in scores.path.tolist()]
        console.print(f"greedy (recovered): {' + '.join(steps)}", markup=False, highlight=False)
    for by in ("effect", "interaction"):
        console.print(f"largest {by}", style="bold", markup=False)
        table = Table(box=SIMPLE_HEAD)
        # long sets wrap, their numbers never do
        table.add_column("set", overflow="fold")
        for heading in ("recovered", "if additive", "interaction", _metric(scores)):
            table.add_column(escape(heading), no_wrap=True, justify="right")
        for row in scores.top(k, by=by):
            additive = row.value - row.interaction
            numbers = f"{row.value:.3f}", f"{additive:.3f}", f"{row.interaction:+.3f}", f"{row.raw:.3f}"
            table.add_row(escape(row.name), *numbers)
        console.print(table)


def print_comparison(console: Console, comparison: MethodComparison) -> None:
    """A table a model and task, how well each method agrees at each site; then what each costs."""
    for model, task in comparison.cases:
        console.print(f"{model}, {task}: agreement with exact patching", style="bold", markup=False)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("site", "method", "Pearson", "Spearman", "sign", "top"):
            table.add_column(heading, no_wrap=True)
        for site in comparison.sites:
            for method in comparison.methods:
                row = comparison.at(model, task, site, method)
                if row is not None:
                    intervals = (_brief(str(row.pearson)), _brief(str(row.spearman)))
                    shares = (f"{part.value:.2f}" for part in (row.sign_agreement, row.top_overlap))
                    table.add_row(*map(escape, (site, method, *intervals, *shares)))
        console.print(table)
    legend = "sign: share of equal signs; top: overlap of the tenth that ranks first"
    console.print(f"{comparison.confidence:.0%} bootstrap intervals over places; {legend}", highlight=False)
    console.print("All sites of a task in one call", style="bold", markup=False)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("method")
    for heading in ("model", "task", "seconds", "peak MiB"):
        table.add_column(heading, justify="left" if heading in ("model", "task") else "right")
    for cost in comparison.costs:
        peak = "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:.1f}"
        table.add_row(*map(escape, (cost.method, cost.model, cost.task)), f"{cost.seconds:.3f}", peak)
    console.print(table)


def _brief(text: str) -> str:
    """Shares without their leading zeros, which a narrow terminal has no room for."""
    return re.sub(r"\b0\.", ".", text)


def print_tokens(console: Console, scores: TokenScores, shown: int) -> None:
    """The first prompts as text, each token on a colour of its score: blue for the metric, red against it."""
    values = scores.values[:shown]
    largest = float(values.abs().nan_to_num(0.0).max()) if len(values) else 0.0
    for tokens, row, metric in zip(
        scores.tokens[:shown], values.tolist(), scores.metric.tolist(), strict=False
    ):
        line = Text()
        # where tokens bring their own spaces, a gap would break words
        gap = "" if any(token[:1].isspace() for token in tokens) else " "
        for token, value in zip(tokens, row, strict=False):
            line.append(gap)
            line.append(visible_token(token), Style(color="black", bgcolor=_shade(value, largest)))
        line.append(f"   {scores.provenance.metric or 'metric'} {metric:.2f}", Style(dim=True))
        console.print(line, soft_wrap=True)
    if shown and largest:
        console.print(f"blue +{largest:.3g} (speaks for the metric), red -{largest:.3g}", highlight=False)


def _shade(value: float, largest: float) -> str:
    share = max(-1.0, min(1.0, value / largest)) if largest and value == value else 0.0
    light = round(255 * (1 - 0.65 * abs(share)))
    red, green, blue = (light, light, 255) if share >= 0 else (255, light, light)
    return f"#{red:02x}{green:02x}{blue:02x}"


def print_ablation(console: Console, check: AblationCheck) -> None:
    """The chosen set and the random ones, against both runs."""
    kind = f" ({check.provenance.ablation})" if check.provenance.ablation else ""
    console.print(f"Ablated together in the clean run{kind}", style="bold", markup=False)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("run")
    table.add_column(escape(_metric(check)), justify="right")
    table.add_column("recovered", justify="right")
    random = check.random_recovered
    rows = (
        ("clean", check.clean, 1.0),
        (" ".join(check.names), check.ablated, check.recovered),
        (
            f"{len(random)} random sets of {len(check.names)}",
            float(check.random.mean()),
            float(random.mean()),
        ),
        ("corrupted", check.corrupted, 0.0),
    )
    for name, metric, recovered in rows:
        table.add_row(escape(name), f"{metric:.3f}", f"{recovered:.3f}")
    console.print(table)
    console.print(f"{check.random_as_strong:.0%} of the random sets move the metric as far.")


def _metric(record: PatchScores | AblationCheck | SetScores) -> str:
    return record.provenance.metric or "metric"
