"""What a latent's decoder direction adds to the logits directly (logit lens of a dictionary, nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.dashboard.prompts import Encoder
from interp.errors import CoderError
from interp.models.model import Model
from interp.models.norms import centre, norm_gain, widen
from interp.results.feature import LatentLogits
from interp.types import Site, parse_site

_STREAM = frozenset({"embed", "resid_pre", "resid_mid", "resid_post"})
_WRITES = frozenset({"attn_out", "mlp_out"})


def stream_directions(
    model: Model, W_dec: Float[Tensor, "latent ..."], target_sites: Sequence[str]
) -> Float[Tensor, "latent d_model"] | None:
    """The direction of the residual stream that each latent writes; ``None`` where it writes none.

    ``W_dec`` has the rows of several sites one after another. A row itself at ``mlp_out``, ``attn_out`` and residual
    sites; through ``W_O`` (and the norm after attention, its scale left out) at ``z``, through ``W_out`` at
    ``mlp_post``. Several written sites add up; of several residual sites, which repeat one stream, the last counts.

    Raises :class:`CoderError` where the width of ``W_dec`` is not the site's.
    """
    sites = [parse_site(site) for site in target_sites]
    if not sites:
        return None
    rows = W_dec.detach().flatten(1)
    if rows.shape[1] % len(sites):
        raise CoderError(
            f"W_dec has rows of {rows.shape[1]}, which {len(sites)} sites of one width cannot share."
        )
    rows = rows.unflatten(1, (len(sites), -1))
    parts = [_direction(model, widen(rows[:, i]), site) for i, site in enumerate(sites)]
    if sites[-1].component in _STREAM:
        return parts[-1]
    written = [part for part in parts if part is not None]
    return torch.stack(written).sum(0) if len(written) == len(parts) else None


def _direction(model: Model, rows: Float[Tensor, "latent d"], site: Site) -> Tensor | None:
    if site.component in _STREAM | _WRITES:
        return _of_width(rows, model.traits.d_model, site)
    if site.layer is None or site.component not in ("z", "mlp_post"):
        return None
    layer = model.weights.layers[site.layer]
    if site.component == "mlp_post":
        return (
            None
            if layer.W_out is None
            else _of_width(rows, model.traits.d_mlp, site) @ widen(layer.W_out).to(rows)
        )
    W_O = widen(layer.W_O).to(rows)
    W_O = W_O if site.head is None else W_O[site.head, None]
    written = _of_width(rows, W_O.shape[0] * W_O.shape[1], site) @ rearrange(W_O, "head d m -> (head d) m")
    if layer.ln1_post is None:
        return written
    return centre(written, model.traits) * torch.as_tensor(norm_gain(layer.ln1_post, model.traits)).to(rows)


def _of_width(rows: Tensor, width: int, site: Site) -> Tensor:
    if rows.shape[1] != width:
        raise CoderError(f"W_dec has rows of {rows.shape[1]}; {site} of this model has width {width}.")
    return rows


@torch.no_grad()
def direct_logits(
    model: Model, directions: Float[Tensor, "latent d_model"]
) -> Float[Tensor, "latent d_vocab"]:
    """Logits of directions of the residual stream, less their mean over the vocabulary.

    The final norm's centring and gain are applied; its scale, which differs from token to token, is left out.
    """
    norm, traits = model.weights.ln_final, model.traits
    if traits.norm is not None:
        directions = centre(directions, traits) * torch.as_tensor(norm_gain(norm, traits)).to(directions)
    logits = directions @ widen(model.weights.W_U.detach()).to(directions)
    return logits - logits.mean(1, keepdim=True)


def top_logits(
    model: Model, coder: Encoder, target_sites: Sequence[str], chosen: Int[Tensor, " n"], k: int
) -> list[LatentLogits | None]:
    """The ``k`` tokens that each chosen latent raises and lowers most."""
    directions = stream_directions(model, coder.W_dec[chosen], target_sites)
    if directions is None:
        return [None] * len(chosen)
    found: list[LatentLogits | None] = []
    for part in directions.split(256):
        logits = direct_logits(model, part)
        k = min(k, logits.shape[1] // 2)
        up, down = logits.topk(k, dim=1), (-logits).topk(k, dim=1)
        found += [
            LatentLogits(_texts(model, up_ids), high.cpu(), _texts(model, down_ids), -low.cpu())
            for up_ids, high, down_ids, low in zip(
                up.indices, up.values, down.indices, down.values, strict=True
            )
        ]
    return found


def _texts(model: Model, ids: Tensor) -> tuple[str, ...]:
    return tuple(model.to_str_tokens(ids.cpu()))
