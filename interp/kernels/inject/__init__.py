"""Rows in flight begin and go on: gather, patch, add and normalise in one pass.

A row of a sweep is a base run's residual stream with something written into it, and what reads it next sees it
through a norm. In PyTorch that is a gather, a scatter, an addition and a norm, each a pass over memory;
:func:`start_rows` is one, and :func:`add_updates` does the same for rows that an attention or MLP updates. Every
kind of site is one of two patches: whole activations (:class:`PositionPatch`), or a change along a few
directions (:class:`DirectionPatch`): a head through ``W_O``, a neuron, a latent, a subspace.

Tokens that change along the same directions share them in one matrix product, rows sorted by their part;
gradients of tables are added up in the order of rows, without atomics.

Known shortcomings: d_model up to 16384; all floating-point inputs have one dtype; a head's patch makes two
sweeps over its row, the second mostly from cache, since a norm needs the whole row first; gradients of patches
along one to four directions use products padded to sixteen.
"""

from interp.kernels.inject.dispatch import add_updates as add_updates
from interp.kernels.inject.dispatch import inject_runs as inject_runs
from interp.kernels.inject.dispatch import start_rows as start_rows
from interp.kernels.inject.patches import DirectionPatch as DirectionPatch
from interp.kernels.inject.patches import Patch as Patch
from interp.kernels.inject.patches import PositionPatch as PositionPatch
