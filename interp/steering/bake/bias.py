"""Adding a vector, as a bias: what a map writes at every token is shifted by a constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.norms import widen
from interp.models.sites import tap
from interp.models.weight_edits import WeightDraft
from interp.steering.bake.baked import Baked
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import Site


def bake_bias(
    model: Model,
    steering: Steering,
    dose: float | None = None,
    *,
    strength: float | None = None,
    untie: bool = False,
    any_model: bool = False,
) -> Baked:
    """The same as the steering by hooks, as biases: exact to rounding.

    Every step must add a vector at every token, ungated, in ``resid_pre``, ``resid_mid``, ``resid_post``,
    ``attn_out``, ``mlp_out``, ``z``, ``mlp_post`` or ``embed``; ``resid_post`` is the output bias of that layer's
    last sublayer, ``resid_pre[0]`` the table of positions, or of tokens. A map without a bias gets one:
    Llama's files can hold it, those of Qwen 3 and Gemma 2 not (``installed`` works). ``untie`` lets the table of
    tokens change where it is also the unembedding, which keeps its values.

    Give ``dose`` or ``strength`` as for :meth:`Steering.apply`. Raises :class:`SteeringError` for steps that no
    bias can say, and for a model of other weights unless ``any_model``.
    """
    if (dose is None) == (strength is None):
        raise SteeringError("give one of dose and strength.")
    digest = digest_weights(model)
    if not any_model and steering.model_digest not in (None, digest):
        raise SteeringError(
            f"{steering!r} was made for other weights; pass any_model=True to bake it all the same."
        )
    found = steering.strength_for(dose) if dose is not None else strength
    amount = float(found) if found is not None else 0.0
    if not math.isfinite(amount):
        raise SteeringError(f"the strength is finite; got {amount}.")
    for step in steering.steps:
        _check_step(model, step)
    draft = WeightDraft(model, untie=untie and any(_is_first(step.site, model) for step in steering.steps))
    with torch.no_grad():
        for step in steering.steps:
            assert isinstance(step.operation, Add)
            vector = step.operation.vector * (amount * step.weight)
            _HOMES[step.site.component](draft, model, step.site, widen(vector).to(model.device))
    return Baked(draft.finish(), "bias", True, digest, f"{steering.method}, strength {amount:g}")


def _check_step(model: Model, step: Step) -> None:
    site = step.site
    why = None
    if not isinstance(step.operation, Add):
        why = f"{step.operation.kind} is no addition; bake_orthogonal bakes projections"
    elif step.gate is not None or step.where is not None:
        why = "a gate or a rule decides where it acts, weights act everywhere"
    elif site.positions is not None or site.rows is not None:
        why = "it acts on some tokens only, weights act on all; take steering.at()"
    elif site.neurons is not None or site.component not in _HOMES:
        why = f"there is no bias of {site}; take one of {', '.join(_HOMES)}"
    if why is not None:
        raise SteeringError(f"{step} cannot become a bias: {why}. Or steer by hooks.")
    assert isinstance(step.operation, Add)
    layer = 0 if site.layer is None else site.layer
    tap(model.family, model.traits, site.component, layer)
    t = model.traits
    heads = t.n_heads if site.head is None else 1
    wanted = {"z": heads * t.d_head, "mlp_post": t.d_mlp}.get(site.component, t.d_model)
    if step.operation.d != wanted or layer >= t.n_layers:
        raise SteeringError(
            f"{step} is of {step.operation.d} entries; {model.name!r} has {t.n_layers} layers and {wanted} there."
        )


def _is_first(site: Site, model: Model) -> bool:
    """Whether it lies before all blocks, in the table of tokens."""
    first = site.component == "embed" or (site.component == "resid_pre" and site.layer == 0)
    return first and model.weights.W_pos is None


def _add_to_attention(
    draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d_model"]
) -> None:
    _refuse_post_norm(model, site)
    _shift(draft, model, site.layer or 0, "O", vector)


def _add_to_mlp(draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d_model"]) -> None:
    _refuse_post_norm(model, site)
    _shift(draft, model, site.layer or 0, "out" if model.traits.d_mlp else "O", vector)


def _add_before(draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d_model"]) -> None:
    if site.layer:
        _refuse_post_norm(model, site)
        _shift(draft, model, site.layer - 1, "out" if model.traits.d_mlp else "O", vector)
        return
    _add_to_tables(draft, model, site, vector)


def _add_to_tables(draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d_model"]) -> None:
    weights, traits = model.weights, model.traits
    if weights.W_pos is not None:
        _add_into(draft.of(weights.W_pos), vector)
        return
    if traits.tied_embeddings and draft.unembedding is None:
        raise SteeringError(
            f"{site} is the table of tokens, which {model.name!r} also unembeds with; pass untie=True to part them."
        )
    _add_into(draft.of(weights.W_E), vector / traits.embed_scale)


def _add_to_heads(draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d"]) -> None:
    W_O = widen(model.weights.layers[site.layer or 0].W_O)
    chosen = W_O if site.head is None else W_O[site.head : site.head + 1]
    _shift(draft, model, site.layer or 0, "O", vector @ chosen.flatten(0, 1))


def _add_to_neurons(draft: WeightDraft, model: Model, site: Site, vector: Float[Tensor, " d_mlp"]) -> None:
    W_out = model.weights.layers[site.layer or 0].W_out
    assert W_out is not None
    _shift(draft, model, site.layer or 0, "out", vector @ widen(W_out))


_HOMES: Mapping[str, Callable[[WeightDraft, Model, Site, Tensor], None]] = {
    "resid_pre": _add_before,
    "resid_mid": _add_to_attention,
    "resid_post": _add_to_mlp,
    "attn_out": _add_to_attention,
    "mlp_out": _add_to_mlp,
    "z": _add_to_heads,
    "mlp_post": _add_to_neurons,
    "embed": _add_to_tables,
}
"""Component -> what writes a vector added there into the weights."""


def _shift(
    draft: WeightDraft, model: Model, layer: int, which: str, vector: Float[Tensor, " d_model"]
) -> None:
    """Add to the output bias of a layer's attention (``"O"``) or MLP (``"out"``)."""
    weights = model.weights.layers[layer]
    matrix, bias = getattr(weights, f"W_{which}"), getattr(weights, f"b_{which}")
    _add_into(
        draft.of(bias) if bias is not None else draft.bias_beside(matrix, vector.to(matrix.dtype)), vector
    )


def _add_into(values: Float[Tensor, "*rest d"], vector: Float[Tensor, " d"]) -> None:
    values.copy_(widen(values) + vector)


def _refuse_post_norm(model: Model, site: Site) -> None:
    if model.traits.post_norms:
        raise SteeringError(
            f"{site} comes after a norm that has no bias in {model.name!r} ({model.traits.family}); take z or "
            "mlp_post, before the norm, or steer by hooks."
        )
