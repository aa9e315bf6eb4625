"""Choosing the latents that fire, out of dense pre-activations. No gradients pass here.

The largest k of a row are looked for among the k groups of latents with the largest maxima: every one of the
k lies in such a group, or equals the least of them.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

_GROUP = 16
"""Latents to a group: the two searches then are over lists of about one length."""


def select_top(
    scores: Float[Tensor, "row d_sae"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of every row and their places, in no order."""
    n_rows, n = scores.shape
    n_groups = n // _GROUP
    if n % _GROUP or k * 4 > n_groups:
        found = scores.topk(k, dim=1, sorted=False)
        return found.values, found.indices
    grouped = scores.view(n_rows, _GROUP, n_groups)
    groups = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).flatten(1)
    found = members.topk(k, dim=1, sorted=False)
    place = found.indices
    group = groups.gather(1, place % k)
    return found.values, group + place.div(k, rounding_mode="floor") * n_groups


def select_top_of_all(scores: Float[Tensor, "row d_sae"], n: int) -> Int[Tensor, " n"]:
    """Places of the n largest entries of the whole matrix, flattened, rising."""
    size = scores.numel()
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
