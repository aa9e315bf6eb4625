"""Exact patching with rows in flight: see :mod:`interp.patching.wavefront.run`."""

from interp.patching.wavefront.edges import EdgeRequest as EdgeRequest
from interp.patching.wavefront.edges import run_edges as run_edges
from interp.patching.wavefront.paths import RECEIVERS as RECEIVERS
from interp.patching.wavefront.paths import Paths as Paths
from interp.patching.wavefront.run import Request as Request
from interp.patching.wavefront.run import run_wavefront as run_wavefront
from interp.patching.wavefront.sweep import Answer as Answer
