"""Pictures of results: every function takes a record and returns a ``plotly`` figure.

Nothing here calls ``.show()``, changes a plotly template or loads a model.
"""

from interp.plots.ablation import plot_ablation as plot_ablation
from interp.plots.absorption import plot_absorption as plot_absorption
from interp.plots.across_tasks import plot_cross_ablation as plot_cross_ablation
from interp.plots.agreement import plot_agreement as plot_agreement
from interp.plots.attention import plot_attention as plot_attention
from interp.plots.checkpoints import plot_head_development as plot_head_development
from interp.plots.circuit import plot_circuit as plot_circuit
from interp.plots.circuit_checks import plot_circuit_check as plot_circuit_check
from interp.plots.circuit_knockouts import plot_completeness as plot_completeness
from interp.plots.circuit_knockouts import plot_minimality as plot_minimality
from interp.plots.circuit_tests import plot_hypothesis_test as plot_hypothesis_test
from interp.plots.coder_evaluation import plot_coder_evaluation as plot_coder_evaluation
from interp.plots.coder_history import plot_coder_history as plot_coder_history
from interp.plots.coder_pareto import plot_coder_pareto as plot_coder_pareto
from interp.plots.coder_profile import plot_coder_profile as plot_coder_profile
from interp.plots.comparison import plot_comparison as plot_comparison
from interp.plots.conservation import plot_conservation as plot_conservation
from interp.plots.discrete import plot_discrete_circuit as plot_discrete_circuit
from interp.plots.edge_scores import plot_edge_scores as plot_edge_scores
from interp.plots.export import figure_html as figure_html
from interp.plots.export import write_image as write_image
from interp.plots.faithfulness import plot_faithfulness as plot_faithfulness
from interp.plots.feature_recovery import plot_feature_recovery as plot_feature_recovery
from interp.plots.feature_recovery import plot_recovery_table as plot_recovery_table
from interp.plots.geometry import plot_geometry as plot_geometry
from interp.plots.head_attribution import plot_head_attribution as plot_head_attribution
from interp.plots.head_scores import plot_head_scores as plot_head_scores
from interp.plots.induction_latents import plot_induction_latents as plot_induction_latents
from interp.plots.latent import plot_latent as plot_latent
from interp.plots.latent_text import latent_html as latent_html
from interp.plots.live import LiveCurves as LiveCurves
from interp.plots.logit_attribution import plot_logit_attribution as plot_logit_attribution
from interp.plots.logit_lens import plot_logit_lens as plot_logit_lens
from interp.plots.masking import plot_masking as plot_masking
from interp.plots.overlap import plot_circuit_overlap as plot_circuit_overlap
from interp.plots.patching import plot_patching as plot_patching
from interp.plots.perturbation import plot_probe_perturbation as plot_probe_perturbation
from interp.plots.perturbation import plot_shortcut_removal as plot_shortcut_removal
from interp.plots.probing import plot_attribute_match as plot_attribute_match
from interp.plots.probing import plot_probing as plot_probing
from interp.plots.recovery import plot_recovery as plot_recovery
from interp.plots.repair import plot_repair as plot_repair
from interp.plots.sets import plot_sets as plot_sets
from interp.plots.subspace import plot_subspace_report as plot_subspace_report
from interp.plots.token_scores import plot_tokens as plot_tokens
from interp.plots.token_scores import token_html as token_html
from interp.plots.training import plot_training_curve as plot_training_curve
