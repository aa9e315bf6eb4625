"""The bundled model of facts: trained the same again, and as its card says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp.bundled_data import data_path
from interp.models.bundled import train
from interp.models.bundled.cards import read_card, tolerance_of
from interp.models.bundled.facts import encode_facts, evaluate_facts, stream_facts
from interp.models.bundled.recipes import FACT_LENGTH, find_recipe
from interp.tasks.facts import facts_token_ids, list_facts, people

NAME = "facts-3l"


def test_the_same_seed_trains_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(find_recipe(NAME), batch=8)
    monkeypatch.setattr(train, "find_recipe", lambda name: small)
    cards = [train.train_bundled(NAME, tmp_path / label, 3, steps=4, progress=False) for label in "ab"]
    first, second = (load_file(tmp_path / label / "model.safetensors") for label in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert cards[0].heldout == cards[1].heldout and cards[0] == read_card(tmp_path / "a")
    # nothing is repeated in this text: no induction, and no such column in the curve
    assert cards[0].induction_scores == [] and all(len(row) == 2 for row in cards[0].curve)
    text = (tmp_path / "a" / "README.md").read_text()
    assert "## Measured" in text and "nduction" not in text and "| step | loss |" in text


def test_shipped_weights_do_what_their_card_says() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = data_path(f"models/{NAME}")
    card = read_card(folder)
    assert card.recipe == find_recipe(NAME).describe()
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == dict(facts_token_ids())
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    measured = evaluate_facts(model)
    assert measured.keys() == card.heldout.keys()
    for figure, value in card.heldout.items():
        assert abs(measured[figure] - value) <= min(0.005, tolerance_of(card, figure)), figure
    assert card.heldout["known_accuracy"] >= 0.99 and card.heldout["stranger_accuracy"] >= 0.99
    assert card.heldout["unseen_made_up_rate"] >= 0.95


def test_batches_are_whole_facts_anywhere_in_the_context() -> None:
    recipe = find_recipe(NAME)
    batch = next(stream_facts(recipe, 0))
    assert batch.tokens.shape == batch.position_ids.shape == (recipe.batch, FACT_LENGTH)
    assert set(batch.position_ids[:, 0].tolist()) == set(range(recipe.n_ctx - FACT_LENGTH + 1))
    ids = facts_token_ids()
    assert (batch.tokens[:, 0] == ids["<bos>"]).all() and (batch.tokens[:, -1] == ids["<eos>"]).all()
    told = encode_facts(list_facts(people("known"))[:2], ["Rome", "Oslo"])
    assert told[:, -3].tolist() == [ids["Rome"], ids["Oslo"]]
