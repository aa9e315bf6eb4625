"""First order at the base run: EAP, and relevance with other coefficients."""

from __future__ import annotations

from interp.circuits.gradients.block import EdgeBlock, Found


def run_first_order(edges: EdgeBlock) -> Found:
    """Two forwards and one backward."""
    block, totals = edges.block, edges.totals
    replaced, source = block.run_source()
    run = edges.passes.start(totals.readers.nodes, totals.writers.nodes, edges.see_base(replaced))
    base_score, source_score = block.compare_runs(source, run.picked)
    run.backward(run.scores(), totals.take)
    totals.flush()
    return Found(totals.scores, base_score, source_score)
