"""What is known of a planted model: its circuit, and how to build it and its prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class PlantedCircuit:
    """The whole truth about what a planted model's answer depends on.

    Nodes are ``input`` (token plus position embedding), ``a{layer}.h{head}``, ``m{layer}`` and
    ``logits``; edges ``u->v`` with ``<q>``, ``<k>`` or ``<v>`` where ``v`` is a head.
    """

    name: str
    summary: str
    mechanism: tuple[str, ...]
    """The computation, step by step."""
    nodes: tuple[str, ...]
    edges: tuple[str, ...]
    """Every edge that changes the answer when it carries the other prompt's value: the same set in
    both directions (denoise and noise)."""
    constant_edges: tuple[str, ...]
    """Edges the mechanism also needs, but which carry the same in both prompts of every pair:
    positions and token types that steer attention. They matter under zero ablation only."""
    positions: Mapping[str, tuple[str, ...]]
    """Labels of the positions at which each planted head or MLP matters."""
    neurons: Mapping[str, tuple[int, ...]]
    """Planted neurons of each planted MLP; its other neurons are decoys."""
    decoys: Mapping[str, str]
    """Every other head and MLP, none of which can reach the answer, and why."""
    spaces: Mapping[str, tuple[int, int]]
    """First and past-the-end dimension of every named subspace of the residual stream."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts, as ``circuit.json`` holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlantedCircuit:
        """Read what :meth:`to_json` wrote."""
        values = dict(data)
        for name in ("mechanism", "nodes", "edges", "constant_edges"):
            values[name] = tuple(values[name])
        for name in ("positions", "neurons", "spaces"):
            values[name] = {key: tuple(item) for key, item in values[name].items()}
        return cls(**values)


@dataclass(frozen=True)
class PlantedModel:
    """One entry of the registry."""

    name: str
    build: Callable[[], tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]]
    """Writes the weights by hand: model in fp32 and eval mode, tokenizer, and the truth."""
    make_pairs: Callable[[int, int], PromptPairs]
    """``make_pairs(n, seed)``: clean and corrupted prompts, in equal parts of every kind of change."""
