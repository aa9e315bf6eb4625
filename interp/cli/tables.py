"""Tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from interp.results import AblationCheck, PatchScores


def print_baselines(console: Console, scores: PatchScores) -> None:
    """One line: what the metric is in the clean and in the corrupted run."""
    first = next(iter(scores.sites.values()))
    metric = escape(scores.provenance.metric or "metric")
    console.print(f"{metric}: clean [bold]{first.clean:.3f}[/], corrupted [bold]{first.corrupted:.3f}[/]")


def print_top(
    console: Console, scores: PatchScores, k: int, site: str | None = None, title: str = ""
) -> None:
    """The ``k`` places of largest effect, over all sites or one of them, with a bar for each."""
    rows = scores.top(k, site)
    table = Table(title=title or None, title_justify="left", title_style="bold")
    table.add_column("place", no_wrap=True)
    table.add_column("site")
    table.add_column("recovered", justify="right")
    table.add_column("effect", justify="right")
    table.add_column(escape(f"{scores.provenance.metric or 'metric'} after"), justify="right")
    table.add_column("")
    largest = max((abs(row.effect) for row in rows if row.effect == row.effect), default=0.0)
    for row in rows:
        share = abs(row.effect) / largest if largest and row.effect == row.effect else 0.0
        bar = f"[{'blue' if row.effect > 0 else 'red'}]{'█' * round(16 * share)}[/]"
        numbers = (f"{row.value:.3f}", f"{row.effect:+.3f}", f"{row.raw:.3f}")
        table.add_row(escape(row.name), escape(row.site), *numbers, bar)
    console.print(table)


def print_ablation(console: Console, check: AblationCheck) -> None:
    """The chosen set and the random ones, against both runs."""
    title = f"Ablated together in the clean run ({check.provenance.ablation})"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("run")
    table.add_column(escape(check.provenance.metric or "metric"), justify="right")
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
