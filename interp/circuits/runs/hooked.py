"""Circuits run through hooks, node by node: the reference, and for any model.

A few forwards a layer: each reader's residual stream is put into the model as a whole and what the reader
makes of it is read there; then the heads of the layer run on queries, keys and values so found.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits.runs.masks import Masks
from interp.errors import CircuitError
from interp.models.blocks.layers import apply_stored_norm
from interp.models.capture import capture
from interp.models.intervene import intervene
from interp.models.interventions import replace
from interp.models.model import Model
from interp.patching.readout import Readout
from interp.patching.replacement import build_replacement
from interp.results import Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation, Site


class HookedRuns:
    """Runs circuits on a task, one after another."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        graph: Graph,
        metric: Metric,
        places: Int[Tensor, "prompt pos"] | None,
        *,
        ablation: Ablation,
        reference: PromptPairs | Tensor | None,
        seed: int,
    ) -> None:
        if graph.units:
            raise CircuitError("circuits with single neurons run through block functions only.")
        self.model = model
        self.task = task
        self.graph = graph
        self.places = places
        self.readout = Readout(task, metric)
        self.readout.take_reference(model)
        layers = range(model.traits.n_layers)
        names = ["z", "mlp_out"] if model.traits.d_mlp else ["z"]
        wanted = {("resid_pre", 0)} | {(name, layer) for name in names for layer in layers}
        self._replacement = build_replacement(model, task, wanted, "noise", ablation, reference, seed)
        stream = ["resid_pre", "resid_post", *(["attn_out"] if model.traits.post_norms else [])]
        self._base = capture(model, task.clean, [*stream, *names], attention_mask=task.attention_mask)

    @property
    def n_prompts(self) -> int:
        """Prompts of the task."""
        return len(self.task)

    def bytes_per_circuit(self) -> int:
        """Unbounded: circuits run one at a time."""
        return 1 << 60

    def score(
        self, included: Bool[Tensor, "circuit edge"], first_layer: int = 0
    ) -> Float[Tensor, "circuit prompt"]:
        """The metric of every prompt under each circuit; nodes before ``first_layer`` are the clean run's."""
        return torch.stack([self._score_one(circuit[None], first_layer) for circuit in included])

    def _new(self, component: str, layer: int) -> Tensor:
        return self._replacement.value(component, layer)

    def _score_one(self, circuit: Tensor, first_layer: int) -> Float[Tensor, " prompt"]:
        traits, graph = self.model.traits, self.graph
        clean = self._base[Site("resid_pre", 0)]
        masks = Masks(graph, circuit, self.places, clean)
        run = _Made(self, masks)
        run.add_input(clean)
        for layer in range(traits.n_layers):
            if layer < first_layer:
                run.add_heads(layer, self._base[Site("z", layer)])
                if traits.d_mlp:
                    run.add_mlp(layer, self._base[Site("mlp_out", layer)])
                continue
            run.add_heads(layer, self._heads(run, layer))
            if traits.d_mlp:
                x = run.streams(graph.reader_names.index(f"m{layer}"), 1)[:, 0]
                place = Site("resid_pre" if traits.parallel_blocks else "resid_mid", layer)
                run.add_mlp(layer, self._forward(place, x, Site("mlp_out", layer)))
        resid = run.streams(len(graph.readers) - 1, 1)[:, 0]
        last = Site("resid_post", traits.n_layers - 1)
        with intervene(self.model, [replace(last, resid)]):
            logits = self.model(self.task.clean, self.task.attention_mask, keep_columns=self.readout.columns)
        prompts = torch.arange(len(self.task), device=logits.device)
        return self.readout.score(logits, prompts).float()

    def _heads(self, run: _Made, layer: int) -> Tensor:
        traits, graph = self.model.traits, self.graph
        first = graph.reader_names.index(f"a{layer}.h0<q>")
        n_heads, n_kv = traits.n_heads, traits.n_kv_heads
        x = run.streams(first, n_heads + 2 * n_kv)
        found = {}
        place, number = Site("resid_pre", layer), 0
        for name, n in (("q", n_heads), ("k", n_kv), ("v", n_kv)):
            heads = []
            for head in range(n):
                value = self._forward(place, x[:, number], Site(name, layer))
                heads.append(value[:, :, head])
                number += 1
            found[name] = torch.stack(heads, dim=2)
        edits = [replace(Site(name, layer), value) for name, value in found.items()]
        with intervene(self.model, edits):
            return capture(
                self.model,
                self.task.clean,
                [Site("z", layer)],
                attention_mask=self.task.attention_mask,
            )[Site("z", layer)]

    def _forward(self, place: Site, resid: Tensor, wanted: Site) -> Tensor:
        """What a component is in a run whose residual stream at a place is given."""
        with intervene(self.model, [replace(place, resid)]):
            found = capture(self.model, self.task.clean, [wanted], attention_mask=self.task.attention_mask)
        return found[wanted]


class _Made:
    """Outputs of the nodes of one circuit's run so far, each less its ablated output."""

    def __init__(self, runs: HookedRuns, masks: Masks) -> None:
        self.runs = runs
        self.masks = masks
        self.writers: list[Tensor] = []
        self.ablated_stream = torch.empty(0)
        self.sublayers: list[tuple[slice, Tensor, int]] = []

    def add_input(self, clean: Tensor) -> None:
        """The embeddings."""
        new = self.runs._new("resid_pre", 0)
        self.writers.append(clean - new)

    def add_heads(self, layer: int, z: Tensor) -> None:
        """One layer's heads by their z."""
        W_O = self.runs.model.weights.layers[layer].W_O
        change = torch.einsum("pnhe,hed->hpnd", z - self.runs._new("z", layer), W_O)
        self.writers += list(change)

    def add_mlp(self, layer: int, out: Tensor) -> None:
        """One layer's MLP by its output."""
        self.writers.append(out - self.runs._new("mlp_out", layer))

    def streams(self, reader: int, n: int) -> Float[Tensor, "prompt reader pos d_model"]:
        """The residual streams that some readers see."""
        graph, model, runs = self.runs.graph, self.runs.model, self.runs
        mask = self.masks.into(reader, n)
        reach = mask.shape[2]
        total = runs._new("resid_pre", 0)[None, :, None]
        total = total + self._sum(mask, slice(0, 1))
        for layer, weights in enumerate(model.weights.layers):
            first = graph.find_node(f"a{layer}.h0")
            if first >= reach:
                break
            heads = slice(first, first + graph.n_heads)
            ablated = torch.einsum("pnhe,hed->pnd", runs._new("z", layer), weights.W_O)
            ablated = ablated if weights.b_O is None else ablated + weights.b_O
            out = ablated[None, :, None] + self._sum(mask, heads)
            if model.traits.post_norms:
                out = apply_stored_norm(out, weights.ln1_post, model.traits)
            total = total + out
            if graph.d_mlp and heads.stop < reach:
                ablated = runs._new("mlp_out", layer)[None, :, None]
                total = total + ablated + self._sum(mask, slice(heads.stop, heads.stop + 1))
        return total[0]

    def _sum(self, mask: Tensor, writers: slice) -> Tensor:
        values = torch.stack(self.writers[writers], dim=1)[None]
        return self.masks.add_up(mask[:, :, writers], values)
