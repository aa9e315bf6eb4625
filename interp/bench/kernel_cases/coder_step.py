"""The coder step: choosing latents, decoding them, gradients of weights, and a whole forward and backward step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.bench.kernel_case import Computation, Inputs, KernelCase
from interp.kernels import coder_step
from interp.kernels.coder_step import SparseLatents

OP = "coder_step"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LOUD = 16.0
"""Of the one coordinate of a row that its latents read, beside noise of 0.3: no rounding changes who is chosen."""


def list_cases(quick: bool = False) -> list[KernelCase]:
    """Dictionaries of 32,768 and 131,072 latents for widths of GPT-2 small and of a model of 2B parameters."""
    if quick:
        return [
            *(case for dtype in TOLERANCES for case in _list_choices(2, 300, 3, dtype)),
            *(case for dtype in TOLERANCES for case in _list_sums(4, 12, 40, 3, dtype)),
            *(_step_case(4, 12, 40, 3, torch.float32, in_batch) for in_batch in (False, True)),
        ]
    bf16, fp32 = torch.bfloat16, torch.float32
    return [
        _step_case(4096, 768, 131072, 64, bf16),
        _step_case(4096, 768, 32768, 32, bf16),
        _step_case(8192, 2304, 32768, 64, bf16),
        _step_case(4096, 2304, 131072, 64, bf16),
        _step_case(4096, 768, 32768, 32, fp32),
        _step_case(4096, 768, 131072, 64, bf16, in_batch=True),
        _step_case(4096, 768, 32768, 32, bf16, in_batch=True),
        *_list_choices(4096, 131072, 64, bf16),
        *_list_choices(4096, 32768, 32, bf16),
        *_list_choices(4096, 32768, 32, fp32),
        *_list_sums(4096, 768, 131072, 64, bf16),
        *_list_sums(8192, 2304, 32768, 64, bf16),
        *_list_sums(4096, 768, 32768, 32, fp32),
    ]


# choosing


def _list_choices(n_rows: int, d_sae: int, k: int, dtype: torch.dtype) -> list[KernelCase]:
    """Of random scores; outputs are sums over what is chosen, for equal scores may be chosen otherwise."""
    shape = {"row": n_rows, "d_sae": d_sae, "k": k}
    read = n_rows * d_sae * dtype.itemsize
    written = n_rows * k * (dtype.itemsize + 8)
    choices: list[tuple[str, Computation, Computation, bool]] = [
        ("select top k", _top, _eager_top, True),
        ("select top k of dead latents", _aux_top, _eager_aux_top, True),
        ("select top k of the batch", _top_of_all, _eager_top_of_all, True),
        ("select above thresholds", _above, _eager_above, False),
    ]
    return [
        KernelCase(
            OP,
            name,
            shape,
            dtype,
            partial(_draw_scores, n_rows, d_sae, k, dtype),
            kernel,
            eager,
            n_bytes=read + written,
            n_flops=n_rows * d_sae,
            tolerance=1e-5,
            compiles=compiles,
        )
        for name, kernel, eager, compiles in choices
    ]


def _draw_scores(
    n_rows: int, d_sae: int, k: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Inputs:
    scores = torch.randn(n_rows, d_sae, generator=generator, dtype=torch.float32).to(device, dtype)
    # k fire in each row, give or take
    limit = math.sqrt(2) * torch.erfinv(torch.tensor(1 - 2 * min(k / d_sae, 0.4))).item()
    thresholds = (torch.rand(d_sae, generator=generator) * 0.2 - 0.1 + limit).to(device, dtype)
    dead = (torch.rand(d_sae, generator=generator) < 0.2).index_fill(0, torch.arange(k), True).to(device)
    return {"scores": scores, "k": k, "thresholds": thresholds, "dead": dead}


def _sum_chosen(values: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.sum(-1, dtype=wide), taken.sum(-1, dtype=wide)


def _top(given: Inputs) -> tuple[Tensor, Tensor]:
    values, places = coder_step.select_top(given["scores"], given["k"])
    return _sum_chosen(values, given["scores"].gather(1, places))


def _eager_top(given: Inputs) -> tuple[Tensor, Tensor]:
    values, places = given["scores"].topk(given["k"], dim=1, sorted=False)
    return _sum_chosen(values, given["scores"].gather(1, places))


def _aux_top(given: Inputs) -> tuple[Tensor, Tensor]:
    values, places = coder_step.select_top(given["scores"], given["k"], given["dead"])
    return _sum_chosen(values, given["scores"].gather(1, places))


def _eager_aux_top(given: Inputs) -> tuple[Tensor, Tensor]:
    masked = given["scores"].masked_fill(~given["dead"], -torch.inf)
    values, places = masked.topk(given["k"], dim=1, sorted=False)
    return _sum_chosen(values, given["scores"].gather(1, places))


def _top_of_all(given: Inputs) -> Tensor:
    places = coder_step.select_top_of_all(given["scores"], given["k"] * len(given["scores"]))
    return _describe_list(given["scores"].reshape(-1)[places])


def _eager_top_of_all(given: Inputs) -> Tensor:
    flat = given["scores"].reshape(-1)
    return _describe_list(flat.topk(given["k"] * len(given["scores"]), sorted=False).values)


def _describe_list(chosen: Tensor) -> Tensor:
    wide = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    return torch.stack([wide.sum(), wide.square().sum(), wide.min()])


def _above(given: Inputs) -> tuple[Tensor, ...]:
    found = coder_step.select_above(given["scores"], given["thresholds"])
    return found.values, found.latents, found.starts


def _eager_above(given: Inputs) -> tuple[Tensor, ...]:
    rows, latents = (given["scores"] > given["thresholds"]).nonzero(as_tuple=True)
    starts = torch.searchsorted(rows, torch.arange(len(given["scores"]) + 1, device=rows.device))
    return given["scores"][rows, latents], latents, starts


# sums over entries


def _list_sums(n_rows: int, d: int, d_sae: int, k: int, dtype: torch.dtype) -> list[KernelCase]:
    shape = {"row": n_rows, "d_in": d, "d_sae": d_sae, "k": k}
    n, size = n_rows * k, dtype.itemsize
    entries = n * (size + 8)
    # of random latents so many are different
    vectors = int(d_sae * -math.expm1(-n / d_sae)) * d * size
    make = partial(_draw_entries, n_rows, d, d_sae, k, dtype)
    tolerance = TOLERANCES[dtype]
    rows = n_rows * d * size
    return [
        KernelCase(
            OP,
            "decode",
            shape,
            dtype,
            make,
            _decode,
            _eager_decode,
            n_bytes=entries + vectors + rows,
            n_flops=2 * n * d,
            tolerance=tolerance,
            peers={"dense": _dense_decode},
        ),
        KernelCase(
            OP,
            "gradient of values",
            shape,
            dtype,
            make,
            _dot,
            _eager_dot,
            n_bytes=entries + vectors + rows,
            n_flops=2 * n * d,
            tolerance=tolerance,
        ),
        KernelCase(
            OP,
            "gradient of weights",
            shape,
            dtype,
            make,
            _weight_gradient,
            _eager_weight_gradient,
            n_bytes=entries + rows + d_sae * d * size,
            n_flops=2 * n * d,
            tolerance=tolerance,
            peers={"atomic": _atomic_weight_gradient},
        ),
    ]


def _draw_entries(
    n_rows: int,
    d: int,
    d_sae: int,
    k: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    # one latent of each of k parts of the dictionary: none twice in a row
    part = d_sae // k
    latents = torch.randint(part, (n_rows, k), generator=generator) + torch.arange(k) * part
    return {
        "values": torch.randn(n_rows, k, generator=generator).to(device, dtype),
        "latents": latents.to(device),
        "W_dec": torch.randn(d_sae, d, generator=generator).div(math.sqrt(d)).to(device, dtype),
        "grad": torch.randn(n_rows, d, generator=generator).to(device, dtype),
    }


def _entries(given: Inputs) -> SparseLatents:
    return SparseLatents.from_top(given["values"], given["latents"], len(given["W_dec"]))


def _decode(given: Inputs) -> Tensor:
    return coder_step.sparse_decode(_entries(given), given["W_dec"])


def _eager_decode(given: Inputs) -> Tensor:
    return F.embedding_bag(given["latents"], given["W_dec"], mode="sum", per_sample_weights=given["values"])


def _dense_latents(given: Inputs) -> Tensor:
    dense = given["values"].new_zeros(len(given["values"]), len(given["W_dec"]))
    return dense.scatter(1, given["latents"], given["values"])


def _dense_decode(given: Inputs) -> Tensor:
    return _dense_latents(given) @ given["W_dec"]


def _dot(given: Inputs) -> Tensor:
    return coder_step.dot_entries(_entries(given), given["grad"], given["W_dec"])


def _eager_dot(given: Inputs) -> Tensor:
    return (given["grad"] @ given["W_dec"].T).gather(1, given["latents"]).reshape(-1)


def _weight_gradient(given: Inputs) -> Tensor:
    entries = _entries(given)
    return coder_step.sum_by_latent(entries, entries.values, given["grad"])


def _eager_weight_gradient(given: Inputs) -> Tensor:
    return _dense_latents(given).T @ given["grad"]


def _atomic_weight_gradient(given: Inputs) -> Tensor:
    weighted = given["values"][:, :, None] * given["grad"][:, None, :]
    return torch.zeros_like(given["W_dec"]).index_add(0, given["latents"].reshape(-1), weighted.flatten(0, 1))


# a whole step


def _step_case(
    n_rows: int, d: int, d_sae: int, k: int, dtype: torch.dtype, in_batch: bool = False
) -> KernelCase:
    n, weights = n_rows * k, 2 * d_sae * d
    peers: Mapping[str, Computation] = {} if in_batch else {"embedding_bag": _bag_step}
    return KernelCase(
        OP,
        "step of batch-topk" if in_batch else "step of topk",
        {"row": n_rows, "d_in": d, "d_sae": d_sae, "k": k},
        dtype,
        partial(_draw_step, n_rows, d, d_sae, k, dtype),
        partial(_step, in_batch=in_batch),
        partial(_dense_step, in_batch=in_batch),
        # weights read and their gradients written; pre-activations need not reach memory
        n_bytes=(2 * weights + n_rows * d) * dtype.itemsize,
        # the encoder's product; decoder, its two gradients, and the encoder's two on entries
        n_flops=2 * n_rows * d_sae * d + 5 * 2 * n * d,
        tolerance=TOLERANCES[dtype],
        peers=peers,
    )


def _draw_step(
    n_rows: int,
    d: int,
    d_sae: int,
    k: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    """Rows with one loud coordinate each, which k latents read: these are chosen whatever is rounded."""
    order = torch.randperm(d_sae, generator=generator)
    readers = order[torch.arange(d * k) % d_sae]
    W_enc = torch.randn(d_sae, d, generator=generator) * 0.03
    W_enc[readers, torch.arange(d).repeat_interleave(k)] += 1
    x = torch.randn(n_rows, d, generator=generator) * 0.3
    x[torch.arange(n_rows), torch.randint(d, (n_rows,), generator=generator)] += LOUD
    drawn = {
        "W_enc": W_enc,
        "b_enc": torch.randn(d_sae, generator=generator) * 0.1,
        "W_dec": torch.randn(d_sae, d, generator=generator) / math.sqrt(d),
        "b_dec": torch.randn(d, generator=generator) * 0.1,
    }
    weights = {name: value.to(device, dtype).requires_grad_() for name, value in drawn.items()}
    return {"x": x.to(device, dtype), "k": k, **weights}


def _step(given: Inputs, in_batch: bool) -> tuple[Tensor, ...]:
    centred = given["x"] - given["b_dec"]
    pre = coder_step.pre_activations(centred, given["W_enc"], given["b_enc"])
    n_rows, d_sae = pre.shape
    if in_batch:
        places = coder_step.select_top_of_all(pre, given["k"] * n_rows)
        chosen = SparseLatents.from_flat(pre.reshape(-1)[places], places, n_rows, d_sae)
    else:
        chosen = SparseLatents.from_top(*coder_step.select_top(pre, given["k"]), d_sae)
    entries = coder_step.attach_encoder(chosen, centred, given["W_enc"], given["b_enc"])
    fired = entries.with_values(entries.values.relu())
    return _gradients(given, coder_step.sparse_decode(fired, given["W_dec"]))


def _dense_step(given: Inputs, in_batch: bool) -> tuple[Tensor, ...]:
    pre = F.linear(given["x"] - given["b_dec"], given["W_enc"], given["b_enc"])
    scores = pre.reshape(1, -1) if in_batch else pre
    values, places = scores.topk(given["k"] * len(pre) // len(scores), dim=1, sorted=False)
    latents = torch.zeros_like(scores).scatter(1, places, values.relu()).view_as(pre)
    return _gradients(given, latents @ given["W_dec"])


def _bag_step(given: Inputs) -> tuple[Tensor, ...]:
    pre = F.linear(given["x"] - given["b_dec"], given["W_enc"], given["b_enc"])
    values, places = pre.topk(given["k"], dim=1, sorted=False)
    return _gradients(
        given, F.embedding_bag(places, given["W_dec"], mode="sum", per_sample_weights=values.relu())
    )


def _gradients(given: Inputs, decoded: Tensor) -> tuple[Tensor, ...]:
    """The loss, and its gradient in every weight."""
    error = given["x"] - decoded - given["b_dec"]
    loss = error.to(torch.promote_types(error.dtype, torch.float32)).square().sum(1).mean()
    weights = [given[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
    return loss, *torch.autograd.grad(loss, weights)
