"""Baking: steering written into the weights, so that no hook is needed.

``bias`` and ``orthogonal`` say in weights exactly what their hooks say; ``spectrum`` and ``casal`` are methods of
their own. ``compare`` measures how far a baked model is from the steered one.
"""

from interp.steering.bake.baked import Baked as Baked
from interp.steering.bake.bias import bake_bias as bake_bias
from interp.steering.bake.casal import CasalConfig as CasalConfig
from interp.steering.bake.casal import fit_casal as fit_casal
from interp.steering.bake.compare import compare_baked as compare_baked
from interp.steering.bake.knowledge import KnowledgeSplit as KnowledgeSplit
from interp.steering.bake.knowledge import split_by_knowledge as split_by_knowledge
from interp.steering.bake.orthogonal import bake_orthogonal as bake_orthogonal
from interp.steering.bake.orthogonal import project_writes as project_writes
from interp.steering.bake.spectrum import edit_spectrum as edit_spectrum
