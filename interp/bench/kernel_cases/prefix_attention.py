"""Prefix attention: heads of GPT-2 small and of a model with grouped queries, hundreds of rows over shared prefixes."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from interp.bench.kernel_case import Computation, Inputs, KernelCase
from interp.kernels.prefix_attention import QueryPlan, Rows, attend_prefix, plan_queries

OP = "prefix_attention"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}
LEAVES = ("q", "k", "v", "prefix_k", "prefix_v")
GPT2 = (12, 12, 64)
LLAMA = (32, 8, 128)


def list_cases(quick: bool = False) -> list[KernelCase]:
    """Rows that fork off 16 prompts; each with a few columns of its own, as in a sweep."""
    bf16, fp32 = torch.bfloat16, torch.float32
    if quick:
        return [
            _case(6, 2, 20, 3, (2, 1, 8), dtype, backward)
            for dtype, backward in ((fp32, True), (bf16, False))
        ]
    return [
        *(
            _case(512, 16, prefix, suffix, GPT2, dtype)
            for prefix, suffix in ((256, 16), (512, 16), (1024, 16), (512, 64), (1024, 64))
            for dtype in (bf16, fp32)
        ),
        *(_case(512, 16, prefix, suffix, LLAMA, bf16) for prefix, suffix in ((512, 16), (1024, 64))),
        _case(4096, 16, 512, 16, GPT2, bf16),
        _case(512, 16, 512, 16, GPT2, bf16, backward=True),
        _case(512, 16, 512, 16, GPT2, fp32, backward=True),
        _case(512, 16, 512, 16, LLAMA, bf16, backward=True),
    ]


def _case(
    n_rows: int,
    n_prompts: int,
    n_prefix: int,
    n_own: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    backward: bool = False,
) -> KernelCase:
    n_heads, n_kv, d_head = heads
    n_tokens = n_rows * n_own
    read = n_tokens * (n_heads + 2 * n_kv) * d_head + 2 * n_prompts * n_kv * n_prefix * d_head
    written = n_tokens * n_heads * d_head
    n_pairs = n_rows * n_own * n_prefix + n_rows * n_own * (n_own + 1) // 2
    n_flops = 4 * n_pairs * n_heads * d_head
    shape = {
        "row": n_rows,
        "prompt": n_prompts,
        "prefix": n_prefix,
        "own": n_own,
        "head": n_heads,
        "kv_head": n_kv,
        "d_head": d_head,
    }
    make = partial(_draw, n_rows, n_prompts, n_prefix, n_own, heads, dtype, backward)
    if backward:
        # read again beside z and its gradient; weights are made again, and four products follow
        read, written = 2 * read + 2 * written, written + read
        return KernelCase(
            OP,
            "forward and backward",
            shape,
            dtype,
            make,
            partial(_differentiate, _attend),
            partial(_differentiate, _attend_eagerly),
            n_bytes=(read + written) * dtype.itemsize,
            n_flops=n_flops * 7 // 2,
            tolerance=TOLERANCES[dtype],
        )
    return KernelCase(
        OP,
        "forward",
        shape,
        dtype,
        make,
        _attend,
        _attend_eagerly,
        n_bytes=(read + written) * dtype.itemsize,
        n_flops=n_flops,
        tolerance=TOLERANCES[dtype],
        peers={
            "scaled_dot_product_attention on expanded keys": _attend_expanded,
            "scaled_dot_product_attention, keys expanded each time": _expand_and_attend,
        },
    )


class _Plans:
    """The kernel's plan, made by the first call as by a sweep's first layer and kept for the others."""

    def __init__(self, rows: list[Rows]) -> None:
        self.rows = rows
        self._plan: QueryPlan | None = None

    def take(self, device: torch.device) -> QueryPlan | None:
        """``None`` where it could not be made."""
        if self._plan is None and device.type == "cuda":
            self._plan = plan_queries(self.rows)
        return self._plan


def _draw(
    n_rows: int,
    n_prompts: int,
    n_prefix: int,
    n_own: int,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    backward: bool,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    """Prompts take turns, as a sweep's do."""
    n_heads, n_kv, d_head = heads
    shapes = {
        "q": (n_rows * n_own, n_heads, d_head),
        "k": (n_rows * n_own, n_kv, d_head),
        "v": (n_rows * n_own, n_kv, d_head),
        "prefix_k": (n_prompts, n_kv, n_prefix, d_head),
        "prefix_v": (n_prompts, n_kv, n_prefix, d_head),
        "signal": (n_rows * n_own, n_heads, d_head),
    }
    drawn = {
        name: torch.randn(shape, generator=generator)
        .to(device, dtype)
        .requires_grad_(backward and name in LEAVES)
        for name, shape in shapes.items()
    }
    prompts = torch.arange(n_rows, device=device) % n_prompts
    inputs = {**drawn, "plans": _Plans([Rows(prompts, n_prefix, n_prefix + n_own)]), "scale": d_head**-0.5}
    if not backward:
        inputs["expanded_k"], inputs["expanded_v"] = _expand(inputs)
    return inputs


def _attend(inputs: Inputs) -> Tensor:
    given, plans = {name: inputs[name] for name in LEAVES}, inputs["plans"]
    plan = plans.take(inputs["q"].device)
    return attend_prefix(**given, rows=plans.rows, scale=inputs["scale"], plan=plan)


def _attend_eagerly(inputs: Inputs) -> Tensor:
    """Rows of a prompt beside each other, so that its prefix is one product with all of them and never copied."""
    q, k, v, prefix_k, prefix_v = (inputs[name] for name in LEAVES)
    n_prompts, n_kv, n_prefix, d_head = prefix_k.shape
    own = inputs["plans"].rows[0].n_keys
    group = q.shape[1] // n_kv
    q = q.view(-1, n_prompts, own, n_kv, group, d_head) * inputs["scale"]
    k, v = (x.view(-1, n_prompts, own, n_kv, d_head) for x in (k, v))
    before = torch.einsum("rpskgd,pktd->pkrsgt", q, prefix_k)
    after = torch.einsum("rpskgd,rptkd->pkrsgt", q, k)
    seen = torch.ones(own, own, dtype=torch.bool, device=q.device).tril()[:, None]
    scores = torch.cat([before, after.masked_fill(~seen, float("-inf"))], dim=-1)
    pattern = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype)
    z = torch.einsum("pkrsgt,pktd->rpskgd", pattern[..., :n_prefix], prefix_v)
    z = z + torch.einsum("pkrsgt,rptkd->rpskgd", pattern[..., n_prefix:], v)
    return z.flatten(3, 4).flatten(0, 2)


def _expand(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Keys and values of every row, its prompt's prefix copied before its own: [row, kv_head, pos, d_head]."""
    rows = inputs["plans"].rows[0]
    k, v = (
        torch.cat([prefix[rows.prompts], own.unflatten(0, (-1, rows.n_keys)).transpose(1, 2)], dim=2)
        for prefix, own in ((inputs["prefix_k"], inputs["k"]), (inputs["prefix_v"], inputs["v"]))
    )
    return k, v


def _attend_expanded(inputs: Inputs) -> Tensor:
    return _attend_to(inputs, inputs["expanded_k"], inputs["expanded_v"])


def _expand_and_attend(inputs: Inputs) -> Tensor:
    return _attend_to(inputs, *_expand(inputs))


def _attend_to(inputs: Inputs, k: Tensor, v: Tensor) -> Tensor:
    rows = inputs["plans"].rows[0]
    q = inputs["q"].unflatten(0, (-1, rows.n_keys)).transpose(1, 2)
    seen = causal_lower_right(q.shape[2], k.shape[2])
    grouped = q.shape[1] != k.shape[1]
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=inputs["scale"], enable_gqa=grouped)
    return z.transpose(1, 2).flatten(0, 1)


def _differentiate(run: Computation, inputs: Inputs) -> tuple[Tensor, ...]:
    """Outputs, and gradients of all that is attended with."""
    z = run(inputs)
    assert isinstance(z, Tensor)
    return (z, *torch.autograd.grad(z, [inputs[name] for name in LEAVES], inputs["signal"]))
