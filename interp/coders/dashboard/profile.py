"""Profiles of latents: two passes over the data, and what the weights say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.dashboard.assemble import Places, assemble_profile
from interp.coders.dashboard.examples import Collector
from interp.coders.dashboard.one_layer import LayeredEncoder, choose_layer
from interp.coders.dashboard.prompts import Encoder, PromptReader, encode_rows
from interp.coders.dashboard.survey import Survey, survey_latents
from interp.errors import CoderError
from interp.models.model import Model
from interp.results import Provenance
from interp.results.coder_profile import CoderProfile
from interp.types import parse_site

QUANTILES = (0.2, 0.4, 0.6, 0.8)
N_BINS = 40
"""Of the histogram of a latent's activations."""


def profile_latents(
    model: Model,
    coder: Encoder | LayeredEncoder,
    data: Any,
    latents: Sequence[int] | int | None = 100,
    *,
    site: str | Sequence[str] | None = None,
    layer: int | None = None,
    n_examples: int = 12,
    n_random: int = 4,
    window: int = 10,
    quantiles: Sequence[float] = QUANTILES,
    n_near: int = 8,
    n_logits: int = 10,
    batch_size: int = 16,
    skip_first: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> CoderProfile:
    """Look at latents of a coder on text: where they fire, what they write, which are near them.

    ``data`` is what :func:`interp.capture_stream` takes, but it is read twice: a tensor of tokens [n, pos], a list
    of texts, a ``datasets.Dataset``. ``latents`` are their numbers, a number of live ones to draw at random, or
    ``None`` for all live ones. The coder reads at its own ``sites`` unless ``site`` says otherwise; of a cross-layer
    transcoder the latents of one of its layers are looked at, which ``layer`` names.

    Each latent gets its ``n_examples`` largest activations, one a prompt, and ``n_random`` random places from each
    interval between ``quantiles`` of its activations where it fires, with up to ``window`` tokens on either side.
    Quantiles are read off bins 4 % wide; the intervals are stated as they were used. With ``skip_first`` the first
    token of every prompt is left out, as it is in training. Memory does not grow with the data: it is about
    ``latents * (n_examples + n_random * intervals) * 24 * window`` bytes, and four bytes for every pair of one of
    these latents and any of the coder.

    Raises :class:`CoderError` for data that can be read only once, latents that do not exist, and a coder
    without sites.
    """
    started = time.perf_counter()
    flat = choose_layer(coder, layer)
    places = _find_places(flat, site)
    _check_settings(n_examples, n_random, window, quantiles)
    _check_latents(latents, flat.d_sae)
    reader = PromptReader(
        model,
        data,
        places.sites,
        batch_size=batch_size,
        skip_first=skip_first,
        device=flat.W_dec.device,
        progress=progress,
    )
    survey = survey_latents(flat, reader.read("latents, first pass"))
    generator = torch.Generator().manual_seed(seed)
    chosen = _choose(survey, latents, generator).to(flat.W_dec.device)
    shares = (0.0, *quantiles, 1.0)
    collector = Collector(
        chosen,
        _bounds(survey, chosen, shares),
        flat.d_sae,
        n_examples=n_examples,
        n_random=n_random,
        window=window,
        n_bins=N_BINS,
        generator=generator,
    )
    for batch in reader.read("latents, second pass"):
        collector.add(batch, encode_rows(flat, batch.rows))
    made = _describe(model, places, survey, seed, skip_first, time.perf_counter() - started)
    return assemble_profile(
        model, flat, places, survey, collector, shares, n_near=n_near, n_logits=n_logits, made=made
    )


def _check_latents(latents: Sequence[int] | int | None, d_sae: int) -> None:
    if latents is None:
        return
    if isinstance(latents, int):
        if latents < 1:
            raise CoderError(f"at least one latent must be looked at; got latents={latents}.")
        return
    wrong = [i for i in latents if not 0 <= i < d_sae]
    if wrong or not latents or len(set(latents)) < len(latents):
        raise CoderError(
            f"latents must be different numbers from 0 to {d_sae - 1}, at least one; got {list(latents)[:20]}."
        )


def _find_places(coder: Encoder, site: str | Sequence[str] | None) -> Places:
    own = tuple(getattr(coder, "sites", ()))
    if site is None and not own:
        raise CoderError("the coder does not say where it reads; name it, such as site='mlp_out[2]'.")
    given = own if site is None else (site,) if isinstance(site, str) else tuple(site)
    sites = tuple(str(parse_site(name)) for name in given)
    if not getattr(coder, "is_transcoder", False):
        return Places(sites, sites)
    return Places(sites, tuple(str(parse_site(name)) for name in coder.target_sites))  # type: ignore[attr-defined]


def _check_settings(n_examples: int, n_random: int, window: int, quantiles: Sequence[float]) -> None:
    if min(n_examples, n_random) < 1 or window < 0:
        raise CoderError(
            f"a dashboard needs at least one example of each kind and no negative window; got "
            f"n_examples={n_examples}, n_random={n_random}, window={window}."
        )
    edges = torch.tensor([0.0, *quantiles, 1.0])
    if bool((edges.diff() <= 0).any()):
        raise CoderError(f"quantiles must rise between 0 and 1; got {tuple(quantiles)}.")


def _choose(
    survey: Survey, latents: Sequence[int] | int | None, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Rising numbers where they are drawn, in the order given where they are named."""
    alive = survey.alive.cpu()
    if latents is None:
        return alive
    if isinstance(latents, int):
        drawn = torch.randperm(len(alive), generator=generator)[:latents]
        return alive[drawn].sort().values
    return torch.tensor(list(latents), dtype=torch.long)


def _bounds(survey: Survey, chosen: Int[Tensor, " n"], shares: Sequence[float]) -> Float[Tensor, "n edge"]:
    """Activations between which the intervals of each latent lie; from 0 to its maximum."""
    rows = []
    for latent in chosen.tolist():
        inner = (
            survey.quantiles(latent, shares[1:-1]) if int(survey.fired[latent]) else [0.0] * (len(shares) - 2)
        )
        rows.append([0.0, *inner, float(survey.maximum[latent])])
    return torch.tensor(rows, device=chosen.device).reshape(len(chosen), len(shares))


def _describe(
    model: Model, places: Places, survey: Survey, seed: int, skip_first: bool, seconds: float
) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        n_prompts=survey.n_prompts,
        seed=seed,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        notes=(f"coder at {places.site}", *(("first tokens left out",) if skip_first else ())),
        seconds=seconds,
    )
