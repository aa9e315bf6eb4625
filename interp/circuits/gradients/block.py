"""One block of prompts: its runs, the changes of all writers, and where scores of edges add up."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from interp.circuits.gradients.passes import Passes
from interp.circuits.gradients.totals import EdgeTotals
from interp.patching.attribution.block import Block, Gap
from interp.patching.attribution.nodes import Node, OnTensor
from interp.patching.attribution.source import Replaced


@dataclass
class Found:
    """What one block of prompts comes to."""

    scores: Float[Tensor, "prompt edge"]
    """Estimated change of the metric from the base run."""
    base: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"]
    """Metric of the two unpatched runs."""
    magnitudes: Float[Tensor, "prompt edge"] | None = None
    gaps: list[Gap] = field(default_factory=list)
    """Of integrated gradients, always the same cuts in the same order."""


@dataclass(frozen=True)
class EdgeBlock:
    """Some prompts of a task, and everything that a method does with them."""

    block: Block
    passes: Passes
    totals: EdgeTotals

    def see_base(self, replaced: Replaced) -> OnTensor:
        """Takes the base run's activations and keeps by how much every writer changes."""
        writers = self.totals.writers

        def see(node: Node, value: Tensor) -> None:
            writers.see(node, value)
            writers.set_change(node, self.totals.without_padding(replaced.take_change(node, value)))

        return see

    def run_base(self) -> tuple[Tensor, Tensor]:
        """The source and the base run, without gradients; returns the metric of the base and of the source."""
        replaced, source = self.block.run_source()
        base = self.passes.run(self.totals.writers.nodes, self.see_base(replaced))
        return self.block.compare_runs(source, base)
