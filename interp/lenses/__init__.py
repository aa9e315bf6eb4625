"""Lenses: what a model would say at each layer, what wrote its answer, and where its heads look."""

from interp.lenses.attention import attention_patterns as attention_patterns
from interp.lenses.attribution import direct_logit_attribution as direct_logit_attribution
from interp.lenses.head_roles import score_heads as score_heads
from interp.lenses.lens import logit_lens as logit_lens
