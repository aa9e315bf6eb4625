"""Contrastive layer search: Jensen-Shannon divergence of both sides' activations, taken as distributions.

Wang & Shu 2023 (Backdoor Activation Attack, arXiv 2311.09433) softmax the activations of clean and contrast
prompts and steer in the layer where they diverge most. Its public code hands probabilities to a KL function that
takes log-probabilities. The divergence looks at neither the direction nor the model's output, and where activations
are large a softmax puts all on the largest entry, the same on both sides: 1e-24 nats in the bundled model's last
layer, one of its best to steer in.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering.search.candidates import Candidates


def js_divergence(p: Float[Tensor, "*rest d"], q: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
    """Jensen-Shannon divergence of ``softmax(p)`` and ``softmax(q)``, in nats: symmetric, from 0 to ln 2."""
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    apart = [(log.exp() * (log - log_mean)).sum(-1) for log in (log_p, log_q)]
    return ((apart[0] + apart[1]) / 2).clamp(min=0, max=math.log(2))


def score_divergence(candidates: Candidates, seed: int = 0) -> Float[Tensor, " candidate"]:
    """Mean divergence over the contrast's pairs; sides that are not paired are paired at random by ``seed``."""
    found = []
    for candidate in candidates.every:
        rows = candidate.rows
        positive, negative = rows.positive, rows.negative
        if not rows.paired:
            n = min(len(positive), len(negative))
            generator = torch.Generator().manual_seed(seed)
            positive, negative = (
                side[torch.randperm(len(side), generator=generator)[:n]] for side in (positive, negative)
            )
        found.append(js_divergence(positive, negative).mean())
    return torch.stack(found)
