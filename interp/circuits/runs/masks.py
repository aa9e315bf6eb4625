"""Edges of circuits as masks, reader by reader."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.results import Graph


class Masks:
    """Which edges each of some circuits has, as numbers 0 and 1 to sum with."""

    def __init__(
        self,
        graph: Graph,
        included: Bool[Tensor, "circuit edge"],
        places: Int[Tensor, "prompt n"] | None,
        like: Tensor,
    ) -> None:
        """``places`` are the graph's positions of the columns that are run, ``None`` without positions."""
        self.graph = graph
        self.included = included.to(like.device)
        self.places = None if places is None else places.clamp(min=0).to(like.device)
        self.dtype = like.dtype

    def into(self, first: int, n: int) -> Float[Tensor, "circuit reader writer position"]:
        """The edges into ``n`` readers that see the same writers."""
        graph, columns = self.graph, self.graph.n_positions
        ends = (int(graph.offsets[first]) * columns, int(graph.offsets[first + n]) * columns)
        part = self.included[:, ends[0] : ends[1]]
        return part.view(len(part), n, int(graph.reach[first]), columns).to(self.dtype)

    def add_up(
        self,
        mask: Float[Tensor, "circuit reader writer position"],
        values: Float[Tensor, "circuit prompt writer n d"],
    ) -> Float[Tensor, "circuit prompt reader n d"]:
        """For every reader the sum of the writers' values that its edges carry."""
        if self.places is None:
            summed = mask[:, None, :, :, 0] @ values.flatten(-2)
            return summed.unflatten(-1, values.shape[-2:])
        at_columns = mask[..., self.places].permute(0, 3, 4, 1, 2)
        return (at_columns @ values.transpose(2, 3)).transpose(2, 3)
