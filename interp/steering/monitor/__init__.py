"""Monitoring: directions as detectors, their thresholds, guards, and watching a model as it generates."""

from interp.steering.monitor.detector import Detector as Detector
from interp.steering.monitor.files import load_detector as load_detector
from interp.steering.monitor.files import load_guard as load_guard
from interp.steering.monitor.fit import detector_of as detector_of
from interp.steering.monitor.fit import evaluate_detector as evaluate_detector
from interp.steering.monitor.fit import fit_detector as fit_detector
from interp.steering.monitor.guard import Guard as Guard
from interp.steering.monitor.guard import fit_guard as fit_guard
from interp.steering.monitor.threshold import conformal_threshold as conformal_threshold
from interp.steering.monitor.watch import AlarmError as AlarmError
from interp.steering.monitor.watch import watch as watch
