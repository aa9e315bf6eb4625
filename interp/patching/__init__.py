"""Patching: what each site of a model does to a metric."""

from interp.patching.ablate import check_ablation as check_ablation
from interp.patching.patch import patch as patch
from interp.patching.subspace import patch_subspace as patch_subspace
