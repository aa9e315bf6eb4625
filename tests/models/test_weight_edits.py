"""Edits of weights, put in and taken out bit for bit, and whole models written with them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from model_zoo import HOOKED, NAMES, specimen
from tiny_models import make_hf_model
from word_tokenizer import make_tokenizer

import interp
from interp.errors import ModelError
from interp.models.save import save_model
from interp.models.weight_edits import WeightDraft, WeightEdits, hold_edits

EVERY = [pytest.param(name, marks=pytest.mark.hooked_transformer if name in HOOKED else ()) for name in NAMES]
SAVED = [name for name in NAMES if name not in HOOKED]


def logits(model) -> torch.Tensor:
    tokens = torch.randint(0, model.traits.d_vocab, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize("name", EVERY)
def test_views_of_a_draft_are_the_weights_and_change_nothing_yet(name: str) -> None:
    model = specimen(name).model
    weights, before = model.weights, logits(model)
    draft = WeightDraft(model)
    layer = weights.layers[1]
    parts = [
        weights.W_E,
        weights.W_U,
        layer.W_O,
        layer.W_V,
        layer.b_O,
        layer.W_out,
        layer.b_out,
        weights.W_pos,
    ]
    for weight in (part for part in parts if part is not None):
        view = draft.of(weight)
        assert view.shape == weight.shape and torch.equal(view, weight)
        assert view.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    with torch.no_grad():
        draft.of(layer.W_O)[1, 2, 3] = 7.0
    assert torch.equal(logits(model), before)
    edits = draft.finish()
    with hold_edits(model, edits):
        assert model.weights.layers[1].W_O[1, 2, 3].item() == 7.0
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", EVERY)
def test_added_biases_are_there_only_inside(name: str) -> None:
    model = specimen(name).model
    before, names = logits(model), set(model.named_weights())
    draft = WeightDraft(model)
    layer = model.weights.layers[0]
    vector = torch.linspace(-1, 1, model.traits.d_model)
    bias = draft.of(layer.b_O) if layer.b_O is not None else draft.bias_beside(layer.W_O, vector)
    with torch.no_grad():
        bias += vector
    old = torch.zeros_like(vector) if layer.b_O is None else layer.b_O.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), hold_edits(model, draft.finish()):
        torch.testing.assert_close(model.weights.layers[0].b_O, old + vector)
        assert (logits(model) - before).abs().max() > 1e-3
        raise RuntimeError("stop")
    assert torch.equal(logits(model), before) and set(model.named_weights()) == names


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "qwen3_biased", "no_norm"])
def test_an_untied_unembedding_keeps_its_values(name: str) -> None:
    model = specimen(name).model
    assert model.traits.tied_embeddings
    before, table = logits(model), model.weights.W_U.detach().clone()
    draft = WeightDraft(model, untie=True)
    assert draft.unembedding is not None and torch.equal(draft.unembedding, table)
    with torch.no_grad():
        draft.of(model.weights.W_E).mul_(1.5)
    with hold_edits(model, draft.finish()):
        assert torch.equal(model.weights.W_U, table) and torch.equal(model.weights.W_E, 1.5 * table.T)
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)
    assert model.weights.W_U.data_ptr() == model.weights.W_E.data_ptr()


def test_edits_of_another_model_are_refused() -> None:
    model = specimen("llama").model
    name = "model.layers.0.mlp.down_proj.weight"
    for edits, said in (
        (WeightEdits({name: torch.zeros(2)}, {}), "shape"),
        (WeightEdits({"x.weight": torch.zeros(2)}, {}), "no such parameter"),
        (WeightEdits({}, {"model.x.bias": torch.zeros(2)}), "no place for"),
    ):
        with pytest.raises(ModelError, match=said), hold_edits(model, edits):
            pass
    with pytest.raises(ModelError, match="no view on a parameter"):
        WeightDraft(model).of(torch.zeros(3))


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = specimen(name).model
    draft = WeightDraft(model)
    with torch.no_grad():
        draft.of(model.weights.layers[0].W_O).mul_(1.25)
    with hold_edits(model, draft.finish()):
        edited = logits(model)
        save_model(model, tmp_path)
    again = interp.load_model(tmp_path, tokenizer=object())
    torch.testing.assert_close(logits(again), edited, atol=1e-6, rtol=1e-6)
    assert again.traits == model.traits


@pytest.mark.parametrize("name", ["llama", "attention_only", "qwen3"])
def test_added_biases_are_saved_where_the_files_can_hold_them(name: str, tmp_path: Path) -> None:
    model = specimen(name).model
    draft = WeightDraft(model)
    layer = model.weights.layers[0]
    with torch.no_grad():
        draft.bias_beside(layer.W_O, torch.ones(model.traits.d_model)).add_(0.5)
    with hold_edits(model, draft.finish()):
        edited = logits(model)
        save_model(model, tmp_path / "attention")
    again = interp.load_model(tmp_path / "attention", tokenizer=object())
    torch.testing.assert_close(logits(again), edited, atol=1e-6, rtol=1e-6)
    if name == "qwen3":
        draft = WeightDraft(model)
        draft.bias_beside(layer.W_out, torch.ones(model.traits.d_model))
        with (
            hold_edits(model, draft.finish()),
            pytest.raises(ModelError, match=r"no place for .*down_proj\.bias"),
        ):
            save_model(model, tmp_path / "mlp")
        assert not (tmp_path / "mlp").exists()


def test_untied_and_tokenised(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model = interp.load_model(make_hf_model("llama", tie_word_embeddings=True), tokenizer)
    config = copy.deepcopy(model.module.config)
    draft = WeightDraft(model, untie=True)
    with torch.no_grad():
        draft.of(model.weights.W_E).mul_(2)
    with hold_edits(model, draft.finish()):
        edited = logits(model)
        save_model(model, tmp_path)
    again = interp.load_model(tmp_path)
    assert not again.traits.tied_embeddings and again.tokenizer.get_vocab() == tokenizer.get_vocab()
    torch.testing.assert_close(logits(again), edited, atol=1e-6, rtol=1e-6)
    # the model's own config is not touched
    assert model.module.config.to_dict() == config.to_dict()


def test_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    model = specimen("gpt_neox").model
    draft = WeightDraft(model)
    with torch.no_grad():
        # a copy of a part of the fused map, which files do not hold
        draft.of(model.weights.layers[0].W_V).mul_(3)
    with hold_edits(model, draft.finish()), pytest.raises(ModelError, match="other logits"):
        save_model(model, tmp_path)
    with interp.intervene(model, [interp.zero("z[0.0]")]), pytest.raises(ModelError, match="intervened on"):
        save_model(model, tmp_path)


@pytest.mark.hooked_transformer
def test_a_hooked_transformer_has_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="state_dict"):
        save_model(specimen("hooked").model, tmp_path)
