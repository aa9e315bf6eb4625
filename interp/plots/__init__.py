"""Pictures of results: every function takes a record and returns a ``plotly`` figure.

Nothing here calls ``.show()``, changes a plotly template or loads a model.
"""

from interp.plots.ablation import plot_ablation as plot_ablation
from interp.plots.agreement import plot_agreement as plot_agreement
from interp.plots.attention import plot_attention as plot_attention
from interp.plots.comparison import plot_comparison as plot_comparison
from interp.plots.conservation import plot_conservation as plot_conservation
from interp.plots.export import figure_html as figure_html
from interp.plots.export import write_image as write_image
from interp.plots.head_scores import plot_head_scores as plot_head_scores
from interp.plots.logit_attribution import plot_logit_attribution as plot_logit_attribution
from interp.plots.logit_lens import plot_logit_lens as plot_logit_lens
from interp.plots.masking import plot_masking as plot_masking
from interp.plots.patching import plot_patching as plot_patching
from interp.plots.sets import plot_sets as plot_sets
from interp.plots.subspace import plot_subspace_report as plot_subspace_report
from interp.plots.token_scores import plot_tokens as plot_tokens
from interp.plots.token_scores import token_html as token_html
from interp.plots.training import plot_training_curve as plot_training_curve
