"""Value vectors: what each MLP neuron writes, read through the unembedding, and clusters of them clamped.

Geva et al. 2022, "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space"
(arXiv 2203.14680): the output column of a neuron, times the unembedding, promotes tokens that name it; setting
neurons of one concept steers without any prompts. Known shortcomings: a column is read as if nothing stood between it
and the logits, so what later layers make of it is not seen; and only the side above 0 is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.norms import centre, norm_gain, widen
from interp.results.provenance import Provenance
from interp.results.value_vectors import ValueVectors
from interp.steering.extract.random_neurons import draw_other_neurons
from interp.steering.operations import SetNeurons
from interp.steering.steering import Steering, Step
from interp.types import Site

Words = Sequence[str] | Sequence[int] | Int[Tensor, " token"]
"""Tokens, as ids or as texts that are one token each."""


def written_vectors(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """What each neuron of a layer adds to the residual stream when it is 1, up to a scale of the whole.

    Its output column; where a norm stands behind the MLP (Gemma 2) with that norm's gain, its scale left out.
    Raises :class:`SteeringError` for a layer without an MLP.
    """
    if not 0 <= layer < model.traits.n_layers:
        raise SteeringError(f"the model has layers 0 to {model.traits.n_layers - 1}; got {layer}.")
    weights = model.weights.layers[layer]
    if weights.W_out is None:
        raise SteeringError(f"layer {layer} of {model.name!r} has no MLP, and so no value vectors.")
    columns = widen(weights.W_out.detach())
    if weights.ln2_post is None:
        return columns
    return centre(columns, model.traits) * norm_gain(weights.ln2_post, model.traits)


def project_value_vectors(model: Model, layer: int) -> Float[Tensor, "d_mlp d_vocab"]:
    """Logits that each neuron of a layer adds when it is 1: its value vector through the unembedding.

    The final norm's centring and gain are folded in exactly; its scale, which differs from token to
    token, is left out, and so are its bias, the unembedding's and a soft cap, which no neuron
    moves. Raises :class:`SteeringError` for a layer without an MLP.
    """
    weights, traits = model.weights, model.traits
    vectors = written_vectors(model, layer)
    if traits.norm is not None:
        vectors = centre(vectors, traits) * norm_gain(weights.ln_final, traits)
    return (vectors @ widen(weights.W_U.detach())).detach()


def find_value_vectors(
    model: Model,
    target: Words,
    *,
    against: Words | None = None,
    k: int = 20,
    layers: Sequence[int] | None = None,
    n_tokens: int = 8,
) -> ValueVectors:
    """The ``k`` neurons of all ``layers`` whose value vectors promote the ``target`` tokens most.

    A neuron's score is the mean of its target tokens, in standard deviations of its logits over the vocabulary: it does
    not depend on how long the vector is. The mean of tokens ``against`` is taken off, which leaves out neurons that
    promote both. Logits as :func:`project_value_vectors`. Raises :class:`SteeringError` for targets that
    are no single tokens, and numbers out of range.
    """
    ids = read_words(model, target)
    others = None if against is None else read_words(model, against)
    traits = model.traits
    chosen = list(range(traits.n_layers)) if layers is None else list(layers)
    if not chosen:
        raise SteeringError("give at least one layer to find value vectors in; got none.")
    if not 1 <= k <= len(chosen) * traits.d_mlp or not 1 <= n_tokens <= traits.d_vocab:
        raise SteeringError(
            f"k lies in 1..{len(chosen) * traits.d_mlp} and n_tokens in 1..{traits.d_vocab}; got {k} and {n_tokens}."
        )
    if len(set(chosen)) < len(chosen):
        raise SteeringError(f"layers are to be different ones; got {chosen}.")
    best = [_best_of_layer(model, layer, ids, others, k, n_tokens) for layer in chosen]
    layer, neuron, score, norm, tokens, values = (torch.cat(parts).cpu() for parts in zip(*best, strict=True))
    order = score.argsort(descending=True, stable=True)[:k]
    return ValueVectors(
        layer=layer[order],
        neuron=neuron[order],
        score=score[order],
        norm=norm[order],
        token_ids=tokens[order],
        token_scores=values[order],
        tokens=tuple(tuple(model.to_str_tokens(row)) for row in tokens[order]),
        target=tuple(model.to_str_tokens(ids)),
        against=() if others is None else tuple(model.to_str_tokens(others)),
        d_mlp=traits.d_mlp,
        provenance=Provenance(
            model=model.name,
            family=traits.family,
            revision=model.revision,
            task="value vectors",
            method="unembedding",
            dtype=str(model.dtype).removeprefix("torch."),
        ),
    )


def _best_of_layer(
    model: Model,
    layer: int,
    ids: Int[Tensor, " token"],
    against: Int[Tensor, " other"] | None,
    k: int,
    n_tokens: int,
) -> tuple[Tensor, ...]:
    """Layer, neuron, score, norm [neuron], top tokens and their scores [neuron, rank] of up to ``k`` neurons."""
    logits = project_value_vectors(model, layer)
    spread = logits.std(1, keepdim=True)
    # a column of zeros writes nothing, and scores nothing
    scores = (logits - logits.mean(1, keepdim=True)) / torch.where(spread > 0, spread, 1.0)
    score = scores[:, ids.to(scores.device)].mean(1)
    if against is not None:
        score = score - scores[:, against.to(scores.device)].mean(1)
    neurons = score.argsort(descending=True, stable=True)[:k]
    values, tokens = scores[neurons].topk(n_tokens, dim=1)
    norm = written_vectors(model, layer)[neurons].norm(dim=1)
    return torch.full_like(neurons, layer), neurons, score[neurons], norm, tokens, values


def clamp_neurons(model: Model, found: ValueVectors, value: float) -> Steering:
    """A steering that sets these neurons to ``value`` at every token, a step a layer; its dose is not calibrated."""
    return _clamp(model, {layer: found.in_layer(layer) for layer in _layers(found)}, value, "value-vectors")


def clamp_random(model: Model, found: ValueVectors, value: float, seed: int = 0) -> Steering:
    """The control: as many other neurons of the same layers, drawn at random, set to the same value.

    Raises :class:`SteeringError` where a layer has too few others.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        layer: draw_other_neurons(found.in_layer(layer), found.d_mlp, generator) for layer in _layers(found)
    }
    return _clamp(model, drawn, value, "random-neurons")


def _layers(found: ValueVectors) -> list[int]:
    return sorted(set(found.layer.tolist()))


def _clamp(model: Model, neurons: dict[int, Tensor], value: float, method: str) -> Steering:
    steps = tuple(
        Step(
            Site("mlp_post", layer=layer),
            SetNeurons(chosen, torch.full((len(chosen),), float(value)), model.traits.d_mlp),
        )
        for layer, chosen in neurons.items()
    )
    return Steering(steps, method, model_digest=digest_weights(model))


def read_words(model: Model, words: Words) -> Int[Tensor, " token"]:
    """Ids of tokens given as ids or texts, each once. Raises :class:`SteeringError` for what is no single token."""
    if isinstance(words, str):
        raise SteeringError(f"give a list of words, such as [{words!r}]; a text alone would be its letters.")
    if not len(words):
        raise SteeringError("give at least one target token.")
    listed: list[str | int] = words.tolist() if isinstance(words, Tensor) else list(words)
    found = [_read_word(model, word) for word in listed]
    if len(set(found)) < len(found):
        raise SteeringError(f"target tokens are to be different ones; got {listed}.")
    return torch.tensor(found)


def _read_word(model: Model, word: str | int) -> int:
    if isinstance(word, str):
        ids = model.to_tokens(word, prepend_bos=False)[0].tolist()
        unknown = getattr(model.tokenizer, "unk_token_id", None)
        if len(ids) != 1 or (ids[0] == unknown and word != model.tokenizer.unk_token):
            raise SteeringError(
                f"{word!r} is no single token that {model.name!r} knows (it reads {ids}); give ids, or words that are "
                "one token (often with the space before them)."
            )
        return int(ids[0])
    if not 0 <= word < model.traits.d_vocab:
        raise SteeringError(f"token ids lie in 0..{model.traits.d_vocab - 1}; got {word}.")
    return int(word)
