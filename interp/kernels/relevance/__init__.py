"""Relevance rules as backwards: an operation keeps its value to the bit and gets another gradient, in one kernel.

The rules are those of layer-wise relevance propagation that relevance patching takes (RelP; Rezaei Jafari et al.
2025, arXiv 2508.21258): LN-rule, Identity-rule and Half-rule. The forward saves what the backward needs and no
more: the scale of each row of a norm, the inputs of an activation function or a gate. On the way it can measure
how far the operation's value is from what the rule takes it to be, without making that.

Known shortcomings: gradients of the kernels cannot be differentiated again (those of the reference can); a
norm's rows have to fit one program; inputs that are not contiguous are copied.
"""

from interp.kernels.relevance.dispatch import propagate_activation as propagate_activation
from interp.kernels.relevance.dispatch import propagate_gate as propagate_gate
from interp.kernels.relevance.dispatch import propagate_norm as propagate_norm
from interp.kernels.relevance.reference import Propagated as Propagated
from interp.kernels.relevance.reference import give_gradient as give_gradient
from interp.kernels.relevance.reference import measure_gap as measure_gap
from interp.kernels.relevance.reference import scale_gradient as scale_gradient
from interp.kernels.relevance.secants import SECANTS as SECANTS
from interp.kernels.relevance.secants import secant as secant
