"""Evaluation of steerings without a judge model: concept, side effects and controls at equal dose.

Instruments (``forced``, ``continuation``, ``held_out_probe``, ``side_effects``) read figures while a steering acts;
``controls`` and ``strengths`` make the comparison fair, ``tally`` its intervals.
"""

from interp.steering.evaluate.controls import CONTROLS as CONTROLS
from interp.steering.evaluate.evaluate import evaluate_steering as evaluate_steering
from interp.steering.evaluate.examples import write_examples as write_examples
from interp.steering.evaluate.off_target import measure_off_target as measure_off_target
