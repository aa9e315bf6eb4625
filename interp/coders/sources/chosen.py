"""Which of a cache's fields, and of their sites, make the rows of one coder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from interp.coders.sources.layout import SourceLayout
from interp.coders.sources.parts import FIELDS, ChunkForm
from interp.errors import CoderError, unknown_name
from interp.types import SiteLike, parse_sites

Part = tuple[str, int | None]
"""A stored field, and the number of one of its sites (``None``: all of it)."""


@dataclass(frozen=True)
class ChosenFields:
    """What is read, and the chunks that are made of it."""

    parts: Mapping[str, tuple[Part, ...]]
    """Of every tensor that a chunk keeps; several parts are stacked to [row, site, d]."""
    form: ChunkForm


def choose_all(form: ChunkForm) -> ChosenFields:
    """Every field as it is stored."""
    return ChosenFields({kept: ((kept, None),) for kept in dict.fromkeys(form.kept.values())}, form)


def choose_coder(form: ChunkForm, name: str) -> ChosenFields:
    """The fields of one of several coders, or of the only one (``""``)."""
    prefix = f"{name}." if name else ""
    found = {field: form.kept[prefix + field] for field in FIELDS if prefix + field in form.kept}
    first: dict[str, str] = {}
    kept = {field: first.setdefault(stored, field) for field, stored in found.items()}
    parts: dict[str, tuple[Part, ...]] = {field: ((stored, None),) for stored, field in first.items()}
    return ChosenFields(parts, ChunkForm(kept, is_joint=False))


def choose_sites(
    whole: ChosenFields,
    layout: SourceLayout,
    sites: SiteLike | Iterable[SiteLike] | None,
    target: SiteLike | Iterable[SiteLike] | None,
) -> tuple[ChosenFields, SourceLayout]:
    """Rows of some of a coder's sites; without ``target`` they are their own.

    Raises :class:`CoderError` for a site that is not stored, and for sites of several widths.
    """
    inputs = list(layout.sites) if sites is None else [str(site) for site in parse_sites(sites)]
    outputs = inputs if target is None else [str(site) for site in parse_sites(target)]
    located = {site: _locate(site, whole, layout) for site in (*inputs, *outputs)}
    parts: dict[str, tuple[Part, ...]] = {"x": tuple(located[site][0] for site in inputs)}
    kept = {"x": "x", "target": "x"}
    if outputs != inputs:
        parts["target"] = tuple(located[site][0] for site in outputs)
        kept["target"] = "target"
    if "grad" in whole.form.kept and all(site in layout.sites for site in inputs):
        stored = whole.parts["grad"][0][0]
        parts["grad"], kept["grad"] = tuple((stored, number) for _, number in parts["x"]), "grad"
    for field in ("token", "position", "prompt"):
        if field in whole.form.kept:
            parts[field], kept[field] = whole.parts[whole.form.kept[field]], field
    chosen = replace(
        layout,
        d_in=_width(inputs, located),
        d_out=_width(outputs, located),
        n_inputs=len(inputs) if len(inputs) > 1 else 0,
        n_outputs=len(outputs) if len(outputs) > 1 else 0,
        sites=tuple(inputs),
        target_sites=tuple(outputs),
        has_grad="grad" in kept,
    )
    return ChosenFields(parts, ChunkForm(kept, is_joint=False)), chosen


def _locate(site: str, whole: ChosenFields, layout: SourceLayout) -> tuple[Part, int]:
    """Where a site is stored, and its width."""
    sides = (
        ("x", layout.sites, layout.n_inputs, layout.d_in),
        ("target", layout.target_sites, layout.n_outputs, layout.d_out),
    )
    for field, sites, n, width in sides:
        if site in sites:
            ((stored, _),) = whole.parts[whole.form.kept[field]]
            return (stored, sites.index(site) if n else None), width
    raise CoderError(unknown_name("site of this cache", site, (*layout.sites, *layout.target_sites)))


def _width(sites: list[str], located: Mapping[str, tuple[Part, int]]) -> int:
    widths = {located[site][1] for site in sites}
    if len(widths) > 1:
        raise CoderError(f"several sites of one coder must have one width; {sites} have {sorted(widths)}.")
    return widths.pop()
