"""Patching: what each site of a model does to a metric."""

from interp.patching.ablate import check_ablation as check_ablation
from interp.patching.attribution.methods import Attribution as Attribution
from interp.patching.attribution.methods import AttributionStar as AttributionStar
from interp.patching.attribution.methods import IntegratedGradients as IntegratedGradients
from interp.patching.attribution.methods import Relevance as Relevance
from interp.patching.comparison import compare_methods as compare_methods
from interp.patching.conservation import check_conservation as check_conservation
from interp.patching.masking import check_masking as check_masking
from interp.patching.patch import patch as patch
from interp.patching.paths import patch_paths as patch_paths
from interp.patching.sets import patch_sets as patch_sets
from interp.patching.sets import search_sets as search_sets
from interp.patching.subspace import patch_subspace as patch_subspace
from interp.patching.token_scores import attribute_tokens as attribute_tokens
from interp.patching.verify import verify_scores as verify_scores
