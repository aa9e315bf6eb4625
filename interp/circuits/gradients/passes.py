"""Runs of a block of prompts, forward and backward, whichever way they are made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from interp.patching.attribution.nodes import Node, OnTensor

TakeGradient = Callable[[Node, Tensor, Tensor | None], None]
"""Gets a node, the gradient there, and the residual stream that enters the norm before it."""
Move = tuple[Node, Tensor]
"""A node, and a change of its activation that everything after it is computed with."""


class Run(Protocol):
    """A forward that can be gone through backwards, once."""

    @property
    def picked(self) -> Tensor:
        """What the metric reads of the logits."""

    def scores(self) -> Float[Tensor, " prompt"]:
        """The metric of every prompt, under autograd."""

    def backward(self, scores: Float[Tensor, " prompt"], take: TakeGradient) -> None:
        """Hand over the gradient of the summed scores at every node, from the last layer to the first."""


class Passes(Protocol):
    """Runs of some prompts of a task. Whatever goes in or comes out begins at the first column that
    can change."""

    def run(
        self, values: Collection[Node] = (), see: OnTensor | None = None, moved: Move | None = None
    ) -> Tensor:
        """A run of the base prompts; returns what the metric reads of it.

        ``see`` gets the activations at ``values``.
        """

    def start(
        self,
        nodes: Collection[Node],
        values: Collection[Node] = (),
        see: OnTensor | None = None,
        moved: Move | None = None,
        of_source: bool = False,
    ) -> Run:
        """Likewise a run, of the source prompts if wished, that can be gone through backwards to
        ``nodes``."""
