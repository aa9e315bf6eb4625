"""Logit lens: what the model would say if it stopped at each layer.

nostalgebraist, "interpreting GPT: the logit lens" (2020). What it can't show: a layer may hold an
answer in directions that later layers still turn; a low rank there is no proof of absence.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import LensError, SiteError, unknown_name
from interp.lenses.prompts import (
    PromptBatch,
    Prompts,
    Run,
    TokenChoice,
    Where,
    read_prompts,
    read_token_choice,
    token_texts,
)
from interp.lenses.provenance import describe_run
from interp.lenses.readout import Readout
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.sites import expand
from interp.results import LogitLens
from interp.tasks.base import NO_TOKEN
from interp.types import Site, SiteLike, parse_sites

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
"""The components of the residual stream, in the order a block passes them."""

LOGITS_AT_ONCE = 2**26
"""Logits held at a time, 256 MB of them."""

Targets = Literal["answer", "next"]


@torch.no_grad()
def logit_lens(
    model: Model,
    prompts: Prompts,
    *,
    sites: SiteLike | Iterable[SiteLike] = ("resid_pre[0]", "resid_post"),
    top_k: int = 5,
    targets: Targets | TokenChoice | None = None,
    positions: Where | None = None,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    labels: Mapping[str, Int[Tensor, " batch"]] | None = None,
    run: Run = "clean",
    batch_size: int = 8,
) -> LogitLens:
    """Read the residual stream through the final norm, the unembedding and the soft cap.

    ``prompts`` is a task (its ``run``), token ids [batch, pos], a text or several. ``sites`` are
    places of the residual stream (``embed``, ``resid_pre``, ``resid_mid`` where the family has it,
    ``resid_post``); rows come in the order the model computes them, and the last layer's
    ``resid_post`` gives the model's own logits. ``positions`` keeps some tokens only: indices,
    ranges or labels as in a site (``"END"``, ``[1, "S2"]``, ``"2:5"``).

    ``targets`` are the tokens whose logit, probability and rank are kept: ``"answer"`` (a task's
    first answer, at every position; the default for tasks), ``"next"`` (the token that does
    follow; the default otherwise), one token for all or one a prompt, or ids [batch, pos] in the
    columns of the tokens, ``NO_TOKEN`` where none is asked about. All is computed in fp32.

    Example::

        lens = interp.logit_lens(model, task, positions="END")
        lens.top_tokens(layer=-1, prompt=0, pos=0)

    Raises :class:`SiteError` for a site outside the residual stream and :class:`LensError` for
    options that do not fit the prompts.
    """
    started = time.perf_counter()
    if not 1 <= top_k <= model.traits.d_vocab:
        raise LensError(f"top_k must be 1 to {model.traits.d_vocab}, the vocabulary; got {top_k}.")
    places = _order_sites(model, sites)
    batch = read_prompts(model, prompts, attention_mask=attention_mask, labels=labels, run=run)
    index, there = batch.chosen_columns(positions)
    target_ids = _read_targets(model, batch, targets).cpu().gather(1, index)
    target_ids = torch.where(there, target_ids, NO_TOKEN)
    readout = Readout(model)
    parts = []
    batches = zip(batch.split(batch_size), index.split(batch_size), target_ids.split(batch_size), strict=True)
    for some, columns, asked in batches:
        streams = _read_stream(model, some, places, columns)
        parts.append([_read_out(readout, resid, asked, top_k) for resid in streams])
    found = {
        name: torch.stack([torch.cat([getattr(part[i], name) for part in parts]) for i in range(len(places))])
        for name in _Reading.__dataclass_fields__
    }
    named = torch.cat([found["top_ids"].flatten(), target_ids[target_ids >= 0].flatten()]).unique()
    return LogitLens(
        layers=tuple(_label(site) for site in places),
        tokens=token_texts(model, batch, index, there),
        vocabulary=dict(zip(named.tolist(), model.to_str_tokens(named), strict=True)),
        provenance=describe_run(model, batch, "logit lens", started, notes=_notes(batch, targets)),
        target_ids=target_ids,
        positions=None
        if positions is None
        else torch.where(there, batch.columns.positions.gather(1, index), -1),
        **found,
    )


@dataclass(frozen=True)
class _Reading:
    """What is kept of one place's logits, for some prompts."""

    top_ids: Int[Tensor, "batch kept k"]
    top_logits: Float[Tensor, "batch kept k"]
    top_probs: Float[Tensor, "batch kept k"]
    target_logits: Float[Tensor, "batch kept"]
    target_probs: Float[Tensor, "batch kept"]
    target_ranks: Int[Tensor, "batch kept"]


def _order_sites(model: Model, sites: SiteLike | Iterable[SiteLike]) -> list[Site]:
    """One site a layer, in the order the model computes them, none twice."""
    found = set()
    for site in parse_sites(sites):
        if site.component not in STREAM:
            raise SiteError(
                f"the logit lens reads the residual stream ({', '.join(STREAM)}); got {site}. For what a "
                "sublayer or head writes use interp.direct_logit_attribution."
            )
        if site != Site(site.component, site.layer) or site.subspace is not None:
            raise SiteError(f"a logit lens takes whole sites; got {site}. Choose tokens with positions=...")
        taps = expand(site, model.family, model.traits)
        found |= {Site(tap.component, None if tap.component == "embed" else tap.layer) for tap in taps}
    return sorted(
        found, key=lambda site: (-1 if site.layer is None else site.layer, STREAM.index(site.component))
    )


def _label(site: Site) -> str:
    return site.component if site.layer is None else f"{site.component} {site.layer}"


def _read_targets(
    model: Model, batch: PromptBatch, targets: Targets | TokenChoice | None
) -> Int[Tensor, "batch pos"]:
    if targets is None:
        targets = "next" if batch.task is None else "answer"
    if isinstance(targets, Tensor) and targets.ndim == 2:
        if targets.shape != batch.tokens.shape:
            raise LensError(
                f"targets are {list(targets.shape)}; expected [batch] or one for every token, "
                f"{list(batch.tokens.shape)}."
            )
        outside = (targets != NO_TOKEN) & ((targets < 0) | (targets >= model.traits.d_vocab))
        if bool(outside.any()):
            raise LensError(
                f"targets must be token ids in 0..{model.traits.d_vocab - 1}, or {NO_TOKEN} for none."
            )
        return targets.long()
    if isinstance(targets, str) and targets == "next":
        return _next_tokens(batch)
    if isinstance(targets, str) and targets == "answer":
        if batch.task is None:
            raise LensError(unknown_name("targets without a task", "answer", ["next"]))
        answers = batch.task.answers
        first = (answers != NO_TOKEN).int().argmax(dim=1, keepdim=True)
        return answers.gather(1, first).expand(batch.tokens.shape)
    ids = read_token_choice(model, targets, len(batch), "targets")
    return ids.expand(batch.tokens.shape)


def _next_tokens(batch: PromptBatch) -> Int[Tensor, "batch pos"]:
    """The token after each column, ``NO_TOKEN`` where a prompt ends."""
    found = torch.full_like(batch.tokens, NO_TOKEN)
    found[:, :-1] = batch.tokens[:, 1:]
    if batch.attention_mask is not None:
        real = batch.attention_mask.bool()
        found[:, :-1][~real[:, 1:]] = NO_TOKEN
    return found


def _read_stream(
    model: Model, batch: PromptBatch, places: list[Site], index: Int[Tensor, "batch kept"]
) -> list[Float[Tensor, "batch kept d_model"]]:
    cache = capture(model, batch.tokens, places, attention_mask=batch.attention_mask)
    rows = torch.arange(len(batch))[:, None]
    return [cache[site][rows, index] for site in places]


def _read_out(
    readout: Readout,
    resid: Float[Tensor, "batch kept d_model"],
    targets: Int[Tensor, "batch kept"],
    top_k: int,
) -> _Reading:
    shape = targets.shape
    ids = targets.flatten().to(resid.device)
    rows = resid.flatten(0, 1)
    at_once = max(1, LOGITS_AT_ONCE // readout.traits.d_vocab)
    columns: list[list[Tensor]] = [[] for _ in _Reading.__dataclass_fields__]
    for some, asked in zip(rows.split(at_once), ids.split(at_once), strict=True):
        for column, value in zip(columns, _measure(readout.logits(some), asked, top_k), strict=True):
            column.append(value.cpu())
    return _Reading(*(torch.cat(column).unflatten(0, shape) for column in columns))


def _measure(
    logits: Float[Tensor, "n d_vocab"], targets: Int[Tensor, " n"], top_k: int
) -> tuple[Tensor, ...]:
    log_total = logits.logsumexp(-1, keepdim=True)
    top_logits, top_ids = logits.topk(top_k, dim=-1)
    target = logits.gather(1, targets.clamp(min=0)[:, None])
    ranks = (logits > target).sum(-1)
    asked = targets >= 0
    return (
        top_ids,
        top_logits,
        (top_logits - log_total).exp(),
        torch.where(asked, target[:, 0], torch.nan),
        torch.where(asked, (target - log_total).exp()[:, 0], torch.nan),
        torch.where(asked, ranks, -1),
    )


def _notes(batch: PromptBatch, targets: Targets | TokenChoice | None) -> tuple[str, ...]:
    by_task = batch.task is not None and (
        targets is None or (isinstance(targets, str) and targets == "answer")
    )
    if batch.task is None or not by_task or batch.task.answers.shape[1] == 1:
        return ()
    return ("a prompt has several right answers; the target is the first",)
