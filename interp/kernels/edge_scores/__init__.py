"""Scores of edges: what every writer changes of the residual stream, times the gradient at every reader.

Edge attribution patching (Syed et al. 2023, arXiv 2310.10348): an edge's effect is to first order the product
of its source's change, of one run against another, with the gradient where its destination reads. All pairs of
a writer and a reader are one matrix product over columns and ``d_model``, of which only
``[readers, writers]`` is kept: summed over everything, or by prompt, or by prompt and position of a graph.

The kernel takes the difference of two runs as it loads them, skips tiles in which no reader comes after a
writer, and splits long sums among programs, whose parts are added up in a fixed order.

Known shortcomings: the operands are read once for every tile of pairs, so that a few readers at a time are
bound by memory (hand over a hundred at once); a head's change enters as what it adds to the stream: leaving it
as ``z`` and pulling gradients back through ``W_O`` takes ``d_head`` times the operations. In half precision the
difference of two runs is rounded to TF32. Gradients of the operands are plain matrix products.
"""

from interp.kernels.edge_scores.dispatch import pairs_run_as_kernel as pairs_run_as_kernel
from interp.kernels.edge_scores.dispatch import score_pairs as score_pairs
from interp.kernels.edge_scores.dispatch import sum_pairs as sum_pairs
from interp.kernels.edge_scores.reference import sum_by_place as sum_by_place
