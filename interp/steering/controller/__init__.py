"""The weighted steering controller: a small network reads the prompt and decides how much of each step acts."""

from interp.steering.controller.config import ControllerConfig as ControllerConfig
from interp.steering.controller.controller import Controller as Controller
from interp.steering.controller.fit import ControllerFit as ControllerFit
from interp.steering.controller.fit import ControllerInterrupted as ControllerInterrupted
from interp.steering.controller.fit import fit_controller as fit_controller
