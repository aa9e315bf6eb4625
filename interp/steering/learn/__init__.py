"""Learned steerings: maps that carry the activations of one kind of text to those of another, and low-rank edits."""

from interp.steering.learn.layerwise import fit_layerwise_maps as fit_layerwise_maps
from interp.steering.learn.lineas import LinEASConfig as LinEASConfig
from interp.steering.learn.lineas import fit_lineas as fit_lineas
from interp.steering.learn.low_rank import LowRankConfig as LowRankConfig
from interp.steering.learn.low_rank import fit_low_rank as fit_low_rank
from interp.steering.learn.training import FitInterrupted as FitInterrupted
