"""Figures of the recovery benchmark: one row a model, direction and method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from interp.bench.report import Report, Table


@dataclass(frozen=True)
class RecoveryRow:
    """How well one method ranks the true edges of one model."""

    model: str
    n_layers: int
    n_edges: int
    n_true: int
    n_prompts: int
    seed: int
    """Of prompts, and of the first program."""
    direction: str
    method: str
    auroc: float
    """Of edges: the chance that a true one ranks above a false one, ties half."""
    average_precision: float
    f1_at_n_true: float
    """Of as many edges as are true."""
    node_auroc: float
    """Of heads and MLPs by the largest of their edges; NaN where all are true."""
    node_average_precision: float
    seconds: float


NOTES = (
    "AUROC: the chance that a true edge ranks above a false one; AP: average precision. Equal scores count as equal: "
    "an edge that a method scores 0 ranks with all that carry nothing. worst: of the programs.",
    "Planted models say which edges a method can miss, not how often it does so on trained ones: they have no "
    "norms, few layers and gates of sharp corners.",
)


def report_recovery(rows: Sequence[RecoveryRow], threads: str) -> Report[RecoveryRow]:
    """Tables by direction, of planted models and of programs; the last line says every method's mean and worst."""
    tables = []
    for direction in dict.fromkeys(row.direction for row in rows):
        here = [row for row in rows if row.direction == direction]
        planted = [row for row in here if not _is_program(row)]
        programs = [row for row in here if _is_program(row)]
        if planted:
            tables.append(_tabulate(planted, "auroc", f"AUROC of edges, planted models, {direction}"))
            tables.append(
                _tabulate(planted, "average_precision", f"AP of edges, planted models, {direction}")
            )
        if programs:
            tables.append(_summarise(programs, direction))
    return Report(rows, tables, (*NOTES, threads), headline(rows))


def _tabulate(rows: Sequence[RecoveryRow], measure: str, title: str) -> Table:
    models = list(dict.fromkeys(row.model for row in rows))
    found = {(row.method, row.model): getattr(row, measure) for row in rows}
    cells = [
        [method, *(f"{found[method, model]:.3f}" for model in models)]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return Table(title, ("method", *(model.removeprefix("planted-") for model in models)), cells)


def _summarise(rows: Sequence[RecoveryRow], direction: str) -> Table:
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        measured = [[getattr(row, name) for row in own] for name in ("auroc", "average_precision")]
        cells.append([method, *(f"{take(values):.3f}" for values in measured for take in (mean, min))])
    n = len({row.model for row in rows})
    title = f"{n} compiled program{'s' * (n > 1)}, {direction}"
    return Table(title, ("method", "AUROC", "worst", "AP", "worst"), cells)


def _is_program(row: RecoveryRow) -> bool:
    return row.model.startswith("compiled-")


def headline(rows: Iterable[RecoveryRow]) -> str:
    """Mean and worst AUROC of each method over all models and directions."""
    by_method: dict[str, list[float]] = {}
    models = set()
    for row in rows:
        by_method.setdefault(row.method, []).append(row.auroc)
        models.add(row.model)
    parts = (f"{method} {mean(found):.3f}/{min(found):.3f}" for method, found in by_method.items())
    return f"AUROC of edges, mean/worst of {len(models)} known circuits: " + ", ".join(parts)
