"""The bundled coders: what their cards say is so, and their recipes give the same coder again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import interp
from interp.bundled_data import data_path
from interp.coders.bundled.cards import CARD_FILE, read_coder_card, write_coder_card
from interp.coders.bundled.figures import count_by_head, match_card_attributes, measure_figures
from interp.coders.bundled.recipes import CODER_RECIPES, find_coder_recipe
from interp.coders.bundled.train import train_bundled_coders
from interp.errors import CoderError, DataFileError
from interp.models.model import Model

NAMES = sorted(CODER_RECIPES)
QUICK = {"tokens": 3000, "heldout_rows": 4, "progress": False}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: interp.load_model(name) for name in ("mix-4l", "induction-2l")}


def test_every_recipe_has_a_coder_and_every_coder_a_recipe() -> None:
    assert interp.bundled_coders() == tuple(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_coder_is_what_its_card_and_recipe_say(name: str) -> None:
    recipe, coder = CODER_RECIPES[name], interp.load_coder(name)
    card = read_coder_card(data_path(f"coders/{name}"))
    assert card.recipe == recipe.describe() and card.name == name and card.tokens == recipe.tokens
    assert coder.config == recipe.config
    assert (coder.sites, coder.target_sites) == ((card.reads,), (card.predicts,))
    assert coder.metadata["model"] == card.model == recipe.model
    assert interp.load_coder(f"{recipe.model}/{recipe.reads}").sites == coder.sites
    text = (data_path(f"coders/{name}") / "README.md").read_text(encoding="utf-8")
    assert card.command in text and f"{card.heldout['fresh text']['fvu']:.4f}" in text


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_a_card_hold_on_other_text(name: str, models: dict[str, Model]) -> None:
    card = read_coder_card(data_path(f"coders/{name}"))
    found = measure_figures(models[card.model], interp.load_coder(name), rows=24, seed=7)
    said = card.heldout["fresh text"]
    for figure in ("l0", "fvu"):
        assert abs(found[figure] - said[figure]) < card.tolerance[figure], figure
    for figure in ("ce_recovered", "kl_recovered"):
        assert abs(found[figure][0] - said[figure][0]) < card.tolerance[figure], figure
    # of so little text more latents are silent
    assert found["dead_frac"] >= said["dead_frac"] - card.tolerance["dead_frac"]


def test_figures_of_a_card_are_those_of_its_own_text(models: dict[str, Model]) -> None:
    name = "mix-4l/mlp_out-3-topk"
    coder, card = interp.load_coder(name), read_coder_card(data_path(f"coders/{name}"))
    found = measure_figures(models["mix-4l"], coder, card.heldout_rows)
    for figure, value in card.heldout["fresh text"].items():
        assert found[figure] == pytest.approx(value, abs=2e-3), figure


def test_attributes_of_a_card_hold_on_its_own_text(models: dict[str, Model]) -> None:
    name = "mix-4l/mlp_out-2-topk"
    found = match_card_attributes(models["mix-4l"], interp.load_coder(name))
    said = read_coder_card(data_path(f"coders/{name}")).attributes
    assert found.keys() == said.keys()
    for target, row in found.items():
        assert row == pytest.approx(said[target], abs=0.02), target


def test_latents_of_heads_are_counted_once(models: dict[str, Model]) -> None:
    name = "induction-2l/z-1-topk"
    coder, card = interp.load_coder(name), read_coder_card(data_path(f"coders/{name}"))
    counted = count_by_head(models["induction-2l"], coder, rows=card.heldout_rows)
    assert counted == card.latents_by_head and len(counted) == 4
    dead = card.heldout["fresh text"]["dead_frac"]
    assert sum(counted) == round((1 - dead) * coder.d_sae)


def test_the_same_weights_again_alone_or_beside_others(tmp_path: Path) -> None:
    one, other = "mix-4l/mlp_in-1-skip-transcoder", "mix-4l/resid_post-2-topk"
    before = torch.get_num_threads()
    cards = {
        "pair": train_bundled_coders([other, one], tmp_path / "pair", **QUICK)[one],
        "alone": train_bundled_coders([one], tmp_path / "alone", **QUICK)[one],
    }
    assert torch.get_num_threads() == before
    weights = [interp.load_coder(tmp_path / run / one).state_dict() for run in cards]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert cards["pair"].heldout == cards["alone"].heldout
    assert (cards["pair"].together, cards["alone"].together) == (2, 1)
    assert read_coder_card(tmp_path / "alone" / one) == cards["alone"]
    assert "side by side with 1 other," in (tmp_path / "pair" / one / "README.md").read_text()
    assert cards["alone"].command.endswith(f"{one} --out DIR --tokens 3000")
    start = interp.load_coder(tmp_path / "alone" / one).W_dec
    assert not torch.equal(start, interp.load_coder(one).W_dec)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=r"did you mean 'mix-4l/mlp_out-2-topk'"):
        find_coder_recipe("mix-4l/mlp_out-2-topk ")
    with pytest.raises(CoderError, match="name coders to train, some of mix-4l/"):
        train_bundled_coders([], tmp_path)
    with pytest.raises(CoderError, match="unknown bundled coder 'mix-4l'"):
        train_bundled_coders(["mix-4l"], tmp_path)
    with pytest.raises(CoderError, match="tokens must be a positive integer"):
        train_bundled_coders([NAMES[0]], tmp_path, tokens=0, progress=False)
    assert not list(tmp_path.iterdir())


def test_cards_that_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no card at"):
        read_coder_card(tmp_path)
    card = read_coder_card(data_path(f"coders/{NAMES[0]}"))
    other = replace(card, k=None, curve=[[1.0, 2.0, float("nan"), 0.0]])
    write_coder_card(other, tmp_path)
    assert read_coder_card(tmp_path).curve == [[1.0, 2.0, None, 0.0]]
    (tmp_path / CARD_FILE).write_text('{"name": "x"}')
    with pytest.raises(DataFileError, match="not a coder's card of this version"):
        read_coder_card(tmp_path)
