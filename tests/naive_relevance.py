"""Relevance rules in the transformer written out: what they hold constant is detached, the rest is autograd's.

The second route to what :func:`interp.relevance_rules` gives. It shares no code with it: no
surrogate, no hook, no closed form of a coefficient, and the names of the rule sets are spelt out here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from model_zoo import PLAIN, make_bare
from naive_transformer import _ACTIVATIONS, Edit, NaiveTransformer, _affine, _wide
from torch import Tensor

from interp import load_model

Place = tuple[str, int]
Metric = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Held:
    """What the backward pass takes for a constant, and what it halves."""

    scale: bool = True
    """The divisor of every norm."""
    coefficient: bool = True
    """``act(x) / x`` of activations, gates and the cap of the logits."""
    cap: bool = True
    half_gate: bool = True
    pattern: bool = False
    half_products: bool = False
    """Each factor of query times key, and of pattern times value."""


EXACT = ("gpt2", *PLAIN, "hooked")
"""Kinds that compute in float64 all through; the others have norms or rotations that do not."""

HELD = {
    "relp": Held(),
    "relp-ah": Held(pattern=True),
    "attnlrp": Held(half_products=True),
    "gradient": Held(scale=False, coefficient=False, cap=False, half_gate=False),
}


@cache
def wide(name: str) -> tuple[Any, Any]:
    """A kind loaded in float64, and the same weights never touched by ``interp``."""
    return load_model(make_bare(name).to(torch.float64)), make_bare(name).to(torch.float64)


def halve(x: Tensor) -> Tensor:
    """``x`` with half of its gradient."""
    return x / 2 + x.detach() / 2


def hold_coefficient(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``act(x)`` written as x times a constant."""
    return x * (act(x) / x).detach()


class NaiveRelevance(NaiveTransformer):
    """The forward of :class:`NaiveTransformer`, with a backward pass that propagates relevance."""

    def __init__(self, model: Any, held: Held) -> None:
        super().__init__(model)
        self.held = held
        self.cap = self.traits.final_soft_cap
        self.traits = dataclasses.replace(self.traits, final_soft_cap=None)

    def __call__(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        edits: Mapping[Place, Edit] | None = None,
        record: dict[Place, Tensor] | None = None,
    ) -> Tensor:
        """Logits, with gradients from the token embeddings on."""
        edits = dict(edits or {})
        edits.setdefault(("embed", 0), lambda embedded: embedded.requires_grad_())
        logits = super().__call__(tokens, mask, edits, record)
        if self.cap is None:
            return logits
        return hold_coefficient(self._capped, logits) if self.held.cap else self._capped(logits)

    def _capped(self, logits: Tensor) -> Tensor:
        assert self.cap is not None
        return self.cap * (logits / self.cap).tanh()

    def _site(self, component: str, layer: int, value: Tensor) -> Tensor:
        if component == "pattern" and self.held.pattern:
            value = value.detach().requires_grad_()
        value = super()._site(component, layer, value)
        return halve(value) if self.held.half_products and component in ("q", "k", "v", "pattern") else value

    def _rms(self, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.traits.norm_eps).sqrt()
        return x / (scale.detach() if self.held.scale else scale)

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        w, act = self.weights.layers[layer], _ACTIVATIONS[self.traits.act_fn]
        shape = (lambda pre: hold_coefficient(act, pre)) if self.held.coefficient else act
        # a node of its own, without a norm too: the stream goes past the MLP
        x = self._site("mlp_in", layer, x.view_as(x))
        linear = _affine("bpm,mn->bpn", x, w.W_in, w.b_in)
        if self.traits.gated_mlp:
            pre = self._site("mlp_pre", layer, _affine("bpm,mn->bpn", x, w.W_gate, w.b_gate))
            post = shape(pre) * self._site("mlp_pre_linear", layer, linear)
            post = halve(post) if self.held.half_gate else post
        else:
            post = shape(self._site("mlp_pre", layer, linear))
        if w.b_post is not None:
            post = post + _wide(w.b_post)
        return _affine("bpn,nm->bpm", self._site("mlp_post", layer, post), w.W_out, w.b_out)

    def coefficients(
        self,
        metric: Metric,
        tokens: Tensor,
        mask: Tensor | None = None,
        edits: Mapping[Place, Edit] | None = None,
    ) -> tuple[Tensor, dict[Place, Tensor]]:
        """The metric, and the gradient that arrives at every site; zeros where none does."""
        record: dict[Place, Tensor] = {}
        found = metric(self(tokens, mask, edits, record)).sum()
        places = [place for place, value in record.items() if value.requires_grad]
        grads = torch.autograd.grad(found, [record[place] for place in places], allow_unused=True)
        known = dict(zip(places, grads, strict=True))
        zeros = {place: torch.zeros_like(value) for place, value in record.items()}
        return found.detach(), {
            place: zero if known.get(place) is None else known[place] for place, zero in zeros.items()
        }
