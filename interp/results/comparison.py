"""Approximate methods side by side: how well each agrees with exact patching, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from interp.errors import RecordError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

STATISTICS = ("pearson", "spearman", "sign_agreement", "top_overlap")


@dataclass(frozen=True)
class MethodRow:
    """One method at one site of one task on one model, against exact patching of every cell."""

    model: str
    task: str
    site: str
    method: str
    n_cells: int
    pearson: Estimate
    spearman: Estimate
    sign_agreement: Estimate
    top_overlap: Estimate
    """Of the tenth of the cells that rank first."""


@dataclass(frozen=True)
class MethodCost:
    """What a method costs for all sites of one task together."""

    model: str
    task: str
    method: str
    """``"exact"`` among them."""
    seconds: float
    peak_bytes: int | None
    """Most bytes of tensors alive at once beside the weights; ``None`` where it was not measured."""


@dataclass(frozen=True, eq=False)
class MethodComparison(Record):
    """What :func:`interp.compare_methods` returns. Raises :class:`RecordError` without a row, and for
    two rows of the same model, task, site and method."""

    rows: tuple[MethodRow, ...]
    costs: tuple[MethodCost, ...]
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.rows:
            raise RecordError("MethodComparison needs at least one row.")
        seen = Counter((row.model, row.task, row.site, row.method) for row in self.rows)
        repeated = [key for key, n in seen.items() if n > 1]
        if repeated:
            raise RecordError(
                f"MethodComparison has several rows of {' · '.join(repeated[0])}; give methods of equal name (the "
                "same one with other options) in comparisons of their own."
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order they were compared."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def sites(self) -> tuple[str, ...]:
        """Likewise."""
        return tuple(dict.fromkeys(row.site for row in self.rows))

    @property
    def cases(self) -> tuple[tuple[str, str], ...]:
        """(model, task), likewise."""
        return tuple(dict.fromkeys((row.model, row.task) for row in self.rows))

    @property
    def shared_provenance(self) -> Provenance:
        """The provenance of all cases: their names together, and nothing that holds for one of them only."""
        if len(self.cases) == 1:
            return self.provenance
        models, tasks = (", ".join(dict.fromkeys(case[part] for case in self.cases)) for part in (0, 1))
        only_one = dict.fromkeys(
            ("family", "revision", "n_prompts", "seed", "backend", "backend_reason", "seconds")
        )
        return replace(self.provenance, model=models, task=tasks, **only_one)  # type: ignore[arg-type]

    def at(self, model: str, task: str, site: str, method: str) -> MethodRow | None:
        """One row, or ``None`` where it was not compared."""
        wanted = (model, task, site, method)
        return next((r for r in self.rows if (r.model, r.task, r.site, r.method) == wanted), None)

    def to_frame(self) -> pd.DataFrame:
        """One row a model, task, site and method, every statistic with its interval."""
        import pandas as pd

        rows = []
        for row in self.rows:
            found: dict[str, object] = {
                name: getattr(row, name) for name in ("model", "task", "site", "method", "n_cells")
            }
            for name in STATISTICS:
                estimate: Estimate = getattr(row, name)
                found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(found)
        return pd.DataFrame(rows)

    def table(self, statistic: str = "pearson") -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Headings and cells in the RelP paper's layout: a row a model and task, site by method across.

        Raises :class:`RecordError` for an unknown statistic.
        """
        if statistic not in STATISTICS:
            raise RecordError(unknown_name("statistic", statistic, STATISTICS))
        pairs = [(site, method) for site in self.sites for method in self.methods]
        headings = ["model", "task", *(f"{site}: {method}" for site, method in pairs)]
        cells = []
        for model, task in self.cases:
            found = [self.at(model, task, site, method) for site, method in pairs]
            cells.append(
                [model, task, *("" if row is None else str(getattr(row, statistic)) for row in found)]
            )
        return headings, cells

    def costs_frame(self) -> pd.DataFrame:
        """One row a model, task and method: seconds and peak bytes."""
        import pandas as pd

        return pd.DataFrame([vars(cost) for cost in self.costs])

    def plot(self, statistic: str = "pearson") -> go.Figure:
        """Points with intervals, a panel a site (``interp.plots.plot_comparison``)."""
        return draw("plot_comparison", self, statistic=statistic)
