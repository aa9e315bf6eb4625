"""Extraction: directions and neurons from contrasts, one small file a family of methods.

``directions`` names what is found in rows alone (``components``, ``probes``), ``latents`` takes decoder rows of coders,
``neurons``, ``value_vectors`` and ``relation_neurons`` single neurons; ``compare`` and ``judge`` put directions side by
side, ``planted`` tries them on one that is known.
"""

from interp.steering.extract.compare import compare_directions as compare_directions
from interp.steering.extract.compare import extract_directions as extract_directions
from interp.steering.extract.compare import steering_from as steering_from
from interp.steering.extract.directions import DIRECTIONS as DIRECTIONS
from interp.steering.extract.extract import extract_steering as extract_steering
from interp.steering.extract.judge import judge_direction as judge_direction
from interp.steering.extract.latents import extract_latents as extract_latents
from interp.steering.extract.neurons import extract_experts as extract_experts
from interp.steering.extract.planted import recover_from_model as recover_from_model
from interp.steering.extract.planted import recover_from_rows as recover_from_rows
from interp.steering.extract.relation_neurons import RelationPrompts as RelationPrompts
from interp.steering.extract.relation_neurons import find_relation_neurons as find_relation_neurons
from interp.steering.extract.value_vectors import clamp_neurons as clamp_neurons
from interp.steering.extract.value_vectors import clamp_random as clamp_random
from interp.steering.extract.value_vectors import find_value_vectors as find_value_vectors
