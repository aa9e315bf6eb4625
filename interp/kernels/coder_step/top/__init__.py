"""The k largest of every row, in one pass over the matrix.

One kernel writes the maximum of every group of some neighbouring entries. The k largest of a row lie in the k
groups with the largest maxima (of equal maxima the first), so a second kernel chooses groups, and a third among
their members. Ties go to the lowest place: the same entries each time.

Known shortcomings: a program holds a row's maxima in its registers, so ``k`` and ``d_sae`` are bounded
(:func:`interp.kernels.coder_step.top.plan.plan_groups`): beyond 1024 latents of 131072 ``torch.topk`` chooses. From
k = 513 on some registers spill.
"""
