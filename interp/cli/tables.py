"""Tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from interp.results import AblationCheck, PatchScores, SetScores


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
