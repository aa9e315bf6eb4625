"""Reading out final residual streams: logits of few tokens, and statistics of the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.bench.kernel_case import Inputs, KernelCase
from interp.kernels.norm import Norm, normalise
from interp.kernels.readout import read_tokens, summarise_vocabulary

_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class _Model:
    d_model: int
    d_vocab: int
    norm: str


_GPT2 = _Model(768, 50257, "layernorm")
_LLAMA = _Model(2048, 128256, "rmsnorm")
_TINY = _Model(40, 301, "layernorm")


def list_cases(quick: bool = False) -> list[KernelCase]:
    """Rows in flight at the end of a sweep: one column read of each, 16 prompts."""
    if quick:
        return [
            _tokens(_TINY, 6, 2, torch.float32),
            *(_vocabulary(name, _TINY, 6, torch.float32) for name in _STATISTICS),
            _backward(_TINY, 6, torch.float32),
        ]
    half, full = torch.bfloat16, torch.float32
    found = [_tokens(_GPT2, n, 2, dtype) for n in (512, 16384) for dtype in (half, full)]
    found += [_tokens(_LLAMA, 16384, 2, half), _tokens(_GPT2, 4096, 64, half)]
    for name in _STATISTICS:
        found += [_vocabulary(name, _GPT2, n, half) for n in (512, 4096)]
    found += [_vocabulary(name, _GPT2, 512, full) for name in ("loss", "divergence")]
    found += [_vocabulary("loss", _LLAMA, 1024, half), _vocabulary("divergence", _LLAMA, 1024, half)]
    return [*found, _backward(_GPT2, 4096, half), _backward(_GPT2, 512, full)]


def _make(
    model: _Model, n: int, c: int, dtype: torch.dtype, device: torch.device, draw: torch.Generator
) -> dict[str, Any]:
    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    prompts = min(16, n)
    return {
        "resid": rand(n, 1, model.d_model),
        # logits three units apart: softmaxes neither flat nor sharp
        "W_U": (rand(model.d_vocab, model.d_model) * (3 / model.d_model**0.5)).T,
        "gain": 1 + 0.1 * rand(model.d_model),
        "bias": 0.1 * rand(model.d_model) if model.norm == "layernorm" else None,
        "tokens": torch.randint(0, model.d_vocab, (prompts, c), generator=draw).to(device),
        "prompts": torch.randint(0, prompts, (n,), generator=draw).to(device),
    }


def _norm(model: _Model, x: Inputs) -> Norm:
    return Norm("layernorm" if model.norm == "layernorm" else "rmsnorm", 1e-5, x["gain"], x["bias"])


def _tokens(model: _Model, n: int, c: int, dtype: torch.dtype) -> KernelCase:
    size, prompts = dtype.itemsize, min(16, n)

    def kernel(x: Inputs) -> Tensor:
        return read_tokens(x["resid"], x["W_U"], x["tokens"], x["prompts"], None, _norm(model, x))

    def eager(x: Inputs) -> Tensor:
        normed = normalise(x["resid"], _norm(model, x))
        return torch.einsum("rkd,rcd->rkc", normed, x["W_U"].T[x["tokens"][x["prompts"]]])

    return KernelCase(
        op="readout",
        name="tokens",
        shape={"row": n, "c": c, "d_model": model.d_model, "d_vocab": model.d_vocab},
        dtype=dtype,
        make=partial(_make, model, n, c, dtype),
        kernel=kernel,
        eager=eager,
        n_bytes=size * (n * model.d_model + prompts * c * model.d_model + n * c + 2 * model.d_model) + 8 * n,
        n_flops=n * model.d_model * (2 * c + 8),
        tolerance=_TOLERANCE[dtype],
    )


def _eager_logits(model: _Model, x: Inputs) -> Tensor:
    logits = normalise(x["resid"], _norm(model, x)) @ x["W_U"]
    return logits if logits.dtype == torch.float64 else logits.float()


def _eager_loss(model: _Model, x: Inputs) -> Tensor:
    logits = _eager_logits(model, x)
    return logits.logsumexp(-1) - logits.gather(2, x["tokens"][x["prompts"]][:, None])[..., 0]


def _eager_other(model: _Model, x: Inputs) -> Tensor:
    logits = _eager_logits(model, x)
    return logits.scatter(2, x["tokens"][x["prompts"]][:, None], -torch.inf).amax(-1)


def _eager_divergence(model: _Model, x: Inputs) -> Tensor:
    log_clean = x["reference"].to(_eager_logits(model, x).dtype).log_softmax(-1)[x["prompts"]]
    log_run = _eager_logits(model, x).log_softmax(-1)
    return F.kl_div(log_run, log_clean, reduction="none", log_target=True).sum(-1)


def _kernel_loss(model: _Model, x: Inputs) -> Tensor:
    found = summarise_vocabulary(x["resid"], x["W_U"], x["tokens"], x["prompts"], None, _norm(model, x))
    return found.log_sum_exp - found.tokens[..., 0]


def _kernel_other(model: _Model, x: Inputs) -> Tensor:
    found = summarise_vocabulary(
        x["resid"], x["W_U"], x["tokens"], x["prompts"], None, _norm(model, x), others=True
    )
    assert found.largest_other is not None
    return found.largest_other


def _kernel_divergence(model: _Model, x: Inputs) -> Tensor:
    found = summarise_vocabulary(
        x["resid"],
        x["W_U"],
        x["tokens"][:, :0],
        x["prompts"],
        None,
        _norm(model, x),
        reference=x["reference"],
    )
    assert found.divergence is not None
    return found.divergence


_STATISTICS: Mapping[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "loss": (_kernel_loss, _eager_loss),
    "largest other": (_kernel_other, _eager_other),
    "divergence": (_kernel_divergence, _eager_divergence),
}


def _vocabulary(name: str, model: _Model, n: int, dtype: torch.dtype) -> KernelCase:
    compared, prompts = name == "divergence", min(16, n)
    kernel, eager = _STATISTICS[name]

    def make(device: torch.device, draw: torch.Generator) -> dict[str, Any]:
        made = _make(model, n, 1, dtype, device, draw)
        if compared:
            made["reference"] = 3 * torch.randn(prompts, 1, model.d_vocab, generator=draw).to(device, dtype)
        return made

    numbers = (n + model.d_vocab) * model.d_model + prompts * model.d_vocab * compared
    return KernelCase(
        op="readout",
        name=name,
        shape={"row": n, "d_model": model.d_model, "d_vocab": model.d_vocab},
        dtype=dtype,
        make=make,
        kernel=partial(kernel, model),
        eager=partial(eager, model),
        n_bytes=dtype.itemsize * numbers + 4 * n,
        n_flops=2 * n * model.d_model * model.d_vocab,
        tolerance=_TOLERANCE[dtype],
    )


def _backward(model: _Model, n: int, dtype: torch.dtype) -> KernelCase:
    """Forward and the gradient of the residual streams."""

    def pull(loss: Callable[[_Model, Inputs], Tensor], x: Inputs) -> Tensor:
        resid = x["resid"].detach().requires_grad_()
        (found,) = torch.autograd.grad(loss(model, {**x, "resid": resid}).sum(), resid)
        return found

    return KernelCase(
        op="readout",
        name="loss, forward and backward",
        shape={"row": n, "d_model": model.d_model, "d_vocab": model.d_vocab},
        dtype=dtype,
        make=partial(_make, model, n, 1, dtype),
        kernel=partial(pull, _kernel_loss),
        eager=partial(pull, _eager_loss),
        n_bytes=dtype.itemsize * (2 * n + model.d_vocab) * model.d_model,
        n_flops=4 * n * model.d_model * model.d_vocab,
        tolerance=_TOLERANCE[dtype] * 2,
        compiles=False,
    )
