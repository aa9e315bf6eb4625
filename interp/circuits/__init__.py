"""Circuits: finding the edges of a model that a behaviour runs through, and proving that they do."""

from interp.circuits.acdc import search_acdc as search_acdc
from interp.circuits.checkpoints import compare_checkpoints as compare_checkpoints
from interp.circuits.choose import choose_circuit as choose_circuit
from interp.circuits.discrete import find_discrete_circuit as find_discrete_circuit
from interp.circuits.find import find_circuit as find_circuit
from interp.circuits.gradients import EdgeAttribution as EdgeAttribution
from interp.circuits.gradients import EdgeAttributionStar as EdgeAttributionStar
from interp.circuits.gradients import EdgeIntegratedGradients as EdgeIntegratedGradients
from interp.circuits.gradients import EdgeRelevance as EdgeRelevance
from interp.circuits.graph import build_graph as build_graph
from interp.circuits.proof import check_circuit as check_circuit
from interp.circuits.proof import check_equivalence as check_equivalence
from interp.circuits.proof import check_independence as check_independence
from interp.circuits.proof import check_minimality as check_minimality
from interp.circuits.proof import check_partial_necessity as check_partial_necessity
from interp.circuits.proof import check_sufficiency as check_sufficiency
from interp.circuits.proof import measure_completeness as measure_completeness
from interp.circuits.proof import measure_faithfulness as measure_faithfulness
from interp.circuits.proof import measure_minimality as measure_minimality
from interp.circuits.reuse.across_tasks import ablate_across_tasks as ablate_across_tasks
from interp.circuits.reuse.overlap import compare_circuits as compare_circuits
from interp.circuits.reuse.repair import measure_attention as measure_attention
from interp.circuits.reuse.repair import repair_attention as repair_attention
from interp.circuits.runs import prepare_circuits as prepare_circuits
from interp.circuits.score import score_edges as score_edges
from interp.circuits.score import verify_edges as verify_edges
