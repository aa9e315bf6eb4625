"""Scores of every edge by gradients: EAP, EAP-IG, relevance and AtP*, without running any edge alone."""

from interp.circuits.gradients.methods import EDGE_METHODS as EDGE_METHODS
from interp.circuits.gradients.methods import EdgeAttribution as EdgeAttribution
from interp.circuits.gradients.methods import EdgeAttributionStar as EdgeAttributionStar
from interp.circuits.gradients.methods import EdgeIntegratedGradients as EdgeIntegratedGradients
from interp.circuits.gradients.methods import EdgeMethod as EdgeMethod
from interp.circuits.gradients.methods import EdgeMethodLike as EdgeMethodLike
from interp.circuits.gradients.methods import EdgeRelevance as EdgeRelevance
from interp.circuits.gradients.methods import resolve_edge_method as resolve_edge_method
from interp.circuits.gradients.run import score_edges_by_gradients as score_edges_by_gradients
from interp.circuits.gradients.sums import EdgeEstimates as EdgeEstimates
