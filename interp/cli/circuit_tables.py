"""What ``interp find-circuit`` says in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.circuits.search_summary import circuit_rows

if TYPE_CHECKING:
    from interp.circuits.search import CircuitSearch
    from interp.circuits.sweep import SweepResult

_BAR = 10
_STYLES = {"done": "green", "check failed": "yellow", "failed": "red"}


def print_search(console: Console, found: CircuitSearch, top: int) -> None:
    """Baselines, the circuits, what tested them, the strongest edges, notes and checks."""
    summary = found.summary()
    console.print(found.provenance.summary(), markup=False, highlight=False)
    if summary["clean"] is not None:
        runs = f"clean [bold]{summary['clean']:.3f}[/], corrupted [bold]{summary['corrupted']:.3f}[/]"
        console.print(f"{escape(found.provenance.metric or 'metric')}: {runs}", highlight=False)
    _print_circuits(console, found)
    if found.curve is not None:
        console.print(f"over MIB's grid of sizes: {found.curve.summary()}", highlight=False, markup=False)
    _print_edges(console, found, top)
    if found.agreement is not None:
        console.print(f"against exact patching: {found.agreement.summary()}", highlight=False, markup=False)
    elif found.plan.is_estimate:
        console.print(
            "these are estimates, not checked against exact patching (--verify exact)", style="yellow"
        )
    if found.faithfulness is None:
        console.print("no circuit was run as a whole (--faithfulness)", style="yellow")
    for note in summary["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
    if found.read_back:
        console.print(f"read back, finished before: {', '.join(found.read_back)}", highlight=False)
    for check in found.checks:
        style = "green" if check.passed else "bold yellow"
        console.print(f"check: {check}", style=style, markup=False, highlight=False)


def _print_circuits(console: Console, found: CircuitSearch) -> None:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("asked", no_wrap=True)
    for heading in ("edges", "share", "nodes"):
        table.add_column(heading, justify="right", no_wrap=True)
    tested = found.faithfulness
    if tested is not None:
        table.add_column(f"faithfulness ({tested.confidence:.0%})", no_wrap=True)
        for curve in tested.nulls:
            table.add_column(f"random, {curve.kind}", justify="right")
    for row in circuit_rows(found):
        cells = [row["asked"], f"{row['edges']:,}", f"{row['share']:.1%}", str(row["nodes"])]
        if tested is not None:
            cells.append(f"{row['faithfulness']:z.2f} [{row['low']:z.2f}, {row['high']:z.2f}]")
            cells += [f"{row[f'random_{curve.kind}']:z.2f}" for curve in tested.nulls]
        table.add_row(*map(escape, cells))
    console.print(table)


def _print_edges(console: Console, found: CircuitSearch, top: int) -> None:
    if found.scores is None:
        return
    rows = found.scores.top(top)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("edge", no_wrap=True)
    table.add_column("share of gap", justify="right")
    table.add_column("effect", justify="right")
    table.add_column("")
    largest = max((abs(row.value) for row in rows), default=0.0)
    for row in rows:
        length = round(_BAR * abs(row.value) / largest) if largest else 0
        bar = f"[{'blue' if row.value > 0 else 'red'}]{'█' * length}[/]"
        table.add_row(escape(row.name), f"{row.value:+z.3f}", f"{row.effect:+z.3f}", bar)
    console.print(table)


def print_progress(console: Console, result: SweepResult, number: int, of: int) -> None:
    """One line as soon as a search of a sweep is done."""
    search = result.search
    named = f"[{number}/{of}] {search.model} · {search.task.label} · {search.plan.method}"
    console.print(
        f"{named}: {result.reason or result.status}", style=_style(result), markup=False, highlight=False
    )


def print_sweep(console: Console, results: Sequence[SweepResult]) -> None:
    """One row a circuit, of all searches; then what failed."""
    several = len({result.search.model for result in results}) > 1
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in [*["model"] * several, "task", "method", "asked"]:
        table.add_column(heading, no_wrap=True)
    for heading in ("edges", "faithfulness", "CPR", "r"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for row in result.rows():
            named = [*[row["model"]] * several, row["task"], row["method"], row.get("asked") or "failed"]
            shares = [_plain(row.get(name)) for name in ("faithfulness", "cpr", "pearson")]
            table.add_row(*map(escape, [*named, _count(row.get("edges")), *shares]), style=_style(result))
    console.print(table)
    console.print(
        "CPR: faithfulness integrated over MIB's grid; r: Pearson's, of the estimate with exact patching"
    )
    for result in results:
        for check in () if result.found is None else result.found.checks:
            if not check.passed:
                console.print(
                    f"{result.search.folder}: {check}", style="yellow", markup=False, highlight=False
                )


def _style(result: SweepResult) -> str:
    style = _STYLES[result.status]
    return "" if style == "green" else style


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:z.2f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
