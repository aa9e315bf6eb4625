"""Values of operations with the gradients of relevance rules, by kernels where they can be."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.errors import KernelError, RuleError, unknown_name
from interp.kernels.backend import kernel_runs
from interp.kernels.norm import Norm
from interp.kernels.relevance import reference
from interp.kernels.relevance.reference import Propagated
from interp.kernels.relevance.secants import SECANTS

_WIDEST = 16384
"""Entries of a row that a kernel of a norm can hold."""


def propagate_norm(
    value: Float[Tensor, "*rest d"], x: Float[Tensor, "*rest d"], norm: Norm, check: bool = False
) -> Propagated:
    """The ``value`` of a norm of ``x``, to the bit, with the gradient of the LN-rule: its scale is a constant.

    With ``check`` the gap between the value and the norm is measured. Raises :class:`KernelError` for shapes
    that differ.
    """
    _refuse_shapes("propagate_norm", value, x)
    d = x.shape[-1]
    refusal = f"rows of {d} entries are longer than {_WIDEST}" if d > _WIDEST else ""
    if kernel_runs("propagate_norm", (value, x, norm.gain, norm.bias), refusal=refusal):
        from interp.kernels.relevance import ops

        found, gap = ops.follow_norm(value, x, norm, check)
        return Propagated(found, gap if check else None)
    return _by_surrogate(value, reference.norm_surrogate(x, norm).to(value.dtype), check)


def propagate_activation(
    value: Float[Tensor, "*shape"],
    x: Float[Tensor, "*shape"],
    act_fn: str,
    cap: float | None = None,
    check: bool = False,
) -> Propagated:
    """The ``value`` of an activation function of ``x``, to the bit, with the gradient of the Identity-rule.

    That is the constant ``act(x) / x``; under a ``cap`` the operation is ``cap * act(x / cap)``. ``check`` as of
    :func:`propagate_norm`. Raises :class:`RuleError` for an activation function whose form is not known and
    :class:`KernelError` for shapes that differ.
    """
    _refuse_shapes("propagate_activation", value, x)
    _refuse_unknown(act_fn)
    if kernel_runs("propagate_activation", (value, x)):
        from interp.kernels.relevance import ops

        gap = ops.units_gap(value.detach(), x.detach(), None, None, act_fn, cap, 1.0) if check else None
        return Propagated(ops.ActivationValue.apply(value.detach(), x, act_fn, cap), gap)
    return _by_surrogate(value, reference.activation_surrogate(x, act_fn, cap), check)


def propagate_gate(
    value: Float[Tensor, "*rest d"],
    gate: Float[Tensor, "*rest d"],
    up: Float[Tensor, "*rest d"],
    act_fn: str,
    share: float = 0.5,
    bias: Float[Tensor, " d"] | None = None,
    check: bool = False,
) -> Propagated:
    """The ``value`` of ``act(gate) * up + bias``, to the bit, with the gradient of the Identity- and Half-rule.

    Each factor gets ``share`` of the relevance, and the gate passes its own on by ``act(gate) / gate``. ``check``
    as of :func:`propagate_norm`; it means something for a share of one half. Raises as
    :func:`propagate_activation`.
    """
    _refuse_shapes("propagate_gate", value, gate, up)
    _refuse_unknown(act_fn)
    if kernel_runs("propagate_gate", (value, gate, up, bias)):
        from interp.kernels.relevance import ops

        still = [None if t is None else t.detach() for t in (value, gate, up, bias)]
        gap = ops.units_gap(*still, act_fn, None, share) if check else None
        return Propagated(ops.GateValue.apply(value.detach(), gate, up, bias, act_fn, share), gap)
    return _by_surrogate(value, reference.gate_surrogate(gate, up, act_fn, share, bias), check)


def _by_surrogate(value: Tensor, surrogate: Tensor, check: bool) -> Propagated:
    gap = reference.measure_gap(value.detach(), surrogate.detach()) if check else None
    return Propagated(reference.give_gradient(value, surrogate), gap)


def _refuse_shapes(name: str, value: Tensor, *inputs: Tensor) -> None:
    for given in inputs:
        if given.shape != value.shape:
            raise KernelError(
                f"{name}: the value is {tuple(value.shape)} and an input {tuple(given.shape)}; expected one shape."
            )


def _refuse_unknown(act_fn: str) -> None:
    if act_fn not in SECANTS:
        raise RuleError(unknown_name("activation function", act_fn, SECANTS))
