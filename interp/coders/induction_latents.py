"""Latents that fire because a sequence repeats: induction, looked for in a coder."""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.coders.wiring import wire
from interp.errors import CoderError
from interp.models.capture import capture
from interp.models.model import Model
from interp.results.induction_latents import InductionLatents
from interp.results.provenance import Provenance
from interp.types import SiteLike


@torch.no_grad()
def score_induction_latents(
    coder: Any,
    model: Model,
    *,
    site: SiteLike | None = None,
    n: int = 32,
    seq_len: int = 25,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> InductionLatents:
    """Compare every latent on repeated tokens with the same tokens where nothing repeats.

    ``n`` times a sequence B of ``seq_len`` different random tokens is read after itself, and after another such
    sequence A. Tokens and positions of the second half are the same in both; its first token, which nothing
    announces, is not counted. What differs in a latent is that B was there before; a latent that speaks of one
    token fires rarely in either, which :attr:`InductionLatents.selectivity` does not mind. Special tokens are not
    drawn; BOS goes first where the model's prompts have it.

    Raises :class:`CoderError` for coders of several sites, and sequences that the model cannot read.
    """
    started = time.perf_counter()
    (wiring,) = wire(model, coder if site is None else {site: coder})
    if wiring.by_layer or len(wiring.reads) != 1:
        raise CoderError("induction is looked for in the latents of one site; this coder reads several.")
    place = wiring.reads[0]
    repeated, control, first = _draw(model, n, seq_len, seed)
    found = []
    for tokens in (repeated, control):
        parts = []
        batches = tokens.split(batch_size)
        for batch in tqdm(batches, desc="induction latents", unit="batch", disable=not progress):
            x = capture(model, batch, place, unembed=False)[place]
            # all heads of z side by side
            rows = x[:, first:].flatten(3) if x.ndim > 3 else x[:, first:]
            rows = rows.reshape(-1, coder.d_in)
            parts.append(coder.encode(rows).float().cpu())
        found.append(torch.cat(parts))
    on, off = found
    return InductionLatents(
        site=str(place),
        repeated_rate=(on > 0).float().mean(0),
        control_rate=(off > 0).float().mean(0),
        repeated_mean=on.mean(0),
        control_mean=off.mean(0),
        n_tokens=len(on),
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            n_prompts=n,
            seed=seed,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - started,
            notes=(f"{n} sequences of {seq_len} random tokens",),
        ),
    )


def _draw(
    model: Model, n: int, seq_len: int, seed: int
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"], int]:
    """Rows BB and AB, and the first column that is counted."""
    tokenizer = model.tokenizer
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    ids = torch.tensor([i for i in range(model.traits.d_vocab) if i not in special])
    start = int(model.prepend_bos)
    if n < 1 or seq_len < 2 or 2 * seq_len + start > model.traits.n_ctx or 2 * seq_len > len(ids):
        raise CoderError(
            f"expected n of at least 1 and seq_len of at least 2, two sequences within a context of "
            f"{model.traits.n_ctx} and a vocabulary of {len(ids)}; got n={n}, seq_len={seq_len}."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randperm(len(ids), generator=generator)[: 2 * seq_len] for _ in range(n)])
    other, own = ids[drawn].split(seq_len, dim=1)
    rows = [torch.cat([first, own], dim=1) for first in (own, other)]
    if start:
        bos = torch.full((n, 1), tokenizer.bos_token_id)
        rows = [torch.cat([bos, row], dim=1) for row in rows]
    return rows[0].to(model.device), rows[1].to(model.device), start + seq_len + 1
