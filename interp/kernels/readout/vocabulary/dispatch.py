"""Whether a GPU kernel or PyTorch summarises the vocabulary."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.norm import Norm, normalise
from interp.kernels.readout.tokens.dispatch import check_tokens, read_tokens
from interp.kernels.readout.vocabulary.reference import summarise_reference
from interp.kernels.readout.vocabulary.summary import VocabularySummary


def summarise_vocabulary(
    resid: Float[Tensor, "row k d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "prompt c"],
    prompts: Int[Tensor, " row"] | None = None,
    b_U: Float[Tensor, " d_vocab"] | None = None,
    norm: Norm | None = None,
    soft_cap: float | None = None,
    reference: Float[Tensor, "prompt k d_vocab"] | None = None,
    others: bool = False,
    argmax: bool = False,
) -> VocabularySummary:
    """What a metric needs of the logits of final residual streams over the whole vocabulary.

    Row i belongs to prompt ``prompts[i]``, or to prompt i without ``prompts``, and gives the logits of that
    prompt's ``tokens`` (negative: no token); with ``others`` also the largest logit of all further tokens and how
    many of those are above every given one; with ``reference``, logits of each prompt, KL(reference || row).
    Differentiable in stream, weights and norm through log-sum-exp, token logits and divergence; no gradient
    reaches ``reference``. In half precision logits stay in fp32. Raises :class:`~interp.errors.KernelError` for
    shapes that do not fit.
    """
    check_tokens(resid, W_U, tokens, prompts, b_U)
    check_reference(resid, W_U, tokens, reference)
    if not vocabulary_kernel_runs(resid, W_U, b_U, norm, reference):
        return summarise_reference(
            resid, W_U, tokens, prompts, b_U, norm, soft_cap, reference, others, argmax
        )
    from interp.kernels.readout.vocabulary.ops import scan_op

    x = (resid if norm is None else normalise(resid, norm)).contiguous()
    found = read_tokens(x, W_U, tokens, prompts, b_U, None, soft_cap, wide=True)
    shape = resid.shape[:2]
    log_sum_exp, _, divergence, largest, place, largest_other, n_above = scan_op(
        x.flatten(0, 1),
        W_U,
        None if b_U is None else b_U.contiguous(),
        tokens.contiguous(),
        None if prompts is None else prompts.contiguous(),
        found.detach().flatten(0, 1),
        shape[1],
        None if reference is None else reference.detach().flatten(0, 1).contiguous(),
        soft_cap or 0.0,
        others,
        argmax,
    )
    return VocabularySummary(
        log_sum_exp=log_sum_exp.view(shape),
        tokens=found,
        largest=largest.detach().view(shape),
        argmax=place.view(shape) if argmax else None,
        largest_other=largest_other.detach().view(shape) if others else None,
        n_above=n_above.view(shape) if others else None,
        divergence=None if reference is None else divergence.view(shape),
    )


def vocabulary_kernel_runs(
    resid: Tensor,
    W_U: Tensor,
    b_U: Tensor | None = None,
    norm: Norm | None = None,
    reference: Tensor | None = None,
) -> bool:
    """Whether :func:`summarise_vocabulary` of these would run as a kernel."""
    gain, bias = (None, None) if norm is None else (norm.gain, norm.bias)
    given = [resid, W_U, b_U, gain, bias]
    several = len({part.dtype for part in given if part is not None}) > 1
    refusal = "stream, unembedding and norm are of several dtypes" if several else ""
    return kernel_runs("summary of the vocabulary", [*given, reference], refusal=refusal)


def check_reference(resid: Tensor, W_U: Tensor, tokens: Tensor, reference: Tensor | None) -> None:
    """Raise :class:`KernelError` where the reference's logits do not fit."""
    expected = (len(tokens), resid.shape[1], W_U.shape[1])
    if reference is not None and reference.shape != expected:
        raise KernelError(
            f"got reference logits {tuple(reference.shape)}; expected {expected}: a prompt's for every set of "
            "tokens, at every column read, over the whole vocabulary."
        )
