"""Checking, once at load, that every hook point we offer is alive.

TransformerLens has hook points that exist and never fire, and others that fire while an edit or a
gradient goes nowhere. A component is offered only if its hook fires in every layer, and the logits
depend on what an edit writes there. Whether they *change* is not asked: a model may have an output
matrix of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields

import torch
from torch import Tensor

from interp.errors import InterventionError
from interp.models.intervene import intervene
from interp.models.interventions import apply
from interp.models.model import Model
from interp.types import Site


def refuse_dead_components(model: Model) -> tuple[str, ...]:
    """Drop from ``model`` every component whose hooks do not act; return their names.

    Costs one forward and backward of three tokens, and as many a component where one is dead.
    """
    if _act(model, model.components):
        return ()
    dead = tuple(component for component in model.components if not _act(model, [component]))
    hooks = {k: v for k, v in model.family.hook_names(model.traits).items() if k not in dead}
    model.family = with_fields(model.family, hooks=hooks, hooks_for=None)
    return dead


def _act(model: Model, components: Sequence[str]) -> bool:
    """Every hook fires, and a gradient arrives at what an edit adds there."""
    probes: list[Tensor] = []

    def add_probe(part: Tensor) -> Tensor:
        probes.append(torch.zeros_like(part, requires_grad=True))
        return part + probes[-1]

    n = min(3, model.traits.n_ctx, model.traits.d_vocab)
    tokens = torch.arange(n, device=model.device)[None]
    with torch.enable_grad():
        try:
            with intervene(model, [apply(Site(name), add_probe) for name in components]):
                total = model(tokens).float().sum()
        except InterventionError:
            return False
        found = torch.autograd.grad(total, probes, allow_unused=True)
    return all(gradient is not None for gradient in found)
