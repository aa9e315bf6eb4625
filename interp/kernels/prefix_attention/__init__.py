"""Attention of many rows to prefixes that they share, each read once for a block of them and not once a row.

Rows in flight are prompts of a base run, changed from some column on: before it they attend to the base run's keys,
from there on to their own. The kernel is flash attention (Dao, 2023) over queries sorted by their prompts; that a
shared prefix is one matrix product for all of its rows is known from decoding (Hydragen, Juravsky et al., 2024).
Rows of several first columns are one launch.

Known shortcomings. Own keys are met by every query of a block and masked, which is much work for little where rows
ask at one column each and have hundreds of keys. A block never splits a prefix, so a few queries over a very long one
leave a GPU idle. What is not finite makes the whole output of each head that sees it NaN, infinities too. Gradients
have no gradients of their own.
"""

from interp.kernels.prefix_attention.dispatch import QueryPlan as QueryPlan
from interp.kernels.prefix_attention.dispatch import attend_prefix as attend_prefix
from interp.kernels.prefix_attention.dispatch import plan_queries as plan_queries
from interp.kernels.prefix_attention.dispatch import prefix_kernel_runs as prefix_kernel_runs
from interp.kernels.prefix_attention.reference import attend_prefix_reference as attend_prefix_reference
from interp.kernels.prefix_attention.rows import Rows as Rows
