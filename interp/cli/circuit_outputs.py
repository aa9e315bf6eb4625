"""Pages and tables that ``interp find-circuit`` writes beside the files of a search."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.circuits.search_files import QUESTION, REPORT, write_json
from interp.circuits.search_summary import circuit_rows
from interp.errors import CircuitError
from interp.reports import Section, Table, circuit_report, write_atomically, write_report
from interp.results import Faithfulness

if TYPE_CHECKING:
    from interp.circuits.plan import SweepPlan
    from interp.circuits.search import CircuitSearch
    from interp.circuits.sweep import SweepResult
    from interp.tasks import PromptPairs

INDEX, TABLE, RESULTS, SEARCHES = "index.html", "summary.csv", "summary.json", "sweep.json"
"""Of a sweep, in its folder."""

_SHOWN = (
    "The pictures and tables above are of the largest of these circuits. Random circuits have as many edges; shown is "
    "the mean of their faithfulness."
)
_COLUMNS = {
    "asked": "asked for",
    "edges": "edges",
    "share": "share of all",
    "nodes": "nodes",
    "faithfulness": "faithfulness",
    "low": "low",
    "high": "high",
    "metric": "metric",
}


def write_search_report(found: CircuitSearch, prompts: PromptPairs) -> Path:
    """Write ``report.html`` of a search: its largest circuit, and what tested all of them.

    Raises :class:`~interp.errors.ExportError` when it cannot be written.
    """
    path = found.folder / REPORT
    evidence: dict[str, Any] = {
        "Faithfulness of the circuits asked for": found.faithfulness,
        "Faithfulness over all sizes": found.curve,
        "Estimates against exact patching": found.agreement,
    }
    evidence = {name: record for name, record in evidence.items() if record is not None}
    circuit = found.circuits[found.largest]
    if circuit.n_edges:
        sections = (_circuits(found, _SHOWN), *_verdicts(found))
        return circuit_report(
            circuit, path, scores=found.scores, prompts=prompts, evidence=evidence, sections=sections
        )
    made = found.provenance
    scores = () if found.scores is None else (Section("Scores of all edges", figures=(found.scores.plot(),)),)
    shown = (Section(name, figures=(record.plot(),)) for name, record in evidence.items())
    sections = (_circuits(found, "None of them has an edge."), *_verdicts(found), *scores, *shown)
    return write_report(path, f"Circuits: {made.task} on {made.model}", sections, subtitle=made.summary())


def _circuits(found: CircuitSearch, text: str) -> Section:
    rows = list(circuit_rows(found))
    names = {name: _COLUMNS.get(name, name.replace("_", ", ")) for name in rows[0]}
    cells = tuple(tuple(row[name] for name in names) for row in rows)
    return Section("Circuits asked for", (text,), (Table(tuple(names.values()), cells),))


def _verdicts(found: CircuitSearch) -> tuple[Section, ...]:
    """Checks and notes, where there are any."""
    checks = tuple(
        (check.what, check.value, check.bound, "yes" if check.passed else "no") for check in found.checks
    )
    parts = []
    if checks:
        parts.append(Section("Checks", tables=(Table(("what", "value", "at least", "passed"), checks),)))
    if found.notes:
        parts.append(Section("Notes", found.notes))
    return tuple(parts)


def claim_folder(folder: Path, plan: SweepPlan) -> None:
    """Say in ``sweep.json`` which searches lie in a folder.

    Raises :class:`CircuitError` for a folder with files of a sweep's names that no sweep left there.
    """
    names = (INDEX, TABLE, RESULTS, QUESTION)
    foreign = [name for name in names if (folder / name).exists()]
    if foreign and not (folder / SEARCHES).exists():
        raise CircuitError(
            f"{str(folder)!r} holds {foreign[0]}, which no sweep left there; give the sweep another folder."
        )
    write_json(folder / SEARCHES, {"searches": [search.folder for search in plan.searches()]})


def write_sweep(folder: Path, results: Sequence[SweepResult]) -> tuple[Path, ...]:
    """Write ``summary.json``, ``summary.csv`` and ``index.html`` of a sweep.

    Raises :class:`~interp.errors.ExportError` when they cannot be written.
    """
    import pandas as pd

    rows = [row for result in results for row in result.rows()]
    document = {"searches": [result.summary() for result in results]}
    written = write_json(folder / RESULTS, document)
    table = write_atomically(folder / TABLE, pd.DataFrame(rows).to_csv(index=False))
    return written, table, _write_index(folder / INDEX, results, rows)


def _write_index(path: Path, results: Sequence[SweepResult], rows: Sequence[Mapping[str, Any]]) -> Path:
    columns = (
        "model",
        "task",
        "method",
        "asked",
        "edges",
        "faithfulness",
        "low",
        "high",
        "cpr",
        "cmd",
        "pearson",
    )
    cells = tuple((*(row.get(name) for name in columns), row["status"]) for row in rows)
    text = (
        "One row a circuit. Faithfulness: 0 = everything ablated, 1 = the whole model. CPR and CMD: faithfulness and "
        "its distance from 1, integrated over MIB's grid of sizes. pearson: of the estimate with exact patching.",
    )
    sections = [
        Section("All circuits", text, (Table((*columns, "status"), cells),)),
        Section("Reports", prepared=(_links(results),)),
    ]
    failed = tuple((result.search.folder, result.reason) for result in results if result.error is not None)
    if failed:
        sections.append(Section("Failed", tables=(Table(("search", "why"), failed),)))
    for title, curve in join_curves(results).items():
        sections.append(Section(title, figures=(curve.plot(),)))
    count = f"{len(results)} searches"
    return write_report(path, "Circuits of several tasks and methods", sections, subtitle=count)


def _links(results: Sequence[SweepResult]) -> str:
    items = []
    for result in results:
        if result.found is not None:
            place = html.escape(result.search.folder)
            items.append(f'<li><a href="{place}/{REPORT}">{place}</a></li>')
    return f"<ul>{''.join(items)}</ul>" if items else "<p>None was written.</p>"


def join_curves(results: Sequence[SweepResult]) -> dict[str, Faithfulness]:
    """The curves of all methods of one model and task in one record, by a title.

    They are of the same prompts, sizes and ablation, for a sweep's options stand for all of its searches.
    Random circuits are those of the first method.
    """
    groups: dict[str, list[Faithfulness]] = {}
    for result in results:
        if result.found is not None and result.found.curve is not None:
            search = result.search
            groups.setdefault(f"{search.task.label} on {search.model}", []).append(result.found.curve)
    return {title: _join(curves) for title, curves in groups.items()}


def _join(curves: Sequence[Faithfulness]) -> Faithfulness:
    first = curves[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(curve, name) for curve in curves])
        for name in ("n_edges", "per_prompt", "low", "high")
    }
    methods = tuple(name for curve in curves for name in curve.methods)
    return replace(
        first,
        methods=methods,
        cpr=tuple(part for curve in curves for part in curve.cpr),
        cmd=tuple(part for curve in curves for part in curve.cmd),
        provenance=replace(first.provenance, method=", ".join(methods)),
        **tensors,
    )
