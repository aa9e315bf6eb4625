"""Checking, once at load, that every hook point we offer is alive.

TransformerLens has hook points that exist and never fire, and others that fire while an edit or a
gradient goes nowhere. A component is offered only if its hook fires, an edit there changes the
logits, and a gradient arrives.
"""

from __future__ import annotations

from dataclasses import replace as with_fields

import torch
from torch import Tensor

from interp.errors import SiteError
from interp.models.capture import capture
from interp.models.intervene import intervene
from interp.models.interventions import apply
from interp.models.model import Model
from interp.types import Site


def refuse_dead_components(model: Model) -> tuple[str, ...]:
    """Drop from ``model`` every component whose hooks do not act; return their names.

    Costs one forward and backward of three tokens, and one forward of a row a component.
    """
    dead = [component for component in model.components if not _lives(model, component)]
    alive = [component for component in model.components if component not in dead]
    dead += [component for component in alive if not _edit_acts(model, component)]
    if dead:
        hooks = {k: v for k, v in model.family.hook_names(model.traits).items() if k not in dead}
        model.family = with_fields(model.family, hooks=hooks, hooks_for=None)
    return tuple(dead)


def _tokens(model: Model) -> Tensor:
    n = min(3, model.traits.n_ctx)
    return torch.arange(1, n + 1, device=model.device)[None] % model.traits.d_vocab


def _lives(model: Model, component: str) -> bool:
    """Its hook fires in every layer, and a gradient arrives in every layer."""
    try:
        cache = capture(
            model, _tokens(model), component, gradients_of=lambda logits: logits.float().pow(2).sum()
        )
    except SiteError:
        return False
    assert cache.grads is not None
    grads = cache.grads[component].float()
    grads = grads[None] if component == "embed" else grads
    return bool((grads.flatten(1).abs().amax(1) > 0).all())


def _edit_acts(model: Model, component: str) -> bool:
    """Changing it changes the logits."""

    def shift(part: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, part.shape[-1], device=part.device, dtype=part.dtype)
        return part * 0.5 + ramp

    tokens = _tokens(model)
    with torch.no_grad():
        before = model(tokens)
        with intervene(model, [apply(Site(component), shift)]):
            after = model(tokens)
    return not torch.equal(before, after)
