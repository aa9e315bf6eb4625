"""Interventions written out: one row, one position and one vector at a time, from their description.

The second route to what ``interp.intervene`` does. It shares no code with it but the parsed site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from model_zoo import Specimen, specimen
from torch import Tensor

from interp import add, apply, capture, clamp, mean, project, replace, resample, scale, zero
from interp.models.cache import ActivationCache
from interp.models.interventions import Intervention, other_rows
from interp.types import PATTERN_COMPONENTS, Site, Span

Spot = tuple[int, int, int]
"""A row, a column, and the position that the column is for this row."""

Rule = Callable[[Tensor, Spot, int], Tensor]
"""New value of one vector: from the old one (heads first, if several), its spot and its layer."""


@dataclass(frozen=True)
class Prompts:
    """Tokens with padding, which the model is run on."""

    tokens: Tensor
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor:
        return torch.ones_like(self.tokens).bool() if self.mask is None else self.mask

    def columns_of(self, row: int, total: int) -> list[int]:
        """Columns of a row's tokens in order of position, generated ones (up to ``total``) last."""
        n = self.tokens.shape[1]
        return [c for c in range(n) if self.real[row, c]] + list(range(n, total))

    def length(self, row: int) -> int:
        return int(self.real[row].sum())


@dataclass(frozen=True)
class Change:
    """One intervention, and what it should do."""

    intervention: Intervention
    rule: Rule
    known: int | None = None
    """Positions from here on are left alone, because the data has none."""
    columns: int | None = None
    """Columns from here on are left alone, because the source has none."""

    def reaches(self, spot: Spot) -> bool:
        """Whether it changes anything there."""
        _, column, position = spot
        beyond = self.columns is not None and column >= self.columns
        return not beyond and (self.known is None or position < self.known)

    @property
    def site(self) -> Site:
        return self.intervention.site


def edits_of(
    changes: Sequence[Change], prompts: Prompts, n_layers: int, labels: Mapping[str, Tensor], total: int
) -> dict[tuple[str, int], Callable[[Tensor], Tensor]]:
    """What ``NaiveTransformer`` takes, for a run of ``total`` columns."""
    by_place: dict[tuple[str, int], list[Change]] = {}
    for change in changes:
        layers = [change.site.layer] if change.site.layer is not None else range(n_layers)
        for layer in [0] if change.site.component == "embed" else layers:
            by_place.setdefault((change.site.component, layer), []).append(change)

    def edit(place: tuple[str, int]) -> Callable[[Tensor], Tensor]:
        def run(value: Tensor) -> Tensor:
            for change in by_place[place]:
                value = _changed(value, change, place[1], spots_of(change.site, prompts, labels, total))
            return value

        return run

    return {place: edit(place) for place in by_place}


def spots_of(site: Site, prompts: Prompts, labels: Mapping[str, Tensor], total: int) -> list[Spot]:
    """Every row and column that a site covers in a run of ``total`` columns."""
    found = []
    for row in range(len(prompts.tokens)):
        if site.rows is not None and row not in site.rows:
            continue
        columns, length = prompts.columns_of(row, total), prompts.length(row)
        chosen = _chosen(site, len(columns), length, {name: int(at[row]) for name, at in labels.items()})
        found += [(row, columns[p], p) for p in sorted(chosen)]
    return found


def _chosen(site: Site, n: int, length: int, labels: Mapping[str, int]) -> set[int]:
    everything = range(n)
    if site.positions is None:
        return set(everything)
    chosen: set[int] = set()
    for position in site.positions:
        if isinstance(position, Span):
            start, stop = position.start or 0, position.stop
            start = start + length if start < 0 else start
            stop = n if stop is None else stop + length if stop < 0 else stop
            chosen |= {p for p in everything if start <= p < stop}
        elif isinstance(position, int):
            chosen.add(position + length if position < 0 else position)
        elif position in ("all", "pos"):
            chosen |= set(everything)
        elif position == "gen":
            chosen |= {p for p in everything if p >= length}
        else:
            chosen.add(labels.get(position, length - 1))
    return chosen & set(everything)


def _changed(value: Tensor, change: Change, layer: int, spots: Sequence[Spot]) -> Tensor:
    value = value.clone()
    for spot in spots:
        vector = cut(value, change.site, spot)
        basis = None if change.site.subspace is None else change.site.subspace.to(vector)
        if basis is None:
            new = change.rule(vector, spot, layer)
        else:
            inside = vector @ basis.T
            new = vector + (change.rule(inside, spot, layer) - inside) @ basis
        _write(value, change.site, spot, new)
    return value


def cut(value: Tensor, site: Site, spot: Spot) -> Tensor:
    """The vector (or one a head) of a site at one row and column of a whole activation."""
    row, column, _ = spot
    vector = value[row, :, column] if site.component in PATTERN_COMPONENTS else value[row, column]
    vector = vector if site.head is None else vector[site.head]
    return vector.clone() if not site.neurons else vector[..., list(site.neurons)]


def _write(value: Tensor, site: Site, spot: Spot, new: Tensor) -> None:
    row, column, _ = spot
    target = value[row, :, column] if site.component in PATTERN_COMPONENTS else value[row, column]
    target = target if site.head is None else target[site.head]
    if site.neurons:
        target[..., list(site.neurons)] = new
    else:
        target.copy_(new)


@dataclass(frozen=True)
class Source:
    """Another run: captured by ``interp``, and as the naive model computes it."""

    prompts: Prompts
    cache: ActivationCache
    record: dict[tuple[str, int], Tensor]


@cache
def source(name: str, seed: int, rows: int, columns: int, padding: str) -> Source:
    """A run of random prompts through a specimen, everything captured."""
    kind = specimen(name)
    prompts = random_prompts(seed, rows, columns, padding)
    record: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad():
        kind.naive(prompts.tokens, prompts.mask, record=record)
        captured = capture(kind.model, prompts.tokens, kind.model.components, attention_mask=prompts.mask)
    return Source(prompts, captured, record)


def random_prompts(seed: int, rows: int, columns: int, padding: str) -> Prompts:
    """Prompts padded on a side (``"none"`` for no padding), rows of unequal length."""
    tokens = torch.randint(0, 53, (rows, columns), generator=torch.Generator().manual_seed(seed))
    if padding == "none":
        return Prompts(tokens)
    real = torch.ones_like(tokens).bool()
    for row in range(rows - 1):
        n = 1 + (row + 1) % 3
        real[row, slice(0, n) if padding == "left" else slice(columns - n, columns)] = False
    return Prompts(tokens, real)


KINDS = (
    "zero",
    "number",
    "replace_vector",
    "replace_tensor",
    "replace_cache",
    "mean",
    "mean_per_position",
    "mean_tensor",
    "resample",
    "add",
    "add_cache",
    "scale",
    "clamp",
    "project",
    "keep",
    "apply",
)


def make_change(kind: str, site: Site, on: Specimen, prompts: Prompts, padding: str, seed: int) -> Change:
    """An intervention of a kind at a site, with random data, and the rule it should follow."""
    generator = torch.Generator().manual_seed(seed)
    maker = _SIMPLE.get(kind) or _FROM_RUNS[kind]
    if kind in _SIMPLE:
        return maker(site, width(site, on, prompts), generator)
    return maker(site, on, prompts, padding)


def width(site: Site, on: Specimen, prompts: Prompts) -> int:
    """Entries of one vector at a site."""
    if site.subspace is not None:
        return len(site.subspace)
    if site.neurons:
        return len(site.neurons)
    if site.component in PATTERN_COMPONENTS:
        return prompts.tokens.shape[1]
    traits = on.model.traits
    return {"d_model": traits.d_model, "d_head": traits.d_head, "d_mlp": traits.d_mlp}[site.axes[-1]]


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _zero(site: Site, d: int, generator: torch.Generator) -> Change:
    return Change(zero(site), lambda v, spot, layer: 0 * v)


def _number(site: Site, d: int, generator: torch.Generator) -> Change:
    return Change(replace(site, 0.25), lambda v, spot, layer: 0 * v + 0.25)


def _replace_vector(site: Site, d: int, generator: torch.Generator) -> Change:
    vector = _random(generator, d)
    return Change(replace(site, vector), lambda v, spot, layer: 0 * v + vector.double())


def _add(site: Site, d: int, generator: torch.Generator) -> Change:
    vector = _random(generator, d)
    return Change(add(site, vector, 1.5), lambda v, spot, layer: v + 1.5 * vector.double())


def _scale(site: Site, d: int, generator: torch.Generator) -> Change:
    return Change(scale(site, -0.5), lambda v, spot, layer: -v / 2)


def _clamp(site: Site, d: int, generator: torch.Generator) -> Change:
    return Change(clamp(site, -0.1, 0.3), lambda v, spot, layer: v.minimum(v * 0 + 0.3).maximum(v * 0 - 0.1))


def _project(site: Site, d: int, generator: torch.Generator) -> Change:
    unit = _random(generator, d)
    unit = (unit / unit.norm()).double()
    return Change(project(site, 3 * unit), lambda v, spot, layer: v - (v @ unit)[..., None] * unit)


def _keep(site: Site, d: int, generator: torch.Generator) -> Change:
    unit = _random(generator, d)
    unit = (unit / unit.norm()).double()
    return Change(project(site, -unit, keep=True), lambda v, spot, layer: (v @ unit)[..., None] * unit)


def _apply(site: Site, d: int, generator: torch.Generator) -> Change:
    return Change(apply(site, lambda part: part.tanh().flip(-1)), lambda v, spot, layer: v.tanh().flip(-1))


_SIMPLE: dict[str, Any] = {
    "zero": _zero,
    "number": _number,
    "replace_vector": _replace_vector,
    "add": _add,
    "scale": _scale,
    "clamp": _clamp,
    "project": _project,
    "keep": _keep,
    "apply": _apply,
}


def _run_like(on: Specimen, prompts: Prompts, padding: str) -> Source:
    return source(on.name, 11, *prompts.tokens.shape, padding)


def _inside(vector: Tensor, site: Site) -> Tensor:
    return vector if site.subspace is None else vector @ site.subspace.to(vector).T


def _fit_keys(vector: Tensor, like: Tensor) -> Tensor:
    """A pattern has more keys once tokens were generated; they get nothing."""
    return torch.cat([vector, torch.zeros_like(like[..., vector.shape[-1] :])], dim=-1)


def _from_run(record: dict[tuple[str, int], Tensor], site: Site, rows: Sequence[int], n: int) -> Rule:
    def rule(v: Tensor, spot: Spot, layer: int) -> Tensor:
        row, column, position = spot
        if column >= n:
            return v
        found = cut(record[site.component, layer], site, (rows[row], column, position))
        return _fit_keys(_inside(found, site), v)

    return rule


def _replace_cache(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    run = _run_like(on, prompts, padding)
    rows = list(range(len(prompts.tokens)))
    rule = _from_run(run.record, site, rows, prompts.tokens.shape[1])
    return Change(replace(site, run.cache), rule, columns=prompts.tokens.shape[1])


def _replace_tensor(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    """A tensor of one layer, taken for every layer that the site covers."""
    run = _run_like(on, prompts, padding)
    layer = 0 if site.component == "embed" else 1
    record = {(site.component, at): run.record[site.component, layer] for at in range(2)}
    whole = run.cache[Site(site.component, None if site.component == "embed" else layer)]
    rule = _from_run(record, site, range(len(prompts.tokens)), prompts.tokens.shape[1])
    return Change(replace(site, whole), rule, columns=prompts.tokens.shape[1])


def _add_cache(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    run = _run_like(on, prompts, padding)
    take = _from_run(run.record, site, range(len(prompts.tokens)), prompts.tokens.shape[1])

    def rule(v: Tensor, spot: Spot, layer: int) -> Tensor:
        return v if spot[1] >= prompts.tokens.shape[1] else v + 0.5 * take(v, spot, layer)

    return Change(add(site, run.cache, 0.5), rule, columns=prompts.tokens.shape[1])


def _resample(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    run = _run_like(on, prompts, "none")
    rows = other_rows(len(prompts.tokens), 5).tolist()
    n = prompts.tokens.shape[1]
    return Change(resample(site, run.cache, seed=5), _from_run(run.record, site, rows, n), columns=n)


def _mean(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    data = source(on.name, 12, 4, 7, "left")
    return Change(mean(site, data.cache), lambda v, spot, layer: _average(data, site, layer, None))


def _mean_per_position(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    """Data shorter than the prompts: the positions beyond it are left alone."""
    data = source(on.name, 12, 4, 7, "none" if site.component in PATTERN_COMPONENTS else "left")

    def rule(v: Tensor, spot: Spot, layer: int) -> Tensor:
        return v if spot[2] >= 7 else _fit_keys(_average(data, site, layer, spot[2]), v)

    return Change(mean(site, data.cache, per_position=True), rule, known=7)


def _average(data: Source, site: Site, layer: int, position: int | None) -> Tensor:
    found = []
    for row in range(len(data.prompts.tokens)):
        for p, column in enumerate(data.prompts.columns_of(row, data.prompts.tokens.shape[1])):
            if position is None or p == position:
                found.append(cut(data.record[site.component, layer], site, (row, column, p)))
    return _inside(torch.stack(found).mean(0), site)


def _mean_tensor(site: Site, on: Specimen, prompts: Prompts, padding: str) -> Change:
    """The mean itself, of all heads and neurons."""
    data = source(on.name, 12, 4, 7, "left")
    layer = 0 if site.component == "embed" else 1
    whole = Site(site.component, None if site.component == "embed" else 1)
    real = data.cache.columns.real
    means = data.cache[whole][real].mean(0)
    return Change(mean(site, means), lambda v, spot, at: _average(data, site, layer, None))


_FROM_RUNS: dict[str, Any] = {
    "replace_tensor": _replace_tensor,
    "replace_cache": _replace_cache,
    "mean": _mean,
    "mean_per_position": _mean_per_position,
    "mean_tensor": _mean_tensor,
    "resample": _resample,
    "add_cache": _add_cache,
}
