"""The graph of a model, from its traits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import CircuitError
from interp.models.model import Model
from interp.patching.cells import columns_of
from interp.results import Graph, MlpUnits
from interp.tasks.base import PromptPairs
from interp.types import EACH, Site

OTHER = "other"
"""Names the columns that no label of a graph covers."""

Units = Mapping[int, Iterable[int]]
"""Layer -> which of its MLP's neurons, or its coder's latents."""


def build_graph(
    model: Model,
    task: PromptPairs | None = None,
    *,
    positions: Literal["pos"] | Sequence[str] | None = None,
    neurons: Units | Literal["all"] | None = None,
    latents: Units | None = None,
) -> Graph:
    """The graph of every edge of a model.

    ``positions=None`` takes all positions of an edge together; ``"pos"`` tells each position apart (for
    prompts of one length); labels of ``task`` (``["S1", "S2", "END"]``) tell these apart, and all other
    columns are one position more, ``other``. ``neurons`` makes single neurons nodes (``"all"``, or by
    layer), and ``latents`` units of coders; the rest of such an MLP stays one node.

    Example::

        graph = interp.build_graph(model)
        graph.edge_name(40)  # 'a0.h3->m0' in GPT-2 small

    Raises :class:`CircuitError` for units that the model has not, for positions without a task and for
    ``"pos"`` with prompts of unequal length.
    """
    traits = model.traits
    if isinstance(neurons, str):
        if neurons != "all":
            raise CircuitError(
                f"neurons are 'all' or given by layer, such as {{3: [5, 17]}}; got {neurons!r}."
            )
        neurons = {layer: range(traits.d_mlp) for layer in range(traits.n_layers)}
    named, tokens = _positions(task, positions)
    return Graph(
        n_layers=traits.n_layers,
        n_heads=traits.n_heads,
        n_kv_heads=traits.n_kv_heads,
        d_mlp=traits.d_mlp,
        parallel_blocks=traits.parallel_blocks,
        units=_units(neurons or {}, latents or {}),
        positions=named,
        position_tokens=tokens,
    )


def _units(neurons: Units, latents: Units) -> tuple[MlpUnits, ...]:
    both = sorted(set(neurons) & set(latents))
    if both:
        raise CircuitError(
            f"MLP {both[0]} is given neurons and latents; a layer's nodes are one or the other."
        )
    found = [MlpUnits(layer, "neuron", tuple(sorted(units))) for layer, units in neurons.items()]
    found += [MlpUnits(layer, "latent", tuple(sorted(units))) for layer, units in latents.items()]
    return tuple(sorted(found, key=lambda unit: unit.layer))


def _positions(
    task: PromptPairs | None, positions: Literal["pos"] | Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if positions is None:
        return (), ()
    if task is None:
        raise CircuitError(f"positions {positions!r} are those of prompts; give the task too.")
    if isinstance(positions, str):
        if positions != EACH:
            raise CircuitError(f"positions are 'pos' or a list of the task's labels; got {positions!r}.")
        lengths = sorted(set(task.lengths.tolist()))
        if len(lengths) > 1:
            raise CircuitError(
                f"positions='pos' needs prompts of one length; got lengths {lengths}. Name labels of the task, or "
                "take task.select(rows) of one length."
            )
        texts = None if task.clean_str_tokens is None else task.clean_str_tokens[0]
        return tuple(map(str, range(lengths[0]))), () if texts is None else tuple(texts)
    if not positions or OTHER in positions:
        raise CircuitError(f"name labels of the task, and none of them {OTHER!r}; got {list(positions)}.")
    for label in positions:
        task.columns_of(label)
    return (*positions, OTHER), ()


def place_columns(graph: Graph, task: PromptPairs) -> Int[Tensor, "prompt pos"]:
    """Which of the graph's positions each column is, -1 on padding; all real columns are 0 without positions.

    Raises :class:`CircuitError` where two labels name the same token of a prompt, or where prompts have
    another length than the graph was built for.
    """
    columns = columns_of(task)
    if not graph.positions:
        return torch.where(columns.real, 0, -1)
    if graph.positions_in_order:
        if int(columns.positions.max()) >= len(graph.positions):
            raise CircuitError(
                f"the graph has {len(graph.positions)} positions, but the prompts are "
                f"{int(columns.positions.max()) + 1} tokens long."
            )
        return columns.positions
    found = torch.where(columns.real, len(graph.positions) - 1, -1)
    taken = torch.zeros_like(columns.real)
    for number, label in enumerate(graph.positions[:-1]):
        here = columns.select(Site("resid_pre", positions=(label,)), task.labels)
        if bool((here & taken).any()):
            row = int((here & taken).any(1).int().argmax())
            raise CircuitError(
                f"label {label!r} of prompt {row} is a token that another position of the graph names already; "
                "leave one of the two out."
            )
        taken |= here
        found = torch.where(here, number, found)
    return found


def check_graph(graph: Graph, model: Model) -> None:
    """Raise :class:`CircuitError` unless a graph is that of the model."""
    if not isinstance(graph, Graph):
        raise CircuitError(f"a graph is made by interp.build_graph(model); got {type(graph).__name__}.")
    t = model.traits
    sizes = (graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.d_mlp, graph.parallel_blocks)
    wanted = (t.n_layers, t.n_heads, t.n_kv_heads, t.d_mlp, t.parallel_blocks)
    if sizes != wanted:
        raise CircuitError(
            f"this graph has (layers, heads, kv heads, d_mlp, parallel blocks) {sizes}, the model {model.name!r} "
            f"has {wanted}; build it with interp.build_graph(model)."
        )
