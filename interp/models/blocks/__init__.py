"""A model's blocks as plain functions of its own weights, for any number of rows in flight.

Hooks run a whole model, or nothing. These functions run one block at a time, on the columns from
some position on, against keys and values of a run that was made before. They are built from
:class:`~interp.models.traits.Traits` and :class:`~interp.models.traits.Weights` alone and are held
to the model's own logits before they are used (:func:`stack_of`).
"""

from interp.models.blocks.flight import attend as attend
from interp.models.blocks.flight import mlp_in_parts as mlp_in_parts
from interp.models.blocks.flight import run_mlp as run_mlp
from interp.models.blocks.geometry import Geometry as Geometry
from interp.models.blocks.mixing import mix_heads as mix_heads
from interp.models.blocks.stack import Stack as Stack
from interp.models.blocks.stack import UnsupportedError as UnsupportedError
from interp.models.blocks.stack import stack_of as stack_of
from interp.models.blocks.trace import Trace as Trace
from interp.models.blocks.trace import run_trace as run_trace
from interp.models.blocks.trace import run_traces as run_traces
from interp.models.blocks.waves import BLIND as BLIND
from interp.models.blocks.waves import Watcher as Watcher
from interp.models.blocks.waves import Wave as Wave
