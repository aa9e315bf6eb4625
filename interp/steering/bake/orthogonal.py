"""Weight orthogonalisation: no map can write the directions any more (Arditi et al. 2024, arXiv 2406.11717, eq. 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.norms import norm_gain, widen
from interp.models.weight_edits import WeightDraft
from interp.steering.bake.baked import Baked
from interp.steering.operations import ProjectOut, span_of
from interp.steering.steering import Steering, Step
from interp.types import Site


def bake_orthogonal(model: Model, directions: Float[Tensor, "*k d_model"], *, untie: bool = False) -> Baked:
    """Take directions out of all that writes to the residual stream: tables, ``W_O``, ``W_out`` and their biases.

    The same as :func:`project_writes` by hooks, exact to rounding, and so the same as projecting the
    residual stream everywhere. Not exact where a norm stands between a map and the stream (Gemma 2): there the map
    loses the directions times the norm's gain, so that the stream never has them, but what the norm divides by
    changes with them.

    A table of tokens that also unembeds would lose the directions in reading too; ``untie`` gives the unembedding
    values of its own. Raises :class:`SteeringError` for such a table without it, for zero or dependent
    directions, and for a model without a residual write to edit.
    """
    basis = _basis(model, directions)
    weights, traits = model.weights, model.traits
    if traits.tied_embeddings and not untie:
        raise SteeringError(
            f"{model.name!r} unembeds with its table of tokens: without the directions it would also read otherwise. "
            "Pass untie=True to part them, or project by hooks: project_writes(model, directions)."
        )
    draft = WeightDraft(model, untie=untie)
    with torch.no_grad():
        for table in (weights.W_E, weights.W_pos):
            if table is not None:
                _project(draft.of(table), basis)
        for layer in weights.layers:
            for post, maps in (
                (layer.ln1_post, (layer.W_O, layer.b_O)),
                (layer.ln2_post, (layer.W_out, layer.b_out)),
            ):
                seen = basis if post is None else span_of(basis * norm_gain(post, traits))
                for one in maps:
                    if one is not None:
                        _project(draft.of(one), seen)
    return Baked(
        draft.finish(),
        "orthogonal",
        not traits.post_norms,
        digest_weights(model),
        f"{len(basis)} direction{'s' * (len(basis) > 1)} out of every write",
    )


def project_writes(model: Model, directions: Float[Tensor, "*k d_model"]) -> Steering:
    """What :func:`bake_orthogonal` bakes, by hooks: projected out of the embedding and of every sublayer's output.

    Strength 1 takes the directions out whole. Raises :class:`SteeringError` as it does.
    """
    operation = ProjectOut(_basis(model, directions).cpu())
    sublayers = ("attn_out", "mlp_out") if model.traits.d_mlp else ("attn_out",)
    sites = [Site("resid_pre", 0)]
    sites += [Site(name, layer) for layer in range(model.traits.n_layers) for name in sublayers]
    return Steering(
        tuple(Step(site, operation) for site in sites), "project-writes", model_digest=digest_weights(model)
    )


def _basis(model: Model, directions: Tensor) -> Float[Tensor, "k d_model"]:
    if directions.ndim not in (1, 2) or directions.shape[-1] != model.traits.d_model:
        raise SteeringError(
            f"directions of the residual stream are [d_model] or [k, d_model] with d_model = {model.traits.d_model}; "
            f"got {list(directions.shape)}."
        )
    return widen(span_of(widen(directions.detach()))).to(model.device)


def _project(values: Float[Tensor, "*rest d_model"], basis: Float[Tensor, "k d_model"]) -> None:
    wide = values.double()
    along = basis.double()
    values.copy_(wide - (wide @ along.T) @ along)
