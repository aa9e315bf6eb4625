"""The gate before the clock: no figure for numbers that are not the peer's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.peer import Index, Peer
from interp.errors import BenchError
from interp.results import SiteScores

TOLERANCE = 1e-4
"""Largest difference from the peer, as a share of the metric's range (:func:`metric_range`)."""


def metric_range(scores: SiteScores) -> float:
    """What the metric spans over both unpatched runs and every patched one.

    The two unpatched runs of a random model may be close to each other by chance; then their
    difference alone would hold rounding against it. Raises :class:`BenchError` where nothing varies:
    agreement would say nothing.
    """
    seen = [*scores.raw.flatten().tolist(), scores.clean, scores.corrupted]
    found = max(seen) - min(seen)
    if not found:
        raise BenchError(f"no patch of {scores.site} changes the metric, so nothing can be compared.")
    return found


def take_error(scores: SiteScores, indices: list[Index], theirs: Float[Tensor, " site"]) -> float:
    """Largest difference from the peer's values of these sites, as a share of the metric's range."""
    ours = torch.stack([scores.raw[index] for index in indices])
    return float((ours - theirs.to(ours)).abs().max()) / metric_range(scores)


def refuse_disagreement(where: str, error: float) -> float:
    """The error, if it is small enough. Raises :class:`BenchError` for one that is not, NaN included."""
    if not error <= TOLERANCE:
        raise BenchError(
            f"{where}: the scores differ from the peer's by {error:.2g} of the metric's range, more than "
            f"{TOLERANCE:g}; no figure is given for numbers that are not right."
        )
    return error


def refuse_other_logits(peers: dict[str, Peer], ours: Float[Tensor, "batch pos d_vocab"]) -> None:
    """Raise :class:`BenchError` unless every model of the peer has our model's logits."""
    size = float(ours.max() - ours.min())
    for kind, peer in peers.items():
        refuse_disagreement(f"logits of {kind}", float((peer.logits() - ours).abs().max()) / size)
