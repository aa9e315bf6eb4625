"""Attribution: change times gradient, added up in one pass without the change or the product in memory.

``score(u) = sum_d (a_u_source - a_u_base) * dL/da_u`` (Nanda 2023; Syed et al. 2023, arXiv 2310.10348), of
heads and whole activations by :func:`attribute_rows`, of single neurons over sets of columns by
:func:`attribute_units`; along a path of integrated gradients the weighted sum over its points is taken too.

Known shortcomings: sets of several columns that overlap read those columns once for each set; gradients of
these sums are plain PyTorch, for nothing here differentiates twice.
"""

from interp.kernels.attribute.dispatch import attribute_rows as attribute_rows
from interp.kernels.attribute.dispatch import attribute_units as attribute_units
from interp.kernels.attribute.reference import subtract as subtract
from interp.kernels.attribute.reference import weigh as weigh
