"""Whether a GPU kernel or PyTorch reads the logits of a few tokens."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.norm import Norm
from interp.kernels.readout.tokens.reference import read_tokens_reference

_LARGEST_D_MODEL = 16384


def read_tokens(
    resid: Float[Tensor, "row k d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "prompt c"],
    prompts: Int[Tensor, " row"] | None = None,
    b_U: Float[Tensor, " d_vocab"] | None = None,
    norm: Norm | None = None,
    soft_cap: float | None = None,
    wide: bool = False,
) -> Float[Tensor, "row k c"]:
    """Logits of each row's own tokens: final norm, product with their columns of ``W_U``, bias, soft cap.

    Row i reads ``tokens[prompts[i]]``, or ``tokens[i]`` without ``prompts``; a negative token (no token) stands
    for token 0, whose logit must not be used. Logits come in the stream's dtype, in fp32 at least if ``wide``.
    Differentiable in every floating-point tensor. Raises :class:`~interp.errors.KernelError` for shapes that do
    not fit. Tokens outside the vocabulary are not looked for: that would wait for the GPU.
    """
    check_tokens(resid, W_U, tokens, prompts, b_U)
    if not tokens_kernel_runs(resid, W_U, b_U, norm):
        return read_tokens_reference(resid, W_U, tokens, prompts, b_U, norm, soft_cap, wide)
    from interp.kernels.readout.tokens.ops import read_tokens_op

    logits: Tensor = read_tokens_op(
        resid,
        W_U,
        tokens.contiguous(),
        None if prompts is None else prompts.contiguous(),
        None if b_U is None else b_U.contiguous(),
        _kind_of(norm),
        0.0 if norm is None else norm.eps,
        *(None if norm is None or part is None else part.contiguous() for part in _parts(norm)),
        soft_cap or 0.0,
        wide,
    )
    return logits


def tokens_kernel_runs(
    resid: Tensor, W_U: Tensor, b_U: Tensor | None = None, norm: Norm | None = None
) -> bool:
    """Whether :func:`read_tokens` of these would run as a kernel."""
    given = [resid, W_U, b_U, *_parts(norm)]
    refusal = ""
    if len({part.dtype for part in given if part is not None}) > 1:
        refusal = "stream, unembedding and norm are of several dtypes"
    elif resid.shape[-1] > _LARGEST_D_MODEL:
        refusal = f"d_model {resid.shape[-1]} is larger than {_LARGEST_D_MODEL}"
    return kernel_runs("readout of tokens", given, refusal=refusal)


def check_tokens(
    resid: Tensor, W_U: Tensor, tokens: Tensor, prompts: Tensor | None, b_U: Tensor | None
) -> None:
    """Raise :class:`KernelError` where shapes do not fit each other."""
    n_prompts = len(resid) if prompts is None else len(tokens)
    fits = resid.ndim == 3 and W_U.ndim == 2 and tokens.ndim == 2 and resid.shape[2] == W_U.shape[0]
    fits = fits and len(tokens) == n_prompts and (b_U is None or b_U.shape == W_U.shape[1:])
    if not fits or (prompts is not None and prompts.shape != resid.shape[:1]):
        raise KernelError(
            f"got residual streams {tuple(resid.shape)}, unembedding {tuple(W_U.shape)}, tokens "
            f"{tuple(tokens.shape)}, prompts {None if prompts is None else tuple(prompts.shape)}, bias "
            f"{None if b_U is None else tuple(b_U.shape)}; expected [row, k, d_model], [d_model, d_vocab], "
            "[prompt, c], [row] (or no prompts and [row, c] tokens), [d_vocab]."
        )


def _parts(norm: Norm | None) -> tuple[Tensor | None, Tensor | None]:
    if norm is None:
        return None, None
    return norm.gain, norm.bias if norm.kind == "layernorm" else None


def _kind_of(norm: Norm | None) -> int:
    """A norm's number in the kernels."""
    if norm is None:
        return 0
    return 1 if norm.kind == "layernorm" else 2 + norm.plus_one
