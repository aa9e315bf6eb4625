"""EigenShift: scale the singular directions of the unembedding that a concept is spoken through.

Shaik et al. 2025 (arXiv 2509.16660). With ``W = U S V^T`` [d_vocab, d_model] and h what the unembedding reads, the
score of a component is the mean of ``V^T h`` where the concept is about to come minus that where it is not, and
the singular values of the highest are scaled. The published code rebuilds the matrix with ``V`` for ``V^T``.
Signs of singular vectors are arbitrary, so components are ranked by the size of their score.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.capture import capture
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.norms import apply_norm
from interp.models.text_data import Prompts
from interp.models.weight_edits import WeightDraft
from interp.steering.bake.baked import Baked
from interp.steering.neutral import NeutralText, read_neutral
from interp.types import Site


def edit_spectrum(
    model: Model,
    text: Prompts | NeutralText,
    concept: Collection[int],
    *,
    k: int = 5,
    scale: float = 0.0,
    untie: bool = False,
    n: int = 256,
    batch_size: int = 32,
) -> Baked:
    """Scale the ``k`` components of the unembedding that best tell where a concept is about to be emitted.

    ``text`` (its first ``n`` rows) holds the concept: wherever its next token is one of the ``concept`` ids, the
    concept is about to come. ``scale`` below 1 damps the components, 0 takes them out, above 1 raises them.
    ``figures`` hold how many places were read on either side and what share of the squared score the ``k`` components
    have.

    No hook says the same, as a norm stands before the unembedding: compare its gap to a steering.
    Raises :class:`SteeringError` for bad numbers, ids outside the vocabulary, text with no place of either
    kind, and a tied unembedding without ``untie``, which gives it values of its own.
    """
    traits = model.traits
    ids = torch.tensor(sorted(set(concept)), dtype=torch.long)
    if not len(ids) or int(ids[0]) < 0 or int(ids[-1]) >= traits.d_vocab:
        raise SteeringError(
            f"the concept needs token ids in 0..{traits.d_vocab - 1}; got {ids.tolist()[:20]}."
        )
    if not 1 <= k <= min(traits.d_model, traits.d_vocab):
        raise SteeringError(f"k must lie in 1..{min(traits.d_model, traits.d_vocab)}; got {k}.")
    if not math.isfinite(scale):
        raise SteeringError(f"the scale is finite; got {scale}.")
    if traits.tied_embeddings and not untie:
        raise SteeringError(
            f"{model.name!r} unembeds with its table of tokens, which would change too; pass untie=True to part them."
        )
    rows = read_neutral(model, text, n=n)
    W_U = model.weights.W_U.detach().double()
    # W_U is W^T: its left singular vectors are the V of the paper
    V, S, U_t = torch.linalg.svd(W_U, full_matrices=False)
    scores, counts = _score_components(model, rows, ids, V, batch_size)
    chosen = scores.abs().topk(k).indices
    factors = torch.ones_like(S)
    factors[chosen] = scale
    draft = WeightDraft(model, untie=untie)
    with torch.no_grad():
        own = draft.unembedding
        target = own if own is not None else draft.of(model.weights.W_U)
        # the change alone: what is not scaled keeps its bits' rounding
        target.copy_(target.double() + (V * (S * (factors - 1))) @ U_t)
    share = float(scores[chosen].square().sum() / scores.square().sum())
    figures = {"about to emit": float(counts[0]), "elsewhere": float(counts[1]), "share of score": share}
    described = f"{k} of {len(S)} components of the unembedding times {scale:g}"
    return Baked(draft.finish(), "spectrum", False, digest_weights(model), described, figures)


def _score_components(
    model: Model,
    text: NeutralText,
    ids: Int[Tensor, " concept"],
    V: Float[Tensor, "d_model k"],
    batch_size: int,
) -> tuple[Float[Tensor, " k"], tuple[int, int]]:
    """Mean of ``V^T h`` before the concept minus elsewhere, and the number of places of both kinds."""
    traits, norm = model.traits, model.weights.ln_final
    last = Site("resid_post", traits.n_layers - 1)
    sums = [torch.zeros(V.shape[1], dtype=torch.float64, device=V.device) for _ in range(2)]
    counts = [0, 0]
    for _, tokens in text.batches(batch_size):
        with torch.no_grad():
            resid = capture(model, tokens, [last], unembed=False)[last][:, :-1]
            projected = apply_norm(resid, norm, traits).double() @ V
        coming: Bool[Tensor, "batch pos"] = torch.isin(tokens[:, 1:], ids).to(V.device)
        for side, where in enumerate((coming, ~coming)):
            sums[side] += projected[where].sum(0)
            counts[side] += int(where.sum())
    if not all(counts):
        raise SteeringError(
            f"the text has {counts[0]} places before the concept and {counts[1]} others; it needs both."
        )
    return sums[0] / counts[0] - sums[1] / counts[1], (counts[0], counts[1])
