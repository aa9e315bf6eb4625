"""From an operation and what passes it to its value with the gradient of its rule."""

from __future__ import annotations

from torch import Tensor

from interp.errors import RuleError
from interp.kernels.norm import Norm
from interp.kernels.relevance import (
    Propagated,
    give_gradient,
    measure_gap,
    propagate_activation,
    propagate_gate,
    propagate_norm,
    scale_gradient,
)
from interp.models.blocks.layers import ACTIVATIONS
from interp.models.relevance.operations import Operation
from interp.models.relevance.rules import GRADIENT, RelevanceRules, UserRule
from interp.models.traits import NormWeights, Traits, Weights

Inputs = tuple[Tensor, ...]


class Propagation:
    """Gives operations of one model the gradients of rules; their values stay theirs to the bit."""

    def __init__(self, rules: RelevanceRules, traits: Traits, weights: Weights) -> None:
        self.rules = rules
        self.traits = traits
        self.weights = weights

    def apply(
        self, operation: Operation, inputs: Inputs, output: Tensor, check: bool = False
    ) -> Propagated | None:
        """``None`` where the operation keeps its own gradient.

        With ``check`` the gap is measured between the output and what the operation is taken to be, where a
        rule says that whole. Raises :class:`RuleError` where a user's rule returns another shape than the
        output's.
        """
        own = self.rules.user_rule(operation)
        if own is not None:
            return _propagate_own(own, operation, inputs, output)
        found: Propagated | None = getattr(self, f"_{operation.kind}")(operation, inputs, output, check)
        return found

    def _norm(self, operation: Operation, inputs: Inputs, output: Tensor, check: bool) -> Propagated | None:
        if self.rules.norm == GRADIENT:
            return None
        if operation.is_divisor:
            return Propagated(output.detach())
        (x,) = inputs
        return propagate_norm(output, x, self._norm_of(operation), check)

    def _norm_of(self, operation: Operation) -> Norm:
        traits, weights = self.traits, self._weights_of(operation)
        gain, bias = (None, None) if weights is None else (weights.w, weights.b)
        # queries and keys have an RMSNorm whatever the residual stream has
        is_layernorm = traits.norm == "layernorm" and "attn." not in operation.name
        return Norm(
            "layernorm" if is_layernorm else "rmsnorm", traits.norm_eps, gain, bias, traits.norm_plus_one
        )

    def _weights_of(self, operation: Operation) -> NormWeights | None:
        if operation.layer is None:
            return self.weights.ln_final
        layer = self.weights.layers[operation.layer]
        name = operation.name.rpartition(".")[2]
        found = getattr(layer, name)
        return NormWeights(found) if isinstance(found, Tensor) else found

    def _activation(
        self, operation: Operation, inputs: Inputs, output: Tensor, check: bool
    ) -> Propagated | None:
        if self.rules.activation == GRADIENT:
            return None
        return propagate_activation(output, inputs[0], self.traits.act_fn, check=check)

    def _gate(self, operation: Operation, inputs: Inputs, output: Tensor, check: bool) -> Propagated | None:
        rules, (gate, up) = self.rules, inputs
        if rules.gate == GRADIENT and rules.activation == GRADIENT:
            return None
        assert operation.layer is not None, "gates stand in layers"
        bias = self.weights.layers[operation.layer].b_post
        is_whole = rules.gate == "half"
        if rules.activation == "identity":
            share = 0.5 if is_whole else 1.0
            return propagate_gate(output, gate, up, self.traits.act_fn, share, bias, check and is_whole)
        act = ACTIVATIONS[self.traits.act_fn]
        product = 0.5 * (act(gate) * up.detach() + act(gate.detach()) * up)
        surrogate = product if bias is None else product + bias
        gap = measure_gap(output.detach(), surrogate.detach()) if check else None
        return Propagated(give_gradient(output, surrogate), gap)

    def _softmax(
        self, operation: Operation, inputs: Inputs, output: Tensor, check: bool
    ) -> Propagated | None:
        # a leaf of its own: the pattern as a node still has a coefficient, what it came from has none
        return Propagated(output.detach().requires_grad_()) if self.rules.attention == "ah" else None

    def _pattern_value(
        self, operation: Operation, inputs: Inputs, output: Tensor, check: bool
    ) -> Propagated | None:
        return Propagated(scale_gradient(output, 0.5)) if self.rules.attention == "half" else None

    _query_key = _pattern_value

    def _soft_cap(
        self, operation: Operation, inputs: Inputs, output: Tensor, check: bool
    ) -> Propagated | None:
        if self.rules.soft_cap == GRADIENT:
            return None
        cap = self.traits.final_soft_cap
        assert cap is not None
        return propagate_activation(output, inputs[0], "tanh", cap, check)


def _propagate_own(rule: UserRule, operation: Operation, inputs: Inputs, output: Tensor) -> Propagated:
    found = rule.surrogate(inputs, output)
    if not isinstance(found, Tensor) or found.shape != output.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RuleError(
            f"rule {rule.name!r} at {operation.name} returned {got}; expected a tensor of shape "
            f"{tuple(output.shape)}."
        )
    # a leaf is where propagation ends, and must stay the tensor that a gradient arrives at
    is_end = found.is_leaf and found.requires_grad
    return Propagated(found if is_end else give_gradient(output, found))
