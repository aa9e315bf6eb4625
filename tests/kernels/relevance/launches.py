"""Launches of every kernel at the sizes it is made for, to be compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from interp.kernels.norm import Norm
from interp.kernels.relevance import ops

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def launches() -> dict[str, Callable[[], object]]:
    """Forward checks and backwards of each dtype, and every form of activation once."""
    found: dict[str, Callable[[], object]] = {}
    for dtype in DTYPES:
        hidden, resid = torch.zeros(2, 8, 3072, dtype=dtype), torch.zeros(2, 8, 768, dtype=dtype)
        wide, head = torch.zeros(2, 8, 4096, dtype=dtype), torch.zeros(2, 8, 12, 64, dtype=dtype)
        found |= {
            f"gate backward {dtype}": lambda h=hidden: ops.gate_backward(h, h, h, "silu", 0.5),
            f"gate {dtype}": lambda h=hidden: ops.units_gap(h, h, h, h[0, 0], "gelu_new", None, 0.5),
            f"cap backward {dtype}": lambda h=hidden: ops.activation_backward(h, h, "tanh", 30.0),
            f"cap {dtype}": lambda h=hidden: ops.units_gap(h, h, None, None, "tanh", 30.0, 1.0),
            f"layernorm {dtype}": lambda x=resid: ops.follow_norm(
                x, x, _norm("layernorm", x.shape[-1]), True
            ),
            f"wide rmsnorm {dtype}": lambda x=wide: ops.follow_norm(
                x, x, _norm("rmsnorm", x.shape[-1]), True
            ),
            f"unchecked norm {dtype}": lambda x=head: ops.follow_norm(x, x, Norm("rmsnorm", 1e-6), False),
            f"layernorm backward {dtype}": lambda x=resid: ops.norm_backward(
                x, torch.zeros(16), x[0, 0], True, False, x.dtype
            ),
            f"wide rmsnorm backward {dtype}": lambda x=wide: ops.norm_backward(
                x, torch.zeros(16), x[0, 0], False, True, x.dtype
            ),
        }
    x = torch.zeros(2, 8, 3072)
    for act_fn in ("gelu", "quick_gelu", "relu", "identity"):
        found[act_fn] = lambda act_fn=act_fn: ops.activation_backward(x, x, act_fn, None)
    return found


def _norm(kind: str, d: int) -> Norm:
    gain = torch.zeros(d)
    return (
        Norm("layernorm", 1e-5, gain, gain)
        if kind == "layernorm"
        else Norm("rmsnorm", 1e-6, gain, plus_one=True)
    )
