"""The report of a sparse coder: how good it is, how it was trained, how its latents fire, and some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interp.errors import ExportError
from interp.reports.page import Cell, Section, Table, write_report
from interp.reports.sections import provenance_section
from interp.results.coder_history import CoderHistory, CoderPareto
from interp.results.coder_profile import CoderProfile
from interp.results.feature import LatentProfile

_ROWS = 40
_ABREAST = 4
"""Rows of a wide table of figures that stand beside one another."""
_UNEVALUATED = (
    "How much of the model's behaviour survives when the coder's output replaces the activation was not measured here; "
    "interp.evaluate_coder does so. A low share of unexplained variance alone does not show that the coder keeps what "
    "the model uses, nor that its latents are what the model computes with."
)
_SAMPLED = (
    "Examples are the largest activations, one a prompt, then random places from intervals of quantiles. Judge a "
    "latent by both: the largest activations alone often look more uniform than the rest."
)


class Evaluation(Protocol):
    """A record of what a coder does to a model."""

    def summary(self) -> str:
        """Its figures in a few lines."""

    def to_frame(self) -> Any:
        """Its figures as a pandas table."""

    def plot(self) -> Any:
        """A plotly figure."""


def coder_report(
    profile: CoderProfile,
    path: str | Path,
    *,
    evaluation: Evaluation | None = None,
    history: CoderHistory | None = None,
    pareto: CoderPareto | None = None,
    latents: int = 12,
    examples: int = 5,
    sections: Sequence[Section] = (),
    title: str | None = None,
) -> Path:
    """Write a coder as one self-contained HTML file, and return its path.

    It holds the summary, the evaluation on the model (and says that there is none where it is left out), the
    training curves and the trade-off between sparsity and fidelity where they are given, densities, the first
    ``latents`` profiles with ``examples`` of each kind, the further ``sections``, and the provenance. To leaf
    through all latents, see :func:`write_dashboard`.

    Raises :class:`~interp.errors.ExportError` for less than no latents or one example, and as
    :func:`write_report` does.
    """
    if latents < 0 or examples < 1:
        raise ExportError(
            f"a report shows no negative number of latents, with one example at least; got latents={latents}, "
            f"examples={examples}."
        )
    made = profile.provenance
    parts = [_summary(profile), _evaluation(evaluation)]
    if history is not None:
        parts.append(Section("Training", tuple(history.summary().splitlines()), figures=(history.plot(),)))
    if pareto is not None:
        parts.append(Section("Sparsity against fidelity", figures=(pareto.plot(),)))
    parts.append(Section("How often latents fire", tables=(_extremes(profile),), figures=(profile.plot(),)))
    shown = profile.latents[:latents]
    if shown:
        parts.append(_latents(shown, len(profile), examples))
    parts += [*sections, provenance_section(made)]
    return write_report(
        path,
        title or f"Sparse coder at {profile.site} of {made.model}",
        parts,
        subtitle=f"{profile.architecture} · {profile.d_sae:,} latents · {made.summary()}",
        footer="Written by interp.",
    )


def _summary(profile: CoderProfile) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = (
        ("reads", profile.site),
        ("predicts", profile.target_site),
        ("architecture", profile.architecture),
        ("latents", f"{profile.d_sae:,}"),
        ("tokens looked at", f"{profile.n_tokens:,}"),
        ("latents that fire on a token (L0)", f"{profile.l0:.1f}"),
        ("dead latents", f"{len(profile.dead):,} ({profile.dead_frac:.1%})"),
    )
    return Section("The coder", tables=(Table(("", "value"), rows),))


def _evaluation(evaluation: Evaluation | None) -> Section:
    if evaluation is None:
        return Section("Not evaluated on the model", (_UNEVALUATED,))
    frame, lines = evaluation.to_frame(), evaluation.summary().splitlines()
    if len(frame) > _ROWS:
        lines.append(f"The first {_ROWS} of {len(frame):,} rows:")
    table = _figures_table(frame) if len(frame) <= _ABREAST < len(frame.columns) else _rows_table(frame)
    return Section("Evaluation on the model", tuple(lines), (table,), (evaluation.plot(),))


def _rows_table(frame: Any) -> Table:
    rows = tuple(tuple(map(_cell, row)) for row in frame.head(_ROWS).itertuples(index=False, name=None))
    return Table(tuple(map(str, frame.columns)), rows)


def _figures_table(frame: Any) -> Table:
    """A line a figure, where a few rows have many of them."""
    rows = tuple((str(name), *(_cell(value) for value in frame[name])) for name in frame.columns)
    return Table(("figure", *("value" if len(frame) == 1 else str(i) for i in range(len(frame)))), rows)


def _extremes(profile: CoderProfile) -> Table:
    """The densest latents: those that fire on most tokens are seldom features."""
    density = profile.density.double()
    order = density.argsort(descending=True, stable=True)[:8].tolist()
    rows = tuple(
        (str(i), f"{float(density[i]):.2%}", float(profile.mean[i]), float(profile.maximum[i])) for i in order
    )
    return Table(("densest latents", "fires on", "mean activation", "largest"), rows)


def _latents(shown: Sequence[LatentProfile], of: int, examples: int) -> Section:
    title = f"{len(shown)} latents" if len(shown) == of else f"{len(shown)} of the {of} latents looked at"
    return Section(title, (_SAMPLED,), prepared=tuple(latent.to_html(examples) for latent in shown))


def _cell(value: Any) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return str(value)
