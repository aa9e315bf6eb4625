"""Gradient scores of edges written out on the naive transformer, in float64: every estimate from its definition.

The second route to what ``interp.score_edges`` estimates. Every reader gets a residual stream of its own,
the same as all others' plus a probe, and an edge's score is its writer's change times the metric's
gradient at the reader's probe. Norms and maps before a reader are autograd's; nothing is contracted
in parts, folded or recomputed. It shares no code with the package but the graph's numbering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from model_zoo import Specimen
from naive_attribution import NaiveAttribution, Place
from naive_transformer import NaiveTransformer, _affine
from torch import Tensor

import interp
from interp.circuits.graph import place_columns
from interp.models.model import Model
from interp.results import Graph
from interp.results.graph import Reader, Writer
from interp.tasks.base import PromptPairs
from interp.types import Site

Points = Sequence[tuple[float, float]]
Edits = dict[Place, Callable[[Tensor], Tensor]]
Probes = Mapping[Reader, Tensor]
"""What each reader sees beside the residual stream of all."""


@dataclass(frozen=True)
class NaiveEdges:
    """A graph of a model, a task on it, and what replaces activations."""

    runs: NaiveAttribution
    graph: Graph

    @classmethod
    def of(cls, on: Specimen, task: PromptPairs, graph: Graph, **options: Any) -> NaiveEdges:
        return cls(NaiveAttribution(on, task, **options), graph)

    @property
    def _naive(self) -> NaiveTransformer:
        return self.runs.on.naive

    def run(
        self,
        probes: Probes | None = None,
        moved: Mapping[Place, Tensor] | None = None,
        dropped: int | None = None,
        of_source: bool = False,
        record: dict[Place, Tensor] | None = None,
    ) -> Tensor:
        """The metric of a run in which readers see their probes, some activations are moved, and no gradient
        comes through the outputs of a dropped layer."""
        record = {} if record is None else record
        edits = self._reading(probes or {}, record)
        for place, change in (moved or {}).items():
            edits[place] = lambda value, change=change: value + change
        for name in ("attn_out", "mlp_out"):
            if (name, dropped) in self.runs.base:
                edits[name, dropped] = lambda value: value.detach()
        prompts = self.runs.prompts
        if of_source:
            task = self.runs.task
            tokens = task.clean if self.runs.direction == "denoise" else task.corrupted
            prompts = type(prompts)(tokens, prompts.mask)
        return self.runs.score(self.runs.run(edits, record, prompts))

    def _reading(self, probes: Probes, record: dict[Place, Tensor]) -> Edits:
        """Readers' own activations, made anew from the stream that each of them sees."""
        edits: Edits = {}
        by_place: dict[Place, dict[Reader, Tensor]] = {}
        for reader, probe in probes.items():
            gated = self._naive.traits.gated_mlp
            names = {"logits": ["resid_post"], "q": ["q"], "k": ["k"], "v": ["v"]}.get(
                reader.kind, ["mlp_pre", "mlp_pre_linear"] if gated else ["mlp_pre"]
            )
            for name in names:
                layer = reader.layer - (reader.kind == "logits")
                by_place.setdefault((name, layer), {})[reader] = probe
        for place, mine in by_place.items():
            edits[place] = lambda value, place=place, mine=mine: self._read(place, value, mine, record)
        return edits

    def _read(
        self, place: Place, value: Tensor, probes: Mapping[Reader, Tensor], record: dict[Place, Tensor]
    ) -> Tensor:
        name, layer = place
        if name == "resid_post":
            return value + sum(probes.values())
        naive, w = self._naive, self._naive.weights.layers[layer]
        if name in ("q", "k", "v"):
            W, b = {"q": (w.W_Q, w.b_Q), "k": (w.W_K, w.b_K), "v": (w.W_V, w.b_V)}[name]
            new = list(value.unbind(2))
            for reader, probe in probes.items():
                x = naive._norm(record["resid_pre", layer] + probe, w.ln1)
                new[reader.index] = _affine("bpm,hmd->bphd", x, W, b)[:, :, reader.index]
            return torch.stack(new, 2)
        gate = name == "mlp_pre" and naive.traits.gated_mlp
        W, b = (w.W_gate, w.b_gate) if gate else (w.W_in, w.b_in)
        stream = record["resid_pre" if naive.traits.parallel_blocks else "resid_mid", layer]
        new, units = value, self.graph.units_of(layer)
        for reader, probe in probes.items():
            whole = _affine("bpm,mn->bpn", naive._norm(stream + probe, w.ln2), W, b)
            mine = torch.zeros(whole.shape[-1], dtype=torch.bool)
            if reader.kind == "neuron":
                mine[reader.index] = True
            else:
                mine[:] = True
                mine[list(units.indices if units else ())] = False
            new = torch.where(mine, whole, new)
        return new

    def change_of(self, writer: Writer, at: Mapping[Place, Tensor]) -> Tensor:
        """By how much a writer's output changes, [batch, pos, d_model], in the run with these activations."""
        if writer.kind == "input":
            return self.runs.change(Site("resid_pre", 0))
        layer, w = writer.layer, self._naive.weights.layers[writer.layer]
        if writer.kind == "head":
            z = self.runs.change(Site("z", layer))[:, :, writer.index]
            return self._after_norm(
                z @ w.W_O[writer.index].double(), at["result", layer].sum(2), w.b_O, w.ln1_post
            )
        units = self.graph.units_of(layer)
        if units is None:
            return self.runs.change(Site("mlp_out", layer))
        post = self.runs.change(Site("mlp_post", layer))
        mine = torch.zeros(post.shape[-1], dtype=torch.bool)
        mine[
            writer.index if writer.kind == "neuron" else list(set(range(len(mine))) - set(units.indices))
        ] = True
        W_out = w.W_out.double()
        return self._after_norm((post * mine) @ W_out, at["mlp_post", layer] @ W_out, w.b_out, w.ln2_post)

    def _after_norm(self, change: Tensor, out: Tensor, bias: Tensor | None, norm: Any) -> Tensor:
        if not self._naive.traits.post_norms:
            return change
        out = (out if bias is None else out + bias).detach().requires_grad_()
        with torch.enable_grad():
            normed = self._naive._norm(out, norm)
            weights = torch.zeros_like(normed, requires_grad=True)
            (back,) = torch.autograd.grad(normed, out, weights, create_graph=True)
            (forward,) = torch.autograd.grad(back, weights, change)
        return forward

    def gradients(self, **options: Any) -> tuple[dict[Reader, Tensor], dict[Place, Tensor]]:
        """The metric's gradient at what each reader sees, and the activations of the run."""
        like = self.runs.base["resid_pre", 0]
        probes = {reader: torch.zeros_like(like).requires_grad_() for reader in self.graph.readers}
        record: dict[Place, Tensor] = {}
        metric = self.run(probes, record=record, **options)
        found = torch.autograd.grad(metric.sum(), list(probes.values()), allow_unused=True)
        each = {
            reader: torch.zeros_like(like) if gradient is None else gradient
            for reader, gradient in zip(probes, found, strict=True)
        }
        return each, {place: value.detach() for place, value in record.items()}

    @cached_property
    def _places(self) -> Tensor:
        """[prompt, pos, place] Whether a column is one of the graph's positions."""
        columns = place_columns(self.graph, self.runs.task)
        return (columns[..., None] == torch.arange(self.graph.n_positions)).double()

    def effects(self, **options: Any) -> Tensor:
        """[edge, prompt]: first-order effects with the gradients of one run."""
        gradients, record = self.gradients(**options)
        changes = torch.stack([self.change_of(writer, record) for writer in self.graph.writers])
        found = []
        for reader, reach in zip(self.graph.readers, self.graph.reach, strict=True):
            product = (changes[:reach] * gradients[reader]).sum(-1)
            found.append(torch.einsum("wbp,bpk->wkb", product, self._places).flatten(0, 1))
        return torch.cat(found).detach()

    def along(self, place: Place, points: Points, leaving: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Effects of edges out of some writers with gradients averaged along the path of an activation,
        [edge, prompt], 0 for all others; and by how much the metric moves over the whole path."""
        whole = self.runs.change(Site(*place))
        total = sum(weight * self.effects(moved={place: where * whole}) for where, weight in points)
        mine = torch.isin(torch.from_numpy(self.graph.edge_writer).long(), torch.tensor(leaving))
        with torch.no_grad():
            moved = self.run(moved={place: whole}) - self.runs.base_score
        return torch.where(mine[:, None], total, 0.0), moved

    def cuts(self) -> dict[Place, list[int]]:
        """What takes a path of its own along activations, and the writers there."""
        found: dict[Place, list[int]] = {}
        for number, writer in enumerate(self.graph.writers):
            mlp = "mlp_out" if self.graph.units_of(writer.layer) is None else "mlp_post"
            name = {"input": "resid_pre", "head": "z"}.get(writer.kind, mlp)
            found.setdefault((name, max(0, writer.layer)), []).append(number)
        return found

    def star(self, every: int = 1) -> tuple[Tensor, Tensor]:
        """AtP*: effects with queries and keys through the softmax, and magnitudes by GradDrop.

        Of the edges into queries and keys only each ``every``-th is there, the others are NaN.
        """
        n_layers = self.graph.n_layers
        into = [self.graph.readers[i] for i in self.graph.edge_reader]
        through = [edge for edge, reader in enumerate(into) if reader.kind in ("q", "k")]
        moved = {edge: self._pattern_change(edge) for edge in through[::every]}

        def effects(dropped: int | None) -> Tensor:
            found, gradients = self.effects(dropped=dropped), self._at_patterns(dropped)
            found[through] = torch.nan
            for edge, change in moved.items():
                found[edge] = (change * gradients[into[edge].layer]).sum((1, 2, 3))
            return found

        plain = effects(None)
        if n_layers == 1:
            return plain, plain.abs()
        each = torch.stack([effects(layer).abs() for layer in range(n_layers)])
        layers = torch.tensor([reader.layer for reader in into])
        counts = torch.stack([layers != layer for layer in range(n_layers)])[..., None].double()
        return plain, (each * counts).sum(0) / counts.sum(0)

    def _at_patterns(self, dropped: int | None) -> list[Tensor]:
        """The metric's gradient at the pattern of every layer."""
        likes = [self.runs.base["pattern", layer] for layer in range(self.graph.n_layers)]
        probes = [torch.zeros_like(like).requires_grad_() for like in likes]
        moved = {("pattern", layer): probe for layer, probe in enumerate(probes)}
        found = torch.autograd.grad(self.run(moved=moved, dropped=dropped).sum(), probes, allow_unused=True)
        return [
            torch.zeros_like(like) if gradient is None else gradient
            for like, gradient in zip(likes, found, strict=True)
        ]

    def _pattern_change(self, edge: int) -> Tensor:
        """By how much the pattern of an edge's reader changes when it alone sees the writer's change."""
        reader = self.graph.readers[self.graph.edge_reader[edge]]
        change = self.change_of(self.graph.writers[self.graph.edge_writer[edge]], self.runs.base)
        there = self._places[..., self.graph.edge_position[edge]][..., None]
        record: dict[Place, Tensor] = {}
        with torch.no_grad():
            self.run({reader: change * there}, record=record)
        return record["pattern", reader.layer] - self.runs.base["pattern", reader.layer]


def node_sums(graph: Graph, effects: Tensor) -> Tensor:
    """[writer] The sum over the edges that leave each."""
    number = torch.from_numpy(graph.edge_writer).long()
    return torch.zeros(len(graph.writers)).double().index_add(0, number, effects.double())


def site_effects(model: Model, task: PromptPairs, method: str, metric: Any, **options: Any) -> Tensor:
    """[writer] Effects of patching each writer's whole output, by the same method at sites."""
    mlps = model.traits.d_mlp > 0
    sites = ["resid_pre[0]@all", "result@all", *(["mlp_out@all"] if mlps else [])]
    found = interp.patch(model, task, sites, method=method, metric=metric, progress=False, **options)
    entries = [found[site] for site in sites]
    base = entries[0].corrupted if options["direction"] == "denoise" else entries[0].clean
    each = [entries[0].raw.flatten()]
    for layer in range(model.traits.n_layers):
        each += [scores.raw[layer].flatten() for scores in entries[1:]]
    return torch.cat(each).double() - base
