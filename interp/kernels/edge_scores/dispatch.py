"""Where scores of edges are computed: as a kernel on a GPU, else by batched matrix products."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.edge_scores import reference


def score_pairs(
    changed: Float[Tensor, "writer prompt pos d_model"],
    gradient: Float[Tensor, "reader prompt pos d_model"],
    *,
    base: Float[Tensor, "writer prompt pos d_model"] | None = None,
    reach: Int[Tensor, " reader"] | None = None,
    places: Int[Tensor, "prompt pos"] | None = None,
    n_places: int = 1,
) -> Float[Tensor, "prompt reader writer place"]:
    """Every writer's change times the gradient at every reader, summed over ``d_model`` and the columns of a place.

    ``changed`` is what writers add to the stream, or the change of it; with ``base`` the change is ``changed - base``.
    A reader is fed by its first ``reach`` writers; the scores of others are 0. ``places`` names the place of each
    column, below ``n_places``; what stands in other columns (-1) counts for nothing and must be finite. Without it
    all columns are one place. Operands may be views of any strides; sums are taken in fp32 at least, which is also
    the result's dtype. Raises :class:`KernelError` for operands that do not fit each other.
    """
    _check(changed, gradient, base, reach)
    if n_places < 1 or (places is None and n_places > 1):
        raise KernelError(f"n_places={n_places} needs `places`, the place of every column, and is 1 or more.")
    if places is not None and places.shape != changed.shape[1:3]:
        raise KernelError(
            f"places are given for {tuple(places.shape)} (prompts, columns); operands have {tuple(changed.shape[1:3])}."
        )
    if not pairs_run_as_kernel(changed, gradient, base):
        return reference.score_pairs(changed, gradient, base, reach, places, n_places)
    from interp.kernels.edge_scores.ops import edge_scores

    n_prompts = changed.shape[1]
    segment = None
    if places is not None:
        first = n_places * torch.arange(n_prompts, device=places.device)[:, None]
        segment = torch.where((places >= 0) & (places < n_places), first + places, -1)
    found = edge_scores(changed, gradient, base, reach, segment, n_prompts * n_places)
    return found.unflatten(0, (n_prompts, n_places)).permute(0, 2, 3, 1)


def sum_pairs(
    changed: Float[Tensor, "writer prompt pos d_model"],
    gradient: Float[Tensor, "reader prompt pos d_model"],
    *,
    base: Float[Tensor, "writer prompt pos d_model"] | None = None,
    reach: Int[Tensor, " reader"] | None = None,
) -> Float[Tensor, "reader writer"]:
    """The sum of :func:`score_pairs` over prompts and columns, of which no part is kept."""
    _check(changed, gradient, base, reach)
    if not pairs_run_as_kernel(changed, gradient, base):
        return reference.sum_pairs(changed, gradient, base, reach)
    from interp.kernels.edge_scores.ops import edge_scores

    return edge_scores(changed, gradient, base, reach, None, 1)[0]


def pairs_run_as_kernel(*tensors: Tensor | None) -> bool:
    """Whether scores of these operands are computed by the kernel, for which many readers at once pay."""
    return kernel_runs("edge_scores", tensors)


def _check(changed: Tensor, gradient: Tensor, base: Tensor | None, reach: Tensor | None) -> None:
    shapes = f"changed {tuple(changed.shape)} and gradient {tuple(gradient.shape)}"
    if changed.ndim != 4 or gradient.ndim != 4 or changed.shape[1:] != gradient.shape[1:]:
        raise KernelError(f"operands are [writer or reader, prompt, pos, d_model]; got {shapes}.")
    if base is not None and base.shape != changed.shape:
        raise KernelError(
            f"base has shape {tuple(base.shape)}; expected that of changed, {tuple(changed.shape)}."
        )
    if reach is not None and (reach.shape != gradient.shape[:1] or reach.is_floating_point()):
        raise KernelError(
            f"reach is one integer for each of {len(gradient)} readers; got {tuple(reach.shape)}, {reach.dtype}."
        )
    if len({tensor.dtype for tensor in (changed, gradient, base) if tensor is not None}) > 1:
        raise KernelError(f"operands have one dtype; got {changed.dtype} and {gradient.dtype}.")
