"""A task on a model, ready to run circuits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.graph import build_graph, check_graph, place_columns
from interp.circuits.runs.carried import CarriedRuns, kept_places
from interp.circuits.runs.hooked import HookedRuns
from interp.errors import CircuitError
from interp.models.blocks import Stack
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET, check_budget, halve_on_out_of_memory, settle_budget
from interp.patching.prepared import BACKENDS, check_choice, choose_stack, make_provenance
from interp.patching.replacement import check_kind
from interp.patching.wavefront.memory import Sizes
from interp.patching.wavefront.pairs import PairRuns
from interp.results import Circuit, Graph, Provenance
from interp.results.connectivity import keep_connected
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation


class BlockRuns(Protocol):
    """Runs circuits on one block of prompts."""

    @property
    def n_prompts(self) -> int:
        """Prompts of the block."""

    def bytes_per_circuit(self) -> int:
        """Estimated memory of one circuit on all of them."""

    def score(
        self, included: Bool[Tensor, "circuit edge"], first_layer: int = 0
    ) -> Float[Tensor, "circuit prompt"]:
        """The metric of every prompt under each circuit."""


class CircuitRuns:
    """Runs circuits of a model on a task; made by :func:`prepare_circuits`."""

    def __init__(
        self,
        model: Model,
        task: PromptPairs,
        graph: Graph,
        *,
        ablation: Ablation,
        metric: MetricLike | None,
        reference: PromptPairs | Tensor | None,
        seed: int,
        backend: str,
        memory_budget: int,
        progress: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.model = model
        self.task = task.to(model.device)
        self.graph = graph
        self.ablation: Ablation = ablation
        self.metric = resolve_metric(metric, self.task)
        self.backend_reason = ""
        self._reference = reference
        self._seed = seed
        self._budget, self._said = settle_budget(memory_budget, model.device)
        self._progress = progress
        self._places = place_columns(graph, self.task).to(model.device) if graph.positions else None
        stack, self.backend_reason = choose_stack(model, backend)
        self.backend = "hooked" if stack is None else "wavefront"
        self._blocks: list[BlockRuns] = list(self._hooked() if stack is None else self._carried(stack))

    def _hooked(self) -> Iterator[HookedRuns]:
        yield HookedRuns(
            self.model,
            self.task,
            self.graph,
            self.metric,
            self._places,
            ablation=self.ablation,
            reference=self._reference,
            seed=self._seed,
        )

    def _carried(self, stack: Stack) -> Iterator[CarriedRuns]:
        replaced, kept = kept_places(stack, self.graph)
        pairs = PairRuns(
            stack,
            self.task,
            self.metric,
            sorted(replaced),
            kept,
            direction="noise",
            ablation=self.ablation,
            reference=self._reference,
            seed=self._seed,
        )
        n, n_columns = len(self.task), self.task.clean.shape[1]
        a_prompt = Sizes(stack, n_columns, 1, 1).prompt(kept, replaced)
        size = n if self.metric.whole_batch else max(1, self._budget // 4 // a_prompt)
        for rows in torch.arange(n).split(min(size, n)):
            places = None if self._places is None else self._places[rows.to(self._places.device)]
            run = pairs.run(rows.to(self.task.clean.device))
            yield CarriedRuns(stack, self.graph, run, places, self.ablation == "source")

    def score(
        self, included: Bool[Tensor, "circuit edge"] | Circuit, *, first_layer: int = 0
    ) -> Float[Tensor, "circuit prompt"]:
        """The metric of every prompt in the run of each circuit.

        Edges of a circuit carry that run's own values, all others the ablated ones. Circuits are pruned
        first, which changes nothing where the ablation is a run's own activations, and defines otherwise
        what a node puts out that no edge enters: what it does when ablated. With ``first_layer`` all nodes of
        layers before it are the clean run's.

        Raises :class:`CircuitError` for circuits of another graph.
        """
        if isinstance(included, Circuit):
            if not included.graph.same_edges(self.graph):
                raise CircuitError("this circuit is of another graph than the runs were prepared for.")
            included = included.included[None]
        if included.ndim != 2 or included.shape[1] != self.graph.n_edges:
            raise CircuitError(
                f"circuits must be [circuit, edge={self.graph.n_edges}]; got {list(included.shape)}."
            )
        pruned = included if first_layer else self._prune(included)
        parts = []
        total = len(pruned) * len(self._blocks)
        quiet = not self._progress or total < 8
        with torch.no_grad(), tqdm(total=total, desc="circuits", unit="circuit", disable=quiet) as bar:
            for block in self._blocks:
                size = max(1, int(self._budget // 2 // block.bytes_per_circuit()))
                chunks = halve_on_out_of_memory(range(len(pruned)), size)
                found: list[Tensor] = []
                for numbers in chunks:
                    some = pruned[list(numbers)]
                    scores = chunks.attempt(partial(block.score, some, first_layer))
                    if scores is not None:
                        found.append(scores.cpu())
                        bar.update(len(some))
                parts.append(torch.cat(found) if found else torch.zeros(0, block.n_prompts))
        return torch.cat(parts, dim=1)

    def _prune(self, included: Tensor) -> Tensor:
        arrays = included.cpu().numpy()
        kept = np.stack([keep_connected(self.graph, row) for row in arrays]) if len(arrays) else arrays
        return torch.from_numpy(kept)

    @cached_property
    def full(self) -> Float[Tensor, " prompt"]:
        """The metric with every edge: of the clean run."""
        return self.score(torch.ones(1, self.graph.n_edges, dtype=torch.bool))[0]

    @cached_property
    def empty(self) -> Float[Tensor, " prompt"]:
        """The metric without any edge: of the ablated run."""
        return self.score(torch.zeros(1, self.graph.n_edges, dtype=torch.bool))[0]

    def provenance(self, method: str, notes: tuple[str, ...] = ()) -> Provenance:
        """How a number made from these runs was made."""
        return make_provenance(
            self.model,
            self.task,
            (float(self.full.mean()), float(self.empty.mean())),
            started=self.started,
            metric=self.metric.name,
            method=method,
            direction="noise",
            ablation=self.ablation,
            backend=self.backend,
            backend_reason=self.backend_reason,
            notes=(*self._said, *notes),
        )


def prepare_circuits(
    model: Model,
    task: PromptPairs,
    graph: Graph | None = None,
    *,
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
    backend: str = "auto",
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> CircuitRuns:
    """Run a task clean and ablated, so that circuits can be run on it.

    ``ablation`` is what the edges outside a circuit carry: the corrupted run's activations
    (``"source"``), zeros, means over ``reference`` (by default the corrupted prompts), or another prompt's.
    The same object serves scores of edges. ``backend="hooked"`` runs any model, some forwards a layer
    and circuit, and is the reference; ``"wavefront"`` about one forward a circuit.

    Raises :class:`CircuitError` for a graph of another model or with units that cannot be run, and
    :class:`PatchError` for options that do not fit.
    """
    graph = build_graph(model) if graph is None else graph
    check_graph(graph, model)
    check_budget(memory_budget)
    check_choice("backend", backend, BACKENDS)
    check_kind(task, ablation)
    if any(unit.kind == "latent" for unit in graph.units):
        raise CircuitError(
            "circuits with coder latents cannot be run without their coder; leave latents out."
        )
    return CircuitRuns(
        model,
        task,
        graph,
        ablation=ablation,
        metric=metric,
        reference=reference,
        seed=seed,
        backend=backend,
        memory_budget=memory_budget,
        progress=progress,
    )
