"""Steering: directions, maps and controllers that change what a model does, with their dose and their cost.

``operations`` say what is done to an activation, ``places`` and ``gates`` where and when, ``steering`` puts them
together and ``apply`` into a model; ``contrast`` reads activations of both sides, ``extract/`` finds directions,
``dose`` measures the KL that a strength costs.
"""

from interp.steering.dose import calibrate_dose as calibrate_dose
from interp.steering.extract import extract_steering as extract_steering
from interp.steering.files import load_steering as load_steering
from interp.steering.steering import Steering as Steering
from interp.steering.steering import Step as Step
