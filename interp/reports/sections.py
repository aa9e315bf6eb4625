"""Sections that every report of patching has."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from interp.reports.page import Section, Table
from interp.results import Provenance
from interp.tasks import PromptPairs

_SHOWN = 5
"""Prompts in a report."""


def summary_section(
    text: str, metric: str | None, clean: float, corrupted: float, prompts: PromptPairs | None
) -> Section:
    """What was done, the metric of both runs, and a few of the prompts where they are given."""
    rows = (("clean run", clean), ("corrupted run", corrupted), ("gap", clean - corrupted))
    tables = [Table(("baseline", metric or "metric"), rows)]
    if prompts is not None and prompts.clean_text and prompts.corrupted_text:
        texts = zip(prompts.clean_text, prompts.corrupted_text, strict=True)
        columns = ("clean prompt", "corrupted prompt")
        tables.append(Table(columns, tuple(islice(texts, _SHOWN))))
    return Section("What was done", (text,), tuple(tables))


def provenance_section(made: Provenance, more: Iterable[tuple[str, str]] = ()) -> Section:
    """Every field of a provenance, its notes, ``more`` rows, and the versions."""
    fields = {name: value for name, value in made.to_dict().items() if name not in ("notes", "versions")}
    rows = [(name.replace("_", " "), _plain(value)) for name, value in fields.items() if value is not None]
    rows += [("note", note) for note in made.notes]
    rows += [*more, *made.versions.items()]
    return Section("Provenance", tables=(Table(("field", "value"), tuple(rows)),))


def _plain(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
