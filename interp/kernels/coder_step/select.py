"""Choosing the latents that fire, out of dense pre-activations. No gradients pass here.

Without a kernel, the largest k of a row are looked for among the k groups of latents with the largest maxima: every one
of the k lies in such a group, or equals the least of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.coder_step.latents import SparseLatents, kernels_run
from interp.kernels.coder_step.top.plan import plan_groups
from interp.kernels.coder_step.top_of_all.plan import plan_groups as plan_batch_groups

_GROUP = 16
"""Latents to a group: the two searches then are over lists of about one length."""


def select_top(
    scores: Float[Tensor, "row d_sae"], k: int, allowed: Bool[Tensor, " d_sae"] | None = None
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of every row and their places, in no order; of ``allowed`` latents only.

    What is not a number is the largest. A kernel takes equal entries from the lowest place on. There must be k
    allowed latents: a kernel does not wait to see whether there are. Raises :class:`KernelError` for a k that no
    row has.
    """
    n_rows, n = scores.shape
    if not 0 <= k <= n:
        raise KernelError(f"k must be 0 to {n}, the latents of a row; got {k}.")
    covered = plan_groups(n, k) is not None
    if kernel_runs("top k", [scores, allowed], refusal="" if covered else f"it holds no {k} of {n} latents"):
        from interp.kernels.coder_step.top.ops import top

        values, places = top(scores.detach(), k, allowed)
        return values, places
    if allowed is not None:
        candidates = allowed.nonzero()[:, 0]
        values, found = select_top(scores[:, candidates], k)
        return values, candidates[found]
    n_groups = n // _GROUP
    if n % _GROUP or k * 4 > n_groups:
        largest = scores.topk(k, dim=1, sorted=False)
        return largest.values, largest.indices
    grouped = scores.view(n_rows, _GROUP, n_groups)
    groups = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).flatten(1)
    largest = members.topk(k, dim=1, sorted=False)
    place = largest.indices
    group = groups.gather(1, place % k)
    return largest.values, group + place.div(k, rounding_mode="floor") * n_groups


def select_top_of_all(scores: Float[Tensor, "row d_sae"], n: int) -> Int[Tensor, " n"]:
    """Places of the n largest entries of the whole matrix, flattened, rising.

    Raises :class:`KernelError` for more entries than there are.
    """
    size = scores.numel()
    if not 0 <= n <= size:
        raise KernelError(f"n must be 0 to {size}, the entries of the matrix; got {n}.")
    covered = plan_batch_groups(size, n) is not None
    if kernel_runs(
        "top k of a batch", [scores], refusal="" if covered else f"it counts no {n} of {size} entries"
    ):
        from interp.kernels.coder_step.top_of_all.ops import top_of_all

        places: Tensor = top_of_all(scores.detach(), n)
        return places
    n_groups = size // _GROUP
    flat = scores.reshape(-1)
    if size % _GROUP or n * 4 > n_groups:
        return flat.topk(n, sorted=False).indices.sort().values
    grouped = flat.view(_GROUP, n_groups)
    maxima, groups = grouped.amax(dim=0).topk(n, sorted=False)
    least = maxima.min()
    if bool(least.isnan()):
        return flat.topk(n, sorted=False).indices.sort().values
    members = grouped[:, groups].reshape(-1)
    # every chosen group has a member that is no less: few members are left to search
    candidates = (members >= least).nonzero()[:, 0]
    place = candidates[members[candidates].topk(n, sorted=False).indices]
    return (groups[place % n] + place.div(n, rounding_mode="floor") * n_groups).sort().values


def select_above(
    scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"] | Float[Tensor, ""] | float
) -> SparseLatents:
    """The entries above a limit, of each latent or of all; what is not a number is above none."""
    if not kernels_run(scores, limits if isinstance(limits, Tensor) else None):
        return SparseLatents.from_mask(scores, scores > limits)
    from interp.kernels.coder_step.above.ops import above

    d_sae = scores.shape[1]
    if not isinstance(limits, Tensor):
        # filled on the device: a copy from here would be waited for
        limits = torch.full((), limits, device=scores.device)
    values, latents, starts = above(scores.detach(), limits.detach().expand(d_sae))
    return SparseLatents(values, latents, starts, d_sae)
