"""Patching: what each site of a model does to a metric."""

from interp.patching.ablate import check_ablation as check_ablation
from interp.patching.patch import patch as patch
from interp.patching.paths import patch_paths as patch_paths
from interp.patching.sets import patch_sets as patch_sets
from interp.patching.sets import search_sets as search_sets
from interp.patching.subspace import patch_subspace as patch_subspace
