"""Approximate patching by gradients: attribution, AtP*, integrated gradients and relevance."""

from interp.patching.attribution.methods import Attribution as Attribution
from interp.patching.attribution.methods import AttributionStar as AttributionStar
from interp.patching.attribution.methods import IntegratedGradients as IntegratedGradients
from interp.patching.attribution.methods import Relevance as Relevance
from interp.patching.attribution.run import attribute as attribute
