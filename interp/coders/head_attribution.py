"""Attribute the latents of an attention-output coder to heads."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.coders.sources.prompts import PromptReader
from interp.coders.wiring import Wiring, dtype_of, wire
from interp.errors import CoderError
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.head_attribution import HeadAttribution
from interp.results.provenance import Provenance
from interp.types import SiteLike


def attribute_heads(
    coder: Any,
    model: Model,
    data: Prompts,
    *,
    site: SiteLike | None = None,
    batch_size: int = 8,
    skip_first: bool = True,
    progress: bool = True,
) -> HeadAttribution:
    """How much each head contributes to every latent of a coder of ``z[layer]``, all heads side by side.

    The encoder is linear before it chooses, so a latent's pre-activation is a sum over heads; it is
    averaged over the tokens of ``data`` on which the latent fires (Kissane et al. 2024, arXiv 2406.17759,
    section 3.2). ``site`` names the layer where the coder does not know it. The first token of a
    context is left out with ``skip_first``.

    Raises :class:`CoderError` for a coder of anything but a layer's ``z``, and for data without tokens.
    """
    started = time.perf_counter()
    (wiring,) = wire(model, coder if site is None else {site: coder})
    place = wiring.reads[0]
    if place.component != "z" or wiring.by_layer or wiring.reads != wiring.writes:
        raise CoderError(
            f"heads are attributed to latents of an autoencoder of 'z[layer]', all heads; this coder reads {place}."
        )
    sums, counts, n_tokens = _sum_where_fired(wiring, model, data, batch_size, int(skip_first), progress)
    if not n_tokens:
        raise CoderError("the data has no token to attribute; the first of every context is left out.")
    n_heads = model.traits.n_heads
    with torch.no_grad():
        products = (sums * coder.W_enc.double()).unflatten(1, (n_heads, -1)).sum(-1)
        squares = coder.W_dec.double().square().unflatten(1, (n_heads, -1)).sum(-1)
    return HeadAttribution(
        site=str(place),
        layer=place.layer or 0,
        # of a latent that never fires this is 0 / 0
        contribution=(products / counts[:, None]).float().cpu(),
        decoder_share=(squares / squares.sum(1, keepdim=True)).float().cpu(),
        n_fired=counts.cpu(),
        n_tokens=n_tokens,
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - started,
            notes=("the first token of every context is left out",) * skip_first,
        ),
    )


@torch.no_grad()
def _sum_where_fired(
    wiring: Wiring, model: Model, data: Prompts, batch_size: int, first: int, progress: bool
) -> tuple[Tensor, Tensor, int]:
    """For every latent the sum of inputs where it fires [d_sae, d_in] and how often it does; the tokens in all."""
    coder, site = wiring.coder, wiring.reads[0]
    reader = PromptReader(model, data, batch_size)
    sums = torch.zeros(coder.d_sae, coder.d_in, dtype=torch.float64, device=model.device)
    counts = torch.zeros(coder.d_sae, dtype=torch.long, device=model.device)
    n_tokens = 0
    with tqdm(unit="batch", desc="attribute heads", disable=not progress) as bar:
        while (batch := reader.read()) is not None:
            kept = (
                torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask.clone()
            )
            kept[:, :first] = False
            cache = capture(model, batch.tokens, site, attention_mask=batch.mask, unembed=False)
            x = cache[site].flatten(2)[kept.to(model.device)]
            fires = coder.encode(x.to(dtype_of(coder, x))) != 0
            sums += fires.double().T @ x.double()
            counts += fires.sum(0)
            n_tokens += len(x)
            bar.update()
    return sums, counts, n_tokens
