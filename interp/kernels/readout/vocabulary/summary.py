"""What is kept of logits over the whole vocabulary, and how it is made of them: the truth for the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class VocabularySummary:
    """Numbers of every row of logits [d_vocab], in fp32 at least; NaN where a logit is NaN."""

    log_sum_exp: Float[Tensor, "row k"]
    tokens: Float[Tensor, "row k c"]
    """Logits of the tokens that were given; where there is no token that of token 0, not to be used."""
    largest: Float[Tensor, "row k"]
    """No gradient."""
    argmax: Int[Tensor, "row k"] | None = None
    """The first token with the largest logit, if asked for; any where a logit is NaN."""
    largest_other: Float[Tensor, "row k"] | None = None
    """Largest logit apart from the given tokens', if asked for; -inf where there is no other. No gradient."""
    n_above: Int[Tensor, "row k"] | None = None
    """How many other tokens have a logit above every given token's, if asked for; any where a logit is NaN."""
    divergence: Float[Tensor, "row k"] | None = None
    """KL(reference || row) in nats, where there is a reference."""


def summarise_logits(
    logits: Float[Tensor, "row k d_vocab"],
    tokens: Int[Tensor, "prompt c"],
    prompts: Int[Tensor, " row"] | None = None,
    reference: Float[Tensor, "prompt k d_vocab"] | None = None,
    others: bool = False,
    argmax: bool = False,
) -> VocabularySummary:
    """The summary of logits at hand; see :func:`interp.kernels.readout.summarise_vocabulary`."""
    logits = _widen(logits)
    asked = (tokens if prompts is None else tokens[prompts])[:, None].expand(-1, logits.shape[1], -1)
    found = logits.gather(2, asked.clamp(min=0))
    settled = logits.detach()
    log_sum_exp = logits.logsumexp(-1)
    divergence = None
    if reference is not None:
        compared = _widen(reference.detach() if prompts is None else reference.detach()[prompts])
        divergence = _diverge(compared.log_softmax(-1), logits.log_softmax(-1))
    largest_other, n_above = _compare(settled, asked) if others else (None, None)
    return VocabularySummary(
        log_sum_exp=log_sum_exp,
        tokens=found,
        largest=settled.amax(-1),
        argmax=settled.argmax(-1) if argmax else None,
        largest_other=largest_other,
        n_above=n_above,
        divergence=divergence,
    )


def _compare(logits: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of tokens not asked for, and how many of them are above every one that is."""
    given = asked >= 0
    best = logits.gather(2, asked.clamp(min=0)).masked_fill(~given, -torch.inf)
    # a column more: the best of no tokens, and where the rest drops what is no token
    column = torch.full_like(logits[..., :1], -torch.inf)
    best = torch.cat([best, column], dim=2).amax(-1)
    rest = torch.cat([logits, column], dim=2)
    rest = rest.scatter(2, torch.where(given, asked, logits.shape[2]), -torch.inf)
    largest = rest.amax(-1).masked_fill(logits.isnan().any(-1), torch.nan)
    return largest, (rest > best[..., None]).sum(-1)


def _diverge(log_reference: Tensor, log_row: Tensor) -> Tensor:
    # a token that the reference rules out adds nothing, though 0 * inf would be NaN
    terms = log_reference.exp() * (log_reference - log_row)
    return torch.where(log_reference == -torch.inf, 0.0, terms).sum(-1)


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
