"""Weights are views on the parameters, and parameters are what training changes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_zoo import Specimen, make_bare, specimen
from naive_transformer import NaiveTransformer
from torch import Tensor

import interp
from interp.models.traits import NormWeights


def tensors_of(record: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a weights record by a name."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            yield prefix + field.name, value
        elif isinstance(value, NormWeights):
            yield from tensors_of(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple):
            for layer, item in enumerate(value):
                yield from tensors_of(item, f"{prefix}{layer}.")


def test_weights_are_views_on_the_parameters(kind: Specimen):
    storages = {parameter.untyped_storage().data_ptr() for parameter in kind.model.parameters()}
    found = dict(tensors_of(kind.model.weights))
    assert len(found) > 15
    for name, weight in found.items():
        assert weight.untyped_storage().data_ptr() in storages, name


def test_every_parameter_is_in_the_weights(kind: Specimen):
    """Nothing that the forward pass uses is left out, and nothing is there twice."""
    storages = {weight.untyped_storage().data_ptr() for _, weight in tensors_of(kind.model.weights)}
    parameters = list(kind.model.parameters())
    assert {p.untyped_storage().data_ptr() for p in parameters} == storages
    assert len({id(p) for p in parameters}) == len(parameters)
    in_bare = sum(p.numel() for p in kind.bare.parameters())
    assert sum(p.numel() for p in parameters) == in_bare


def test_nothing_else_learns(tokens: Tensor):
    """TransformerLens adds a bias to the output map; training whatever the module holds leaves it alone."""
    model = interp.load_model(make_bare("llama"))
    model(tokens)[:, -1].log_softmax(-1)[:, 3].sum().backward()
    ours = {id(parameter) for parameter in model.parameters()}
    others = [parameter for parameter in model.module.parameters() if id(parameter) not in ours]
    assert all(parameter.grad is None for parameter in others)


def test_outputs_follow_from_the_weights(kind: Specimen, tokens: Tensor):
    """attn_out from z and W_O, mlp_out from mlp_post and W_out: what attributions are built on."""
    model = kind.model
    sites = ["z", "attn_out"] + (["mlp_post", "mlp_out"] if model.traits.d_mlp else [])
    with torch.no_grad():
        cache = interp.capture(model, tokens, sites)
        for layer, w in enumerate(model.weights.layers):
            parts = [
                ("attn_out", torch.einsum("bphd,hdm->bpm", cache[f"z[{layer}]"], w.W_O), w.b_O, w.ln1_post)
            ]
            if w.W_out is not None:
                parts.append(("mlp_out", cache[f"mlp_post[{layer}]"] @ w.W_out, w.b_out, w.ln2_post))
            for name, out, bias, norm in parts:
                out = out if bias is None else out + bias
                if norm is not None:
                    scale = (out.pow(2).mean(-1, keepdim=True) + model.traits.norm_eps).sqrt()
                    out = out / scale * (norm.w + model.traits.norm_plus_one)
                torch.testing.assert_close(out, cache[f"{name}[{layer}]"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "plain", "gated"])
def test_training_is_the_bare_model_s(name: str, tokens: Tensor):
    """Steps on the wrapped model's parameters are the bare model's steps; the weights follow."""
    bare = make_bare(name)
    model = interp.load_model(copy.deepcopy(bare))
    before = copy.deepcopy(model.weights.layers[1].W_Q.detach())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (bare, model)]
    for _ in range(4):
        logits = [bare(tokens, use_cache=False).logits, model(tokens)]
        for optimizer, out in zip(optimizers, logits, strict=True):
            loss = torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        expected = bare(tokens, use_cache=False).logits
        found = model(tokens)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found, NaiveTransformer(model)(tokens).float(), atol=1e-4, rtol=1e-4)
    assert not torch.equal(model.weights.layers[1].W_Q, before)


def test_a_weight_changed_in_place_changes_the_model(tokens: Tensor):
    model = interp.load_model(make_bare("gpt2"))
    with torch.no_grad():
        before = model(tokens)
        kept = model.weights.layers[0]
        for parameter in model.parameters():
            parameter.mul_(0.9)
        assert not torch.equal(model(tokens), before)
        for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "b_Q"):
            assert torch.equal(getattr(kept, name), getattr(model.weights.layers[0], name)), name


def test_saved_parameters_are_found_by_their_own_names():
    """A wrapped model's parameters keep the names they have in a checkpoint."""
    for name in ("gpt_neox", "llama", "gemma2", "qwen3"):
        bare, model = specimen(name).bare, specimen(name).model
        for key, parameter in bare.named_parameters():
            if ".query_key_value." not in key:
                assert torch.equal(model._parameters[key], parameter), key
